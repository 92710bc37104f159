"""Documented names of earlier versions still work and say where their code is now."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from lare.experiments.replaced import REPLACED
from lare.moved import MOVED


@pytest.mark.parametrize("old", [name for name in MOVED if name.startswith("lare.training")])
def test_an_old_name_is_the_new_module(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=MOVED[old]):
        assert importlib.import_module(old) is importlib.import_module(MOVED[old])


@pytest.mark.parametrize("old", [*REPLACED, "lare.training.sweep"])
def test_a_replaced_command_says_what_to_use(old: str) -> None:
    done = subprocess.run([sys.executable, "-m", old, "--seeds", "0"], capture_output=True, text=True)
    assert done.returncode == 2
    (grid,) = re.findall(r"lare experiments run (\S+)", done.stderr)
    assert (Path(__file__).parents[1] / grid).is_file()


def test_an_old_command_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As ``python -m`` runs it, in this process, whose imports are done."""
    sys.modules.pop("lare.training.sizes", None)
    monkeypatch.setattr(sys, "argv", ["sizes", "--help"])
    with (
        pytest.warns(FutureWarning, match="lare.training.sizes is now lare.cost.sizes"),
        pytest.raises(SystemExit) as end,
    ):
        runpy.run_module("lare.training.sizes", run_name="__main__", alter_sys=True)
    assert end.value.code == 0 and "CONFIG.yaml" in capsys.readouterr().out
