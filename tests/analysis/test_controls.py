"""Replacements are what they are called, and comparisons find a planted drop and nothing where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from analysis.controls import measure as controls
from analysis.controls.measure import ControlsOptions, derange, moves_by_control, replacements
from analysis.controls.page import _verdict, compute
from analysis.controls.tables import CONTROLS, summarise
from analysis.shared.asking import Answers
from analysis.shared.questions import Question
from lare.errors import LareError

IMAGE = Image.new("RGB", (8, 8))


def questions(scenes: list[int], tasks: int = 1) -> list[Question]:
    return [Question(f"t{i % tasks}", i, "?", "A", f"s{scene}", IMAGE) for i, scene in enumerate(scenes)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.integers(0, 5))
def test_partners_are_of_the_task_and_another_scene(scenes: list[int], seed: int) -> None:
    asked = questions(scenes)
    if len(set(scenes)) < 2:
        with pytest.raises(LareError, match="one scene"):
            derange(asked, seed)
        return
    partner = derange(asked, seed)
    assert all(asked[i].scene != asked[int(j)].scene for i, j in enumerate(partner))
    if 2 * max(np.bincount(scenes)) <= len(scenes):
        assert sorted(partner.tolist()) == list(range(len(scenes)))


def test_partners_stay_in_their_task() -> None:
    asked = questions(list(range(40)), tasks=4)
    assert all(asked[i].task == asked[int(j)].task for i, j in enumerate(derange(asked, 0)))


def test_replacements_are_what_they_are_called() -> None:
    latents = torch.randn(30, 4, 2, 16, generator=torch.Generator().manual_seed(3)) * 5 + 1
    made = replacements(latents, questions(list(range(30))), 0)
    for name in ("noise", "mean_norm"):
        torch.testing.assert_close(made[name].norm(dim=-1), latents.norm(dim=-1))
    assert float(torch.nn.functional.cosine_similarity(made["noise"], latents, dim=-1).mean().abs()) < 0.15
    for step in range(4):
        torch.testing.assert_close(made["mean"][7, step], latents[:, step].mean(0))
    torch.testing.assert_close(made["other"].sum(0), latents.sum(0), atol=1e-3, rtol=1e-4)
    assert not any(torch.equal(made["other"][row], latents[row]) for row in range(30))
    again = replacements(latents, questions(list(range(30))), 0)
    assert all(torch.equal(made[name], again[name]) for name in made)
    assert not torch.equal(made["noise"], replacements(latents, questions(list(range(30))), 1)["noise"])


def answers(right: np.ndarray) -> Answers:
    words = ["A" if one else "B" for one in right]
    count = np.ones(len(right), np.int64)
    return Answers(words, words, right, np.ones(len(right), bool), count, count)


def test_a_planted_drop_is_found_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    own = rng.random(600) < 0.8
    scenes = [f"s{i // 2}" for i in range(600)]
    found = {control.name: answers(own) for control in CONTROLS}
    found["zeros"] = answers(own & (rng.random(600) < 0.7))
    compared = summarise(found, scenes)
    dropped = compared["zeros"]
    assert dropped.gap.high < -0.1
    assert dropped.gap.estimate == pytest.approx(found["zeros"].right.mean() - own.mean())
    assert dropped.holm is not None and dropped.test.p is not None
    assert dropped.test.p < dropped.holm < 1e-6
    rest = [one for name, one in compared.items() if name != "zeros"]
    assert all(one.gap.estimate == 0 and one.holm == 1 for one in rest)


def test_hidden_rows_are_compared_with_each_other() -> None:
    own = np.ones(50, bool)
    half = np.arange(50) < 25
    found = {control.name: answers(half if control.hidden else own) for control in CONTROLS}
    compared = summarise(found, [str(i) for i in range(50)])
    assert compared["hidden"].gap.estimate == pytest.approx(-0.5)
    assert compared["hidden_none"].gap.estimate == 0


def options(**changes: Any) -> ControlsOptions:
    return ControlsOptions(**{"limit": 6, "now": "then", **changes})


@pytest.mark.filterwarnings("ignore")
def test_report_on_the_shipped_checkpoint() -> None:
    document, arrays = compute(options(samples=3))
    again, _ = compute(options(samples=3))
    assert (document.tables, document.figures, document.samples) == (again.tables, again.figures, again.samples)
    assert document.from_json(document.to_json()) is not None
    main = document.tables[0]
    assert [row["control"] for row in main.rows] == [control.title for control in CONTROLS]
    own, other = arrays["right_own"], arrays["right_other"]
    assert len(own) == 30
    assert own.mean() - other.mean() > 0.1
    row = next(row for row in main.rows if "another scene" in row["control"])
    assert row["gained"] - row["lost"] == int(other.sum()) - int(own.sum())
    assert 0 < len(document.samples) <= 3
    assert document.stand_in
    committed_report = Path(__file__).parents[2] / "reports" / "controls.json"
    known_hash = json.loads(committed_report.read_text(encoding="utf-8"))["reproduce"]["hashes"]
    assert document.reproduce.hashes == known_hash, "the shipped checkpoint keeps its name"
    # What a question's answer rests on alone is what the committed report has; the rest hangs on the other questions.
    with np.load(Path(__file__).parents[2] / "reports" / "controls.npz") as known:
        for name in ("own", "none", "zeros", "hidden", "hidden_none"):
            keys = zip(known["task"].tolist(), known["doc_id"].tolist(), strict=True)
            committed = dict(zip(keys, known[f"right_{name}"].tolist(), strict=True))
            asked = zip(arrays["task"].tolist(), arrays["doc_id"].tolist(), strict=True)
            assert [committed[key] for key in asked] == arrays[f"right_{name}"].tolist(), name


def test_no_latents_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(controls.Asker):
        def ask(self, label: str, **options: object) -> Answers:
            return replace(
                answers(np.ones(len(self.questions), bool)), latents=torch.zeros(len(self.questions), 0, 1, 4)
            )

    monkeypatch.setattr(controls, "Asker", Silent)
    with pytest.raises(LareError, match="no latents"):
        compute(options())


def test_traces_and_tasks_together_are_refused() -> None:
    with pytest.raises(LareError, match="leave --tasks out"):
        options(traces=("x",), tasks=("y",))


def marked(shares: dict[str, dict[str, float]], n: int = 200) -> tuple[dict[str, Answers], list[Question]]:
    """Answers of five tasks under every control; `shares` of right by task and control, 0.9 else."""
    rng = np.random.default_rng(0)
    asked = [Question(task, i, "?", "A", f"{task}{i}", IMAGE) for task in "abcde" for i in range(n)]
    hard = np.concatenate([rng.permutation(n) / n for _ in "abcde"])
    answers = {}
    for control in CONTROLS:
        share = np.array([shares.get(one.task, {}).get(control.name, 0.9) for one in asked])
        replies = ["A" if right else "B" for right in hard < share]
        numbers = (np.ones(len(asked), dtype=np.int64) for _ in range(2))
        right = hard < share
        answers[control.name] = Answers(replies, replies, right, np.ones(len(asked), dtype=bool), *numbers)
    return answers, asked


def test_a_task_that_gains_where_the_others_lose_is_set_aside() -> None:
    lost = {"other": 0.7, "none": 0.8}
    answers, asked = marked(dict.fromkeys("abcd", lost) | {"e": {"own": 0.6, "other": 0.9}})
    apart = moves_by_control(answers, asked)
    assert apart.aside == ("e",)
    told = _verdict(answers, asked, apart)
    assert told.startswith("On 4 tasks, without e: Own latents: 90.0 % of 800 questions right.")
    assert "-20.0 points" in told and "Over all 5 tasks: Own latents: 84.0 % of 1000" in told
    answers, asked = marked(dict.fromkeys("abcde", lost))
    apart = moves_by_control(answers, asked)
    assert apart.aside == () and "Set aside" not in _verdict(answers, asked, apart)
