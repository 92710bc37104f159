"""The checkpoints that ship with the package."""

from __future__ import annotations

from pathlib import Path

from lare.errors import LareError

__all__ = ["default_checkpoint", "shipped_checkpoints"]


def shipped_checkpoints() -> dict[str, Path]:
    """Folders of the models that come with LaRe, by name; ``embedded`` is the default."""
    home = Path(__file__).parent
    return {path.parent.name: path.parent for path in sorted(home.glob("*/config.json"))}


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
