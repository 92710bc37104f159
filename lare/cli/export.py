"""``lare export CHECKPOINT --out FOLDER``: a checkpoint with adapters as a small folder to pass on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lare.commands import command_parser
from lare.errors import LareError
from lare.loading import DTYPES, resolve_checkpoint

if TYPE_CHECKING:
    from lare.model.base_weights import Base

__all__ = ["export", "main"]

_EPILOG = """examples:
  lare export runs/qwen2_5_coder_0_5b/IV/final --out photos
  lare ask photo.jpg "Which animal is it?" --model photos

The folder holds the adapters, projectors and Extractor, and names the pre-trained parts they stand on by their hashes
(base.json); whoever has it brings those by the command that it names, such as lare fetch qwen2.5-coder-0.5b-instruct.
"""
_PLAIN = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
    "stop_heads.safetensors",
    "README.md",
    "LICENSE",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lare export`` and return the exit code."""
    about = "Make a small folder of a checkpoint with adapters, to pass on."
    parser = command_parser("lare export", about, _EPILOG)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint's folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a folder that does not exist yet")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="bfloat16", help="type in which weights are kept (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    base = export(Path(resolve_checkpoint(options.checkpoint)), options.out, options.dtype)
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    print(f"{options.out}: {size:.1f} MB; made on {base.name}, {base.mend}")
    return 0


def export(folder: Path, out: Path, dtype: str = "bfloat16") -> Base:
    """Write the folder; it appears whole or not at all.

    Args:
        folder: A checkpoint's, with a base.
        out: Does not exist yet.
        dtype: One of `DTYPES`: the type in which weights are kept. Loading makes the configuration's of it.

    Returns:
        The base that it names.

    Raises:
        LareError: If the checkpoint holds all its weights, or the folder can't be written.
    """
    from lare.model import LareProcessor
    from lare.model.base_weights import read_base, tokenizer_hash

    base = read_base(folder, {})
    if base is None:
        raise LareError(f"{str(folder)!r} holds all its weights and names no base; only runs with lora can be exported")
    if out.exists():
        raise LareError(f"{str(out)!r} exists; give a folder that does not")
    tokenizer = LareProcessor.from_pretrained(folder).tokenizer
    kept = {"sha256": tokenizer_hash(tokenizer), "longest": int(tokenizer.model_max_length)}
    base = replace(base, tokenizer=kept)
    if base.file:  # where it lies on this machine is nobody else's business
        base = replace(base, text=f"models::{base.file['name']}")
    part = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        _write(folder, part, dtype)
        base.save(part)
        part.chmod(0o755)
        part.rename(out)
    except OSError as error:
        raise LareError(f"{str(out)!r} can't be written ({error}); make room or give another folder") from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return base


def _write(folder: Path, part: Path, dtype: str) -> None:
    """Copy what is plain, and the weights in another type."""
    import torch
    from safetensors.torch import save_file

    from lare.files import open_up
    from lare.model.base_weights import read_own
    from lare.model.shapes import weight_files

    for name in _PLAIN:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, part / name)
    kind = getattr(torch, dtype)
    own = read_own(weight_files(str(folder), {}))
    kept = {name: value.to(kind) if value.is_floating_point() else value for name, value in own.items()}
    save_file(kept, part / "model.safetensors", {"format": "pt"})
    open_up(part / "model.safetensors")
