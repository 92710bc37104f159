"""No family of version 2 in any format, and no mini task, is answerable blind; the guesser is shown to find leaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from lare.embedded.world import baselines as module
from lare.embedded.world.baselines import Baselines, baselines, main, markdown, totals
from lare.embedded.world.benchmark import TASKS, make_task
from lare.embedded.world.blind import blind_score
from lare.embedded.world.items import STYLES
from lare.embedded.world.versions import world

MARGIN = 0.05


def _over(rows: list[Baselines], most: float = MARGIN) -> list[Baselines]:
    """Rows in which a guess beats chance by more than `most` and twice its standard error (samples here are small)."""
    return [
        row
        for row in rows
        if max(row.blind, row.majority) - row.chance > most + 2 * (row.chance * (1 - row.chance) / row.n) ** 0.5
    ]


@pytest.mark.slow
def test_no_family_is_answerable_blind_in_any_format() -> None:
    rows = baselines(2, "validation", n=120, n_train=500)
    assert {row.family for row in rows} == set(world(2).families) and {row.style for row in rows} == set(STYLES)
    assert not _over(rows) and all(row.oracle == 1.0 for row in rows)
    assert all(row.blind - row.chance <= MARGIN for row in totals(rows) if row.n >= 1_000)


def test_a_format_of_each_kind_is_not_answerable_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("exist", "count", "gaze4", "chain_attribute")
    whole = world(2)
    monkeypatch.setattr(module, "world", lambda version: _Some(whole, few))
    rows = baselines(2, "validation", n=120, n_train=400, styles=("open", "mmbench", "pope"))
    assert {row.family for row in rows} == set(few) and not _over(rows)
    assert all(row.oracle == 1.0 for row in rows)


class _Some:
    """A world that offers only some of its families."""

    def __init__(self, whole: object, families: tuple[str, ...]) -> None:
        self._whole, self.families = whole, families

    def __getattr__(self, name: str) -> object:
        return getattr(self._whole, name)


@pytest.mark.parametrize("task", TASKS)
def test_no_mini_task_is_answerable_blind(task: str) -> None:
    rows = make_task(task, "test", images=False, version=2)
    score = blind_score(task, rows, n_train=1_200, version=2)
    error = (score.chance * (1 - score.chance) / score.n) ** 0.5
    assert score.blind <= score.chance + MARGIN + error, score


def test_a_leak_is_seen() -> None:
    """What the bound is for: a family whose words tell its answer."""
    leaky = Baselines("leaky", "open", 400, 0.5, 0.5, 0.7, 1.0)
    assert _over([leaky]) == [leaky]


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Baselines("exist", "pope", 10, 0.5, 0.6, 0.4, 1.0), Baselines("exist", "open", 30, 0.5, 0.4, 0.6, 1.0)]
    text = markdown(rows, 2, "test")
    assert "| exist | all | 40 | 50.0 | 45.0 | 55.0 | 5.0 | 100.0 |" in text and "| exist | pope | 10 |" in text
    monkeypatch.setattr(module, "baselines", lambda *a: rows)
    assert main(["--out", str(tmp_path / "a" / "table.md"), "--split", "test"]) == 0
    assert (tmp_path / "a" / "table.md").read_text() == text
