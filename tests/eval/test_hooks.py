"""Messages for data that can't be reached, and which way a failure ends the process."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from lare import LareError
from lare_eval import hooks


def task(name: str | None = "en"):
    return SimpleNamespace(DATASET_PATH="owner/Set", DATASET_NAME=name, config=SimpleNamespace(task="set_dev"))


def test_the_message_names_set_cache_and_ways_out(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    online = str(hooks.unreachable(task(), ConnectionError("no route\nmore")))
    assert "owner/Set (en) of task 'set_dev'" in online and "ConnectionError: no route" in online
    assert "HF_TOKEN" in online and "--tasks lare_mini" in online and "datasets" in online
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = str(hooks.unreachable(task(None), None))
    assert "owner/Set of task" in offline and "set to work offline" in offline


@pytest.mark.parametrize(
    ("program", "kind"),
    [("/usr/bin/lmms-eval", SystemExit), ("/somewhere/pytest", LareError), ("train.py", LareError)],
)
def test_only_the_lmms_eval_command_is_ended(monkeypatch, program, kind):
    monkeypatch.setattr(sys, "argv", [program])
    with pytest.raises(kind, match="broken"):
        hooks.give_up(LareError("it is broken"))


def test_python_dash_m_lmms_eval_counts_as_the_command(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="lmms_eval.__main__"), raising=False)
    with pytest.raises(SystemExit):
        hooks.give_up(LareError("it is broken"))
