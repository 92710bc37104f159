"""A grid whose training and asking are replaced by programs of a few milliseconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lare.experiments import work
from tests.experiments.grids import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    train, ask = ([sys.executable, str(tmp_path / f"{name}.py")] for name in ("train", "ask"))
    monkeypatch.setattr(work, "train_command", lambda folder, launcher="": [*train, str(folder), str(made.calls)])
    monkeypatch.setattr(work, "ask_command", lambda request: [*ask, str(request), str(made.calls)])
    return made
