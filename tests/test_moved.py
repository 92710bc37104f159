"""Documented names of earlier versions still work and say where their code is now."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from lare.moved import MOVED


@pytest.mark.parametrize("old", [name for name in MOVED if name.startswith("lare.training")])
def test_an_old_name_is_the_new_module(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=MOVED[old]):
        assert importlib.import_module(old) is importlib.import_module(MOVED[old])


def test_an_old_command_runs() -> None:
    words = [sys.executable, "-m", "lare.training.sizes", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "CONFIG.yaml" in done.stdout
    assert "lare.training.sizes is now lare.cost.sizes" in done.stderr
