"""The option of the command line that names a checkpoint."""

from __future__ import annotations

import argparse

__all__ = ["add_checkpoint_option"]


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint``, also called ``--model``, which defaults to the checkpoint that is shipped with LaRe."""
    parser.add_argument(
        "--checkpoint",
        "--model",
        metavar="FOLDER_OR_HUB_ID",
        help="a LaRe checkpoint, or the name of one shipped with LaRe; default: embedded, a small "
        "one trained on LaRe's embedded world",
    )
