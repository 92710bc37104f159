"""``lare info [CHECKPOINT]``: sizes, parameter counts and settings, without running the model."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lare.cli.loading import resolve_checkpoint
from lare.errors import LareError

__all__ = ["checkpoint_info", "main", "parameter_counts"]

_EPILOG = """examples:
  lare info
  lare info runs/my_run/checkpoint --json
"""
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lare info`` and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="lare info",
        description="Print the sizes, parameter counts and settings of a LaRe checkpoint.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="its folder; default: the embedded one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    info = checkpoint_info(Path(resolve_checkpoint(options.checkpoint)))
    print(json.dumps(info, indent=2) if options.json else _table(info))
    return 0


def checkpoint_info(folder: Path) -> dict[str, Any]:
    """Describe a checkpoint from its config.json and the headers of its weight files.

    Args:
        folder: What ``save_pretrained`` wrote.

    Returns:
        Folder, bytes on disk, parameters (total and by part), the memory in MiB that the weights take as stored, and
        the settings (the config's own fields, without its sub-configs).

    Raises:
        LareError: If the folder holds no readable config.json, is another model's, or has no safetensors weights.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LareError(
            f"{str(folder)!r} holds no readable config.json ({error}); name a checkpoint's folder"
        ) from None
    if not isinstance(config, dict) or config.get("model_type") != "lare":
        found = config.get("model_type") if isinstance(config, dict) else None
        raise LareError(f"{str(folder)!r} is a checkpoint of model type {found!r}, not 'lare'; name a LaRe checkpoint")
    shapes = _tensors(folder)
    return {
        "checkpoint": str(folder),
        "bytes_on_disk": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "parameters": parameter_counts({name: shape for name, (_, shape) in shapes.items()}),
        "weights_mib": round(sum(_count(shape) * _BYTES.get(kind, 4) for kind, shape in shapes.values()) / 2**20, 2),
        "text": _sizes(config.get("text_config", {})),
        "vision": _sizes(config.get("vision_config", {})),
        "settings": {name: value for name, value in sorted(config.items()) if not isinstance(value, dict)},
    }


def parameter_counts(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Count parameters by the first part of their names, and in total.

    Args:
        shapes: Shape by tensor name, such as ``language_model.lm_head.weight``.
    """
    counts: dict[str, int] = defaultdict(int)
    for name, shape in shapes.items():
        part = name.removeprefix("model.").partition(".")[0]
        counts[part] += _count(shape)
    return {"total": sum(counts.values()), **dict(sorted(counts.items()))}


def _tensors(folder: Path) -> dict[str, tuple[str, list[int]]]:
    """Return storage type and shape by tensor name, read from headers alone."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise LareError(f"{str(folder)!r} holds no *.safetensors weights; LaRe loads no other kind")
    tensors: dict[str, tuple[str, list[int]]] = {}
    for file in files:
        try:
            with safe_open(file, framework="np") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a dict)
                    part = opened.get_slice(name)
                    tensors[name] = (part.get_dtype(), part.get_shape())
        except (SafetensorError, OSError) as error:
            raise LareError(f"{str(file)!r} is damaged ({error}); save or download it again") from None
    return tensors


def _count(shape: Sequence[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    wanted = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    return {name: config[name] for name in wanted if name in config}


def _table(info: Mapping[str, Any]) -> str:
    lines = [f"checkpoint  {info['checkpoint']}", f"on disk     {info['bytes_on_disk'] / 2**20:.2f} MiB"]
    lines += [f"weights     {info['weights_mib']:.2f} MiB", "", "parameters"]
    lines += [f"  {part:<24} {count:>15,}" for part, count in info["parameters"].items()]
    for section in ("text", "vision", "settings"):
        lines += ["", section, *(f"  {name:<24} {value}" for name, value in info[section].items())]
    return "\n".join(lines)
