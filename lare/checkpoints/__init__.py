"""Checkpoints with a short name: those that ship with the package, and those that other packages register.

A package registers one as an entry point ``lare.checkpoints`` whose object is the folder's path (see `lare.registry`).
A folder may hold adapters alone and name their base (`lare.model.base_weights`); ``lare export`` makes such a folder.
"""

from __future__ import annotations

from pathlib import Path

from lare.errors import LareError
from lare.registry import CHECKPOINTS

__all__ = ["default_checkpoint", "shipped_checkpoints"]


def shipped_checkpoints() -> dict[str, Path]:
    """Folders of the models that come with LaRe or are registered, by name; ``embedded`` is the default."""
    home = Path(__file__).parent
    own = {path.parent.name: path.parent for path in sorted(home.glob("*/config.json"))}
    return {name: Path(CHECKPOINTS.get(name)) for name in CHECKPOINTS.names()} | own


def default_checkpoint() -> Path:
    """Folder of the shipped embedded model.

    Raises:
        LareError: the installation lacks it; the message names the command that makes it.
    """
    folder = Path(__file__).parent / "embedded"
    if not (folder / "model.safetensors").is_file():
        raise LareError(
            f"the embedded checkpoint is missing at {folder}; reinstall lare, or make one with "
            "`lare train lare/configs/embedded.yaml` and name it with pretrained=runs/embedded/IV/final"
        )
    return folder
