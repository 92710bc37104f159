"""Begin a run with the encoder and the image tokenizer of shipped checkpoints instead of training them again.

``python -m lare.embedded.parts --out runs/embedded`` writes what ``lare train lare/configs/embedded.yaml`` makes before
its first stage, 25 minutes of two cores, from ``lare/checkpoints``; the run then goes on from there. Both are frozen in
every stage, so a checkpoint holds them as they were trained.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lare.commands import command, command_parser
from lare.embedded.vision_conv import LareVisionModel
from lare.errors import LareError
from lare.files import save_text
from lare.model import LareForConditionalGeneration
from lare.training.saving.state import save_state

__all__ = ["HISTORY", "PARTS", "last_entry", "main", "unpack_parts"]

HISTORY = "parts.json"
"""File of a shipped checkpoint: what each part saw, for how long, and how good it was (its history's last entry)."""
PARTS = ("encoder", "image_tokenizer")
"""Folders of a run that holds them."""
TOKENIZER_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


def last_entry(folder: Path) -> dict[str, Any]:
    """The last entry of a part's ``history.jsonl``.

    Raises:
        LareError: If there is none.
    """
    path = folder / "history.jsonl"
    if not path.is_file():
        raise LareError(f"{str(path)!r} is missing: the run is not finished; go on with lare train --resume RUN")
    found: dict[str, Any] = json.loads(path.read_text("utf8").splitlines()[-1])
    return found


def unpack_parts(checkpoint: Path, drawing: Path, out: Path) -> None:
    """Write ``encoder/`` and ``image_tokenizer/`` of a run, as finished.

    Args:
        checkpoint: A shipped embedded checkpoint.
        drawing: The shipped folder that holds the image tokenizer.
        out: Folder of the run.

    Raises:
        LareError: If the checkpoints lack a part, or the run has parts of its own already.
    """
    for name in PARTS:
        if (out / name).exists():
            raise LareError(f"{str(out / name)!r} is there already; delete it or choose another --out")
    try:
        history = json.loads((checkpoint / HISTORY).read_text("utf8"))
        files = [(drawing / "image_tokenizer" / name).resolve(strict=True) for name in TOKENIZER_FILES]
    except (OSError, ValueError) as error:
        raise LareError(f"no encoder and image tokenizer to take: {error}; give shipped checkpoints") from None
    encoder = LareForConditionalGeneration.from_pretrained(checkpoint).vision_tower.encoder
    if not isinstance(encoder, LareVisionModel):
        raise LareError(f"{str(checkpoint)!r} has no encoder of the embedded world")
    _write(out / "encoder", history["encoder"])
    encoder.save_pretrained(out / "encoder")
    tokenizer = out / "image_tokenizer"
    _write(tokenizer, history["image_tokenizer"])
    for file in files:
        shutil.copyfile(file, tokenizer / file.name)


def _write(folder: Path, entry: dict[str, Any]) -> None:
    """A finished part's state and history: enough to be taken as done, nothing to go on training with."""
    save_state(folder, {}, [], {"step": 0, "seconds": 60.0 * float(entry["minutes"]), "done": True})
    save_text(folder / "history.jsonl", json.dumps(entry))


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Unpack from the command line."""
    example = "example: python -m lare.embedded.parts --out runs/embedded && lare train lare/configs/embedded.yaml"
    parser = command_parser("python -m lare.embedded.parts", __doc__, example)
    home = Path(__file__).parents[1] / "checkpoints"
    parser.add_argument("--checkpoint", type=Path, default=home / "embedded", help="(default: %(default)s)")
    parser.add_argument("--drawing", type=Path, default=home / "embedded_unet", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    args = parser.parse_args(arguments)
    unpack_parts(args.checkpoint, args.drawing, args.out)
    print(f"encoder and image tokenizer: {args.out}; next: lare train lare/configs/embedded.yaml out={args.out}")


if __name__ == "__main__":
    raise SystemExit(main())
