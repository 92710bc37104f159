"""The suite tells planted models apart, resumes where it was killed, and says what it found in a checked form."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator

from analysis.shared.questions import Gathered, gather_questions
from analysis.shared.report.answers import MOST_NUMBERS, MOST_WORDS, answered, numbers
from analysis.shared.report.document import Document
from analysis.shared.stats import Result
from analysis.validate import measure as measure_module
from analysis.validate import suite as suite_module
from analysis.validate.answer import answer, sentence
from analysis.validate.effects import bootstrap, collapse, kept_of_gain, mediation, moved_by
from analysis.validate.judge import OPEN, RELEVANT, VERDICTS, Judgement, Prediction, judge, verdict_of
from analysis.validate.measure import Measured, ValidateOptions, measured
from analysis.validate.page import document_of, main
from analysis.validate.planted import ALSO, PLANTED, STEPS, Planted, planted_questions
from analysis.validate.power import error_rates
from analysis.validate.suite import Asking, Outcomes, run_suite
from analysis.validate.summary import badge_of, schema, summarise
from lare.errors import LareError
from lare.interventions import get_intervention, intervention_names
from tests.methods.tiny_checkpoint import write_checkpoint


@cache
def planted(kind: str, count: int = 500, seed: int = 0) -> tuple[Planted, list[Any], Outcomes]:
    questions = planted_questions(count, seed)
    method = Planted(kind, seed)
    return method, questions, run_suite(method, questions, Asking(batch=count, seed=seed, quiet=True))


@cache
def found(kind: str) -> Measured:
    method, questions, outcomes = planted(kind)
    return measured(f"planted: {kind}", method, Gathered(questions), outcomes)


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_models_get_their_verdict(kind: str) -> None:
    made = found(kind).judgement
    assert made.verdict == PLANTED[kind] and made.passes is (kind == "copies")
    assert made.moved["image"].change.estimate > 0.5 and made.moved["question"].change.estimate == 0


def test_error_rate_over_seeds() -> None:
    """A second seed; the first is judged above."""
    rates = error_rates(sizes=(500,), seeds=[1])
    assert {(one["wrong"], one["runs"]) for one in rates} == {(0, 1)}
    assert all(one["right"] for one in rates if one["kind"] not in ALSO)


def prediction(name: str, lost: float, wide: float = 0.01, needed: bool = False) -> Prediction:
    """An effect of so many points with an interval of ± `wide`; seen where that leaves 0 out."""
    p = 0.001 if abs(lost) > wide else 0.5
    status = "holds" if lost >= RELEVANT and p < 0.05 else "fails" if lost + wide <= 0.05 else "unclear"
    return Prediction(name, name, needed, status, Result("", lost, lost - wide, lost + wide, 500, 500), p, p)


_NOTHING = dict.fromkeys(("zeros", "other", "first", "permuted", "fewer", "more", "marks", "none"), 0.0)


@pytest.mark.parametrize(
    ("changed", "wide", "verdict"),
    [
        ({}, 0.01, "ignored"),
        ({"none": 0.1}, 0.01, "marks"),
        ({"none": 0.04}, 0.045, "not_latents"),  # too little to see, too much to rule out
        ({"none": None}, 0.01, "not_latents"),
        ({"none": -0.03}, 0.04, "not_latents"),  # it may do harm
        ({"none": -0.1}, 0.01, "harmful"),
        ({"marks": -0.1}, 0.01, "harmful"),
        ({"zeros": -0.1}, 0.01, "harmful"),
        ({"fewer": -0.1, "none": 0.1}, 0.01, "harmful"),
        ({"more": -0.1}, 0.01, "count"),  # twice as many are better
        ({"fewer": 0.1}, 0.01, "count"),
        ({"more": 0.1}, 0.01, "ignored"),  # a strange number disturbs, and none is needed
        ({"more": 0.1, "none": 0.1}, 0.01, "marks"),
        ({"marks": 0.1, "zeros": -0.1}, 0.01, "count"),
        ({"marks": 0.04}, 0.045, "not_content"),
        ({"marks": None}, 0.01, "not_content"),
        ({"permuted": 0.1}, 0.01, "partly"),
        ({"zeros": 0.1}, 0.01, "partly"),
        ({"zeros": 0.04}, 0.045, "undecided"),
        ({"zeros": 0.1, "other": 0.1}, 0.01, "content"),
    ],
)
def test_verdict_of_what_can_be_observed(changed: dict[str, float | None], wide: float, verdict: str) -> None:
    """All effects are ± 1 point but those that are changed."""
    lost = {name: 0.01 if value is None else value for name, value in (_NOTHING | changed).items()}
    made = [
        prediction(name, value, wide if name in changed else 0.01, needed=name in ("zeros", "other"))
        for name, value in lost.items()
        if changed.get(name, value) is not None
    ]
    assert verdict_of(made) == verdict


def test_verdicts_that_leave_something_open() -> None:
    assert set(OPEN) < set(VERDICTS) and not any("content" in OPEN[name] for name in OPEN if name != "undecided")
    for name, others in OPEN.items():
        assert name not in others and others < set(VERDICTS)


def test_the_sentence_names_the_replacement_that_decides() -> None:
    """The least for need, the most where nothing is needed."""
    made = tuple(prediction(name, lost, needed=True) for name, lost in (("zeros", 0.1), ("other", 0.2)))
    assert "zeros costs least, 10.0 points [9.0, 11.0], n = 7." in sentence(Judgement("content", made, {}), 7)
    assert "other costs most, 20.0 points" in sentence(Judgement("not_latents", made, {}), 7)


@pytest.mark.slow
def test_no_wrong_verdict_over_twenty_seeds() -> None:
    assert all(one["wrong"] == 0 for one in error_rates(sizes=(500,), seeds=range(20)))


def test_every_setting_is_asked_and_does_what_it_says() -> None:
    _, questions, outcomes = planted("copies")
    boxes = {name for name in intervention_names() if "boxes" in get_intervention(name).needs}
    assert set(outcomes.by_name) == set(intervention_names()) - boxes == set(outcomes.by_name) - set(outcomes.left_out)
    steps = {name: set(one.steps.tolist()) for name, one in outcomes.by_name.items()}
    assert steps["more"] == {2 * STEPS} and steps["marks"] == steps["none"] == {0} and steps["zeros"] == {STEPS}
    right = {name: one.right.mean() for name, one in outcomes.by_name.items()}
    assert right["permuted"] == right["own"] > right["zeros"] > right["other"]
    assert right["image_latents"] == right["image_kept"], "half of what it reads is of the other picture"
    assert right["image"] < 0.35
    assert outcomes.latents["own"].shape == (len(questions), STEPS, 1, 16)


def test_what_is_left_open_is_a_warning() -> None:
    document = document_of(found("hints"), ValidateOptions(now="then"))
    (told,) = (one for one in document.warnings if "Too few questions" in one)
    assert told.endswith("to tell: own latents beat no latents and no marks (plain answer of the same weights)")


def test_mediation_and_gain_add_up() -> None:
    through, past = mediation(found("copies").outcomes, 0), mediation(found("ignores").outcomes, 0)
    assert through["share"].low > 0.3 and abs(past["share"].estimate) < 0.1 and past["direct"].low > 0.4
    kept = kept_of_gain(found("counts").outcomes, 0)
    assert kept["zeros"].low > 0.8 and kept["marks"].estimate == 0
    marks = kept_of_gain(found("marks").outcomes, 0)
    assert marks["marks"].estimate == 1 and marks["format"].estimate == 0


def test_bootstrap_is_of_scenes() -> None:
    values = np.repeat(np.random.default_rng(0).random(40), 10)
    clustered = bootstrap({"x": values}, lambda m: m["x"], [str(i // 10) for i in range(400)], 0)
    apart = bootstrap({"x": values}, lambda m: m["x"], [str(i) for i in range(400)], 0)
    assert clustered.estimate == apart.estimate == pytest.approx(values.mean())
    assert clustered.high - clustered.low > 2.5 * (apart.high - apart.low)


def test_collapse_is_seen() -> None:
    scenes = [str(row) for row in range(200)]
    spread = torch.randn(200, 3, 1, 8, generator=torch.Generator().manual_seed(0))
    wide, same = collapse(spread, scenes), collapse(spread[:1].expand(200, -1, -1, -1) + 1e-3 * spread, scenes)
    line = collapse(torch.arange(1.0, 201)[:, None, None, None] * torch.ones(1, 3, 1, 8), scenes)
    assert abs(wide.between) < 0.1 and wide.rank > 18 and wide.share > 0.9
    assert same.between > 0.99 and same.share < 1e-4
    assert line.rank == pytest.approx(1, abs=1e-3) and line.steps == pytest.approx(1)


def test_few_questions_are_undecided_and_say_so() -> None:
    few = planted("ignores")[2].take(np.arange(30))
    assert judge(few).verdict == "undecided"


def test_latents_that_stand_still_do_not_pass() -> None:
    outcomes = planted("copies")[2]
    still = {name: outcomes.latents["own"][:1].expand_as(one) for name, one in outcomes.latents.items()}
    frozen = Outcomes(outcomes.by_name, still, outcomes.scenes)
    assert moved_by(frozen, "image").change.estimate == 0
    assert judge(frozen).verdict == "partly"


def test_an_effect_has_to_be_relevant() -> None:
    assert all(one.gap.estimate >= RELEVANT for one in found("copies").judgement.predictions if one.seen and one.gap)


@pytest.mark.parametrize("kind", PLANTED)
def test_summary_has_its_form(kind: str) -> None:
    Draft202012Validator.check_schema(schema())
    document = document_of(found(kind), ValidateOptions(now="then"))
    summary = summarise(found(kind), document.verdict, "c0ffee", "0")
    Draft202012Validator(schema()).validate(json.loads(json.dumps(summary, allow_nan=False)))
    assert summary["verdict"] == PLANTED[kind] and summary["sentence"].startswith(VERDICTS[PLANTED[kind]])
    assert len({badge_of(name, 1)["message"] for name in VERDICTS}) == len(VERDICTS), "each verdict has a badge"
    assert schema()["properties"]["verdict"]["enum"] == list(VERDICTS)
    with pytest.raises(Exception, match="form"):
        Draft202012Validator(schema()).validate({**summary, "form": "lare-validate/0"})
    assert Document.from_json(document.to_json()).tables
    said = answered(document, answer)
    assert said.claim is not None and said.claim.seen == ("yes" if kind == "copies" else "no")
    assert len(said.verdict.split()) <= MOST_WORDS and len(numbers(said.verdict)) <= MOST_NUMBERS


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions, method = planted_questions(40, 5), Planted("copies", 5)
    asking = Asking(batch=16, seed=5, keep=str(tmp_path), quiet=True)
    whole = run_suite(method, questions, Asking(batch=16, seed=5, quiet=True))
    calls = 0
    answer = Planted.answer_under

    def dies(self: Planted, *words: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return answer(self, *words, **named)

    monkeypatch.setattr(Planted, "answer_under", dies)
    with pytest.raises(KeyboardInterrupt):
        run_suite(method, questions, asking)
    torn = next(tmp_path.rglob("own-00000.json"))
    torn.write_text(torn.read_text("utf-8")[:50], "utf-8")
    again = run_suite(method, questions, asking)
    assert again.read == 4, "five parts were whole, and one of them was torn"
    for name, one in whole.by_name.items():
        assert one.replies == again.by_name[name].replies, name
    calls = 0
    assert run_suite(method, questions, asking).read > 4 and calls == 0, "a finished run asks nothing"


def test_a_methods_refusal_is_reported_and_no_latents_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = planted("copies")[2]
    assert "no visual tokens" in outcomes.left_out["oracle"]
    monkeypatch.setattr(suite_module, "_arrays", lambda answers, *_: torch.zeros(len(answers), 0, 1, 4))
    with pytest.raises(LareError, match="makes no latents here"):
        run_suite(Planted("copies"), planted_questions(4, 0), Asking(quiet=True))


def test_one_picture_is_too_few() -> None:
    one = planted_questions(1, 0)
    with pytest.raises(LareError, match="one picture"):
        run_suite(Planted("copies"), one, Asking(quiet=True))


def test_verdicts_need_their_predictions() -> None:
    empty = Judgement("undecided", (), {})
    assert empty.prediction("zeros") is None and not empty.passes


def short_questions(*words: Any) -> Gathered:
    """The mini tasks' questions with short answers, since random weights never end one."""
    gathered = gather_questions(*words)
    return replace(gathered, questions=[replace(one, max_new_tokens=3) for one in gathered.questions])


def test_the_command_on_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiny checkpoint with random weights through every round, oracles and the text rationale too."""
    monkeypatch.setattr(measure_module, "gather_questions", short_questions)
    folder, out = write_checkpoint(tmp_path / "model"), tmp_path / "mine.html"
    words = ["--checkpoint", str(folder), "--limit", "6", "--keep", str(tmp_path / "kept"), "--out", str(out)]
    assert main([*words, "--now", "then"]) == 0
    summary = json.loads(out.with_suffix(".summary.json").read_text("utf-8"))
    Draft202012Validator(schema()).validate(summary)
    assert summary["questions"] == 30 and not summary["left_out"] and summary["stand_in"]
    assert {"oracle", "oracle_other", "rationale", "hidden", "format"} <= set(summary["accuracy"])
    document = Document.from_json(out.with_suffix(".json").read_text("utf-8"))
    assert [one.id for one in document.tables][:2] == ["predictions", "replaced"]
    first = out.read_text("utf-8")
    assert main([*words, "--now", "then"]) == 0 and out.read_text("utf-8") == first, "read back, the report is the same"
    assert main([*words, "--model", "llava"]) == 2
    assert "makes no latents" in capsys.readouterr().err
