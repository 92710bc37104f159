"""The claims ledger: planted rows give the verdicts its rules say, and the committed one follows from its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.claims.answer import answer
from analysis.claims.judge import FAILS, HOLDS, LEAST_STARTS, UNDECIDED, VERDICTS, decide, over_starts
from analysis.claims.ledger import CLAIMS, Claimed, Untested, primaries
from analysis.claims.measure import GRIDS, ClaimsOptions, Entry, Ledger, measure
from analysis.claims.page import document
from analysis.claims.rows import Compared, Grids, compared
from analysis.claims.tables import tables
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Document, Reproduce
from analysis.shared.report.render import render
from lare.experiments.plan import Plan
from lare.experiments.store import Slot, pack, save_questions

ROOT = Path(__file__).parents[2]
GRID = GRIDS / "refocusing.yaml"
N = 200
CLEAR = (12.0, 9.0, 14.0, 10.0, 11.0, 13.0)
"""Points of difference on six starts."""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(GRID, Path("no-runs"), Path("no-reports"))


def plant(
    plan: Plan,
    folder: Path,
    gaps: Mapping[str, float],
    arms: tuple[str, str] = ("lare", "random"),
    split: str = "test",
    hops: Sequence[int] = (2,),
    **changes: Any,
) -> None:
    """Rows in which the first arm is right in so many points more than the second."""
    place = folder / plan.grid.name
    each = {
        "doc": list(range(N)),
        "scene": [f"s{i}" for i in range(N)],
        "family": ["gaze2"] * N,
        "hops": [hops[i * len(hops) // N] for i in range(N)],
    }
    tasks = {f"{plan.grid.tasks[split]}_{name}": each | {"difficulty": [""] * N} for name in ("mmbench", "pope")}
    digest = save_questions(tasks, place / "questions")
    for start, gap in gaps.items():
        for arm, share in zip(arms, (50 + gap, 50.0), strict=True):
            run, ask = plan.run(arm, start, 0), plan.grid.arms[arm].own
            right = pack(np.arange(N) < round(share * N / 100))
            row = {
                "arm": arm, "start": start, "seed": 0, "rate": 1.0, "ask": ask, "group": plan.grid.tasks[split],
                "options": dict(plan.grid.arms[arm].asks[ask]), "limit": None, "settings": run.settings,
                "start_hash": f"weights of {start}", "start_settings": plan.starts[start].settings,
                "questions": digest, "right": dict.fromkeys(tasks, right), "supervision": "none",
                "tokens": {task: {"text_tokens_right": 9.0, "latent_steps_right": 4.0} for task in tasks},
                "costs": {"hit_rate": 0.5, "hit_chance": 0.2}, "samples": 100, "updates": 10, "start_samples": 50,
                "primary": {"hash": plan.grid.primary.hash()}, "asked": [], "tried": [1.0],
            } | changes  # fmt: skip
            path = place / "rows" / Slot(run, ask, split).file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(row))


def ledger(folder: Path, reports: Path = ROOT / "reports") -> dict[str, Entry]:
    found = measure(ClaimsOptions(grids=(str(GRID),), experiments=str(folder), reports=str(reports)))
    return {one.claim.id: one for one in found.entries}


def starts(plan: Plan, gaps: tuple[float, ...] = CLEAR) -> dict[str, float]:
    return dict(zip(plan.starts, gaps, strict=False))


def test_a_clear_effect_on_six_starts_holds(plan: Plan, tmp_path: Path) -> None:
    plant(plan, tmp_path, starts(plan))
    one = ledger(tmp_path)["primary-refocusing"]
    found = one.lead
    assert (one.verdict, found.starts, found.n, found.kind) == (HOLDS, 6, 2 * N, "test")
    wanted = stats.ttest_1samp(CLEAR, 0.0)
    assert found.effect == pytest.approx(np.mean(CLEAR)) and found.p == pytest.approx(wanted.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval(0.95)))
    assert "lare__*__K4.test.json" in found.file and found.command == ""


def test_a_reversed_effect_fails(plan: Plan, tmp_path: Path) -> None:
    plant(plan, tmp_path, starts(plan, tuple(-gap for gap in CLEAR)))
    assert ledger(tmp_path)["primary-refocusing"].verdict == FAILS


def test_one_start_or_a_shared_one_is_undecided(plan: Plan, tmp_path: Path) -> None:
    plant(plan, tmp_path / "one", starts(plan, CLEAR[:1]))
    plant(plan, tmp_path / "shared", starts(plan), start_hash="the same weights")
    for name in ("one", "shared"):
        found = ledger(tmp_path / name)["primary-refocusing"]
        assert (found.verdict, found.lead.starts, found.lead.p) == (UNDECIDED, 1, None)
        assert "6 are needed" in found.lead.reason and "--test --arms lare random" in found.lead.command


def test_the_primary_contrast_needs_every_declared_start_others_four(plan: Plan, tmp_path: Path) -> None:
    plant(plan, tmp_path, starts(plan, CLEAR[:LEAST_STARTS]))
    plant(plan, tmp_path, starts(plan, CLEAR[:LEAST_STARTS]), ("lare", "full"))
    found = ledger(tmp_path)
    assert found["primary-refocusing"].verdict == UNDECIDED
    assert found["window-accuracy"].verdict == HOLDS and found["window-accuracy"].lead.holm is not None
    assert found["window-tokens"].verdict == FAILS, "no token is saved"
    assert found["finds"].verdict == HOLDS and found["finds"].lead.effect == pytest.approx(30.0)


def test_questions_of_few_hops_may_be_left_out(plan: Plan, tmp_path: Path) -> None:
    """The first half has one hop, and both arms have it right."""
    plant(plan, tmp_path, starts(plan, CLEAR[:LEAST_STARTS]), hops=(1, 2))
    grids = Grids.read([GRID], tmp_path)
    every, many = (compared(Compared("lare", "random", least_hops=hops), grids) for hops in (0, 2))
    assert every.n == 2 * N and many.n == N  # two tasks
    assert every.effect == pytest.approx(np.mean(CLEAR[:LEAST_STARTS])) and many.effect == pytest.approx(
        2 * every.effect
    )


def test_a_contrast_against_no_latents_is_not_one_about_looking() -> None:
    grids = ROOT / "lare/configs/experiments"
    names = ("photos", "photographs", "longer_small")
    said = {one.id: one.text for one in primaries([Plan(grids / f"{name}.yaml") for name in names])}
    assert "relevant" in said["primary-photos"] and "Latents help" in said["primary-photographs"]
    assert "more accurate than Standard CoT" in said["primary-longer_small"]


def test_missing_rows_are_undecided_and_named(tmp_path: Path) -> None:
    found = ledger(tmp_path, tmp_path)
    assert {one.verdict for one in found.values()} == {UNDECIDED}
    assert "no rows of lare and random" in found["primary-refocusing"].lead.reason
    assert "refocusing.yaml --test" in found["primary-refocusing"].lead.command
    assert found["table5"].lead.command == "python analysis/attention.py"


def test_validation_rows_explore(plan: Plan, tmp_path: Path) -> None:
    plant(plan, tmp_path, starts(plan), split="validation")
    found = ledger(tmp_path)["primary-refocusing"]
    assert (found.verdict, found.lead.kind) == (UNDECIDED, "validation")
    assert found.lead.effect == pytest.approx(np.mean(CLEAR))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"start_settings": None, "primary": None}, "no rows"),
        ({"primary": {"hash": "another"}}, "declared otherwise"),
    ],
)
def test_rows_of_other_terms_decide_nothing(plan: Plan, tmp_path: Path, changes: Any, reason: str) -> None:
    plant(plan, tmp_path, starts(plan), **changes)
    found = ledger(tmp_path)["primary-refocusing"]
    assert found.verdict == UNDECIDED and reason in found.lead.reason


def test_unequal_training_decides_nothing(plan: Plan, tmp_path: Path) -> None:
    plant(plan, tmp_path, starts(plan))
    for path in (tmp_path / "refocusing" / "rows").glob("random__*"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"samples": 90}))
    found = ledger(tmp_path)["primary-refocusing"]
    assert found.verdict == UNDECIDED and "different numbers" in found.lead.reason


@pytest.mark.parametrize(
    ("low", "high", "says", "unit", "verdict"),
    [
        (0.5, 3.0, "more", "points", HOLDS), (-3.0, -0.5, "more", "points", FAILS),
        (-1.0, 3.0, "more", "points", UNDECIDED),
        (0.1, 0.9, "more", "points", FAILS), (0.1, 0.9, "more", "dB", HOLDS), (-3.0, -0.5, "less", "points", HOLDS),
        (0.5, 3.0, "less", "points", FAILS), (-1.0, 2.0, "same", "points", HOLDS), (3.5, 6.0, "same", "points", FAILS),
        (2.0, 6.0, "same", "points", UNDECIDED), (None, None, "more", "points", UNDECIDED),
        (float("nan"), float("nan"), "more", "points", UNDECIDED),
    ],
)  # fmt: skip
def test_verdicts_of_intervals(low: float | None, high: float | None, says: str, unit: str, verdict: str) -> None:
    assert decide(low, high, says, unit)[0] == verdict


def test_one_start_has_no_interval() -> None:
    assert over_starts([3.0])[0] == 3.0 and np.isnan(over_starts([3.0])[1:]).all()


def test_two_starts_that_happen_to_agree_are_no_test() -> None:
    assert over_starts([3.0, 3.0])[0] == 3.0 and np.isnan(over_starts([3.0, 3.0])[1:]).all()
    assert over_starts([0.0, 0.0]) == (0.0, 0.0, 0.0, 1.0)


def test_every_declared_contrast_that_is_complete_is_told_whatever_came_of_it() -> None:
    found = measure(ClaimsOptions())
    done = [
        one.claim.id.removeprefix("primary-")
        for one in found.entries
        if one.claim.id.startswith("primary-") and one.lead.kind == "test" and one.lead.starts == one.lead.declared
    ]
    said = answer(document(found, Reproduce("python"))).verdict
    assert done[0] == "comparison" and all(f"That of {name} " in said for name in done[1:]), said
    assert said.count("That of ") == len(done) - 1


def test_text_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    entry = ledger(tmp_path)["table5"]
    claim = Claimed("primary-x", bad, bad, (Untested(bad, bad, bad),))
    finding = entry.lead.__class__(bad, "more", reason=bad, file=bad, command=bad)
    made = answered(document(Ledger((Entry(claim, (finding,)), entry), {bad: bad}), Reproduce("python")), answer)
    page = render(made)
    assert bad not in page and "&lt;script&gt;alert(1)" in page


def test_ids_are_unique_and_every_claim_has_parts() -> None:
    assert len({one.id for one in CLAIMS}) == len(CLAIMS) and all(one.parts for one in CLAIMS)


# The committed ledger ----------------------------------------------------------------------------------------------


def committed() -> Document:
    return Document.from_json((ROOT / "reports" / "claims.json").read_text("utf-8"))


def test_the_committed_verdicts_follow_from_the_committed_rows_and_reports() -> None:
    """If this fails, run ``python analysis/claims.py`` again. Rows that decide nothing may be newer than the ledger."""
    options = ClaimsOptions(experiments=str(ROOT / "reports/experiments"), reports=str(ROOT / "reports"))
    now, then = (
        {(row["id"], row["part"]): row for table in made if table.id == "parts" for row in table.rows}
        for made in (tables(measure(options).entries), committed().tables)
    )
    assert {key: row["verdict"] for key, row in now.items()} == {key: row["verdict"] for key, row in then.items()}
    for key, row in now.items():
        if row["kind"] in ("test", "one checkpoint"):
            assert row["effect"] == pytest.approx(then[key]["effect"]) and row["starts"] == then[key]["starts"]


def test_the_committed_verdicts_follow_from_their_intervals() -> None:
    shown = {one.id: one.rows for one in committed().tables}
    for one in shown["parts"]:
        assert one["verdict"] in VERDICTS and one["why"]
        if one["verdict"] != UNDECIDED:
            assert one["kind"] in ("test", "one checkpoint") and one["effect"] is not None
            low, high = (end - (one["null"] or 0.0) for end in one["interval"])
            side = {"more": low > 0, "less": high < 0, "same": max(abs(low), abs(high)) < 3}[one["says"]]
            small = one["unit"] in ("points", "tokens") and one["says"] != "same" and max(abs(low), abs(high)) < 1
            assert (one["verdict"] == HOLDS) == (side and not small)
        if one["kind"] == "test" and one["verdict"] != UNDECIDED:
            assert int(one["starts"].split()[0]) >= LEAST_STARTS
    for one in (*shown["claims"], *shown["checkpoint"]):
        parts = [part["verdict"] for part in shown["parts"] if part["id"] == one["id"]]
        wanted = FAILS if FAILS in parts else HOLDS if set(parts) == {HOLDS} else UNDECIDED
        assert one["verdict"] == wanted
