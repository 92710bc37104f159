"""What a report says first: short, computed from its tables, and the other way round where the numbers are."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.shared.report.answers import MOST_NUMBERS, MOST_WORDS, Answer, numbers
from analysis.shared.report.document import SEEN, Document, Table

FOLDER = Path(__file__).parents[2] / "reports"
NAMES = sorted(
    path.stem for path in FOLDER.glob("*.json") if path.with_suffix(".html").exists() and path.stem != "index"
)

Row = dict[str, Any]


def committed(name: str) -> Document:
    return Document.from_json((FOLDER / f"{name}.json").read_text(encoding="utf-8"), name)


def answer_of(document: Document) -> Callable[[Document], Answer]:
    return importlib.import_module(f"analysis.{document.name}.answer").answer  # type: ignore[no-any-return]


def changed(document: Document, table: str, change: Callable[[Row], Mapping[str, Any]]) -> Document:
    """The report with every row of a table changed."""

    def of(one: Table) -> Table:
        return replace(one, rows=tuple({**row, **change(dict(row))} for row in one.rows)) if one.id == table else one

    return replace(document, tables=tuple(of(one) for one in document.tables))


def within(text: str) -> bool:
    return len(text.split()) <= MOST_WORDS and len(numbers(text)) <= MOST_NUMBERS


@pytest.mark.parametrize("name", NAMES)
def test_committed_reports_answer_shortly_from_their_own_tables(name: str) -> None:
    made = committed(name)
    assert made.question.endswith("?") and made.answer and ". " not in made.answer and len(made.answer.split()) <= 30
    assert within(made.verdict), f"{len(made.verdict.split())} words, numbers {numbers(made.verdict)}"
    assert made.claim is not None and made.claim.seen in SEEN and made.claim.reason
    assert made.details, "what the verdict leaves out stands below"
    found = answer_of(made)(made)
    assert (found.question, found.answer, found.verdict, found.claim) == (
        made.question, made.answer, made.verdict, made.claim,
    )  # fmt: skip


def test_every_analysis_has_a_committed_report() -> None:
    from analysis.__main__ import ANALYSES

    assert set(ANALYSES) <= set(NAMES)


def shift(keys: str, by: float) -> Callable[[Row], Mapping[str, Any]]:
    """Sets estimates and their intervals, named "estimate interval", to `by` ± half a point."""
    estimate, interval = keys.split()
    return lambda row: {estimate: by, interval: (by - 0.5, by + 0.5)} if row.get(estimate) is not None else {}


CASES = (
    ("controls", "controls", "gap gap_interval", -7.0, "costs 7 points", "yes"),
    ("controls", "controls", "gap gap_interval", 7.0, "do harm", "no"),
    ("controls", "controls", "gap gap_interval", 0.0, "no difference", "no"),
    ("attention", "table5", "gap interval", 6.0, "more attention", "yes"),
    ("attention", "table5", "gap interval", -6.0, "less attention", "no"),
    ("attention", "table5", "gap interval", 0.0, "as much attention", "undecided"),
    ("adaptive", "rules", "gap gap_interval", 2.0, "pays", "yes"),
    ("adaptive", "rules", "gap gap_interval", -2.0, "costs accuracy", "no"),
    ("adaptive", "rules", "gap gap_interval", 0.0, "gains nothing", "undecided"),
    ("ablation", "rows", "gap boot", -3.0, "all are worse", "undecided"),
    ("ablation", "rows", "gap boot", 3.0, "9 of 9 variants beat ", "no"),
    ("ablation", "rows", "gap boot", 0.0, "can be told", "no"),
    ("compare", "accuracy", "gap interval", -3.0, "less often", "undecided"),
    ("compare", "accuracy", "gap interval", 0.0, "can't be told apart", "undecided"),
    ("heatmaps", "steps", "even even_interval", -3.0, "does not pick out", "no"),
    ("probe", "gap", "gap interval", 5.0, "guessing gives half", "yes"),
    ("probe", "gap", "gap interval", -5.0, "guessing gives half", "no"),
    ("reconstruct", "conditions", "found found_interval", 5.0, "no better than by guessing", "no"),
    ("reconstruct", "conditions", "found found_interval", 90.0, "holds its picture", "yes"),
    ("tokens", "costs", "gap interval", -4.0, "saves 4.0 text tokens", "yes"),
    ("tokens", "costs", "gap interval", 4.0, "saves no text", "no"),
)


@pytest.mark.parametrize(("name", "table", "keys", "by", "words", "seen"), CASES)
def test_other_numbers_give_another_answer(name: str, table: str, keys: str, by: float, words: str, seen: str) -> None:
    made = changed(committed(name), table, shift(keys, by))
    found = answer_of(made)(made)
    assert words in found.answer
    assert found.claim is not None and found.claim.seen == seen
    assert within(found.verdict)


@pytest.mark.parametrize("name", ["controls", "compare", "ablation", "tokens"])
def test_a_task_that_moves_otherwise_is_said(name: str) -> None:
    made = committed(name)
    place = "apart-1" if name == "tokens" else "apart"  # the answer there is against the second setting
    others = tuple(one for one in made.tables if one.id != place)
    said = {"set aside": "Set aside: a task, against the rest.", "stays, disputed": "One task moves otherwise", "": ""}
    for fate, words in said.items():
        table = Table(place, "", (), ({"task": "a task", "fate": fate},))
        told = answer_of(made)(replace(made, tables=(*others, table)))
        assert words in told.verdict and within(told.verdict)
        assert fate or not any(one in told.verdict for one in said.values() if one)


def test_shares_that_round_alike_get_decimals() -> None:
    def close(row: Row) -> Mapping[str, Any]:
        return {"a": 3.01, "b": 2.79, "gap": -0.22, "interval": (-0.24, -0.2)} if row.get("gap") is not None else {}

    made = changed(committed("attention"), "table5", close)
    found = answer_of(made)(made)
    assert "2.8 % against 3.0 %" in found.answer and "-0.2 points [-0.2, -0.2]" not in found.verdict
    assert "[-0.24, -0.20]" in found.verdict and within(found.verdict)
