"""``python -m analysis``: one analysis that fails is named, takes no other with it, and shows in the exit code."""

from __future__ import annotations

import json

import pytest

import analysis.__main__ as every
from analysis.shared.report.document import Document, Reproduce


@pytest.fixture
def two(monkeypatch, tmp_path):
    """Two analyses: one renders a saved document again, the other has nothing to read."""
    document = Document("tokens", "Costs", "It costs four steps.", Reproduce("python"))
    source = tmp_path / "saved.json"
    source.write_text(document.to_json())
    monkeypatch.setattr(
        every, "ANALYSES", {"tokens": every.Analysis(("--from", str(source))), "compare": every.Analysis()}
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tokens.json").write_text(document.to_json())
    return tmp_path / "out"


def test_a_failure_is_named_and_the_others_are_made(two, capsys):
    assert every.main(["--out", str(two)]) == 1
    printed = capsys.readouterr().out
    assert "It costs four steps." in printed
    assert "make demo" in printed, "the one without a demo run says how to get one"
    assert "Costs" in (two / "index.html").read_text()


def test_all_well_is_zero(two, capsys):
    assert every.main(["--out", str(two), "--only", "tokens"]) == 0
    assert json.loads((two / "tokens.json").read_text())["name"] == "tokens"


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        every.main(["--only", "nonsense"])
    assert "nonsense" in capsys.readouterr().err
