"""The lmms-eval plug-in: every method of `lare.methods` as a model, and the offline tasks `lare_mini`.

Nothing here is imported by `lare`; lmms-eval finds it by the entry point in pyproject.toml.
"""

from pathlib import Path

__all__ = ["TASKS"]

TASKS = Path(__file__).parent / "tasks"
"""Folder of this package's task files: what ``lmms-eval --include_path`` takes."""
