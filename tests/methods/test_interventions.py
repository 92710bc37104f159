"""Interventions on real methods: each changes what it says and nothing else, alone as in a batch, shared as apart."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lare import LareError
from lare.interventions import Asked, Bank, Setting, get_intervention, intervention_names
from lare.methods import get_method
from lare.methods.base import Method, Sampling
from lare.methods.intervening import ask_of
from lare.trace import AnswerRecord, TraceWriter
from tests.methods.tiny_checkpoint import pictures, tiny_parts

QUESTIONS = [f"Is there a {thing}{' really' * n}?" for n, thing in enumerate(("dog", "cup", "cat"))]
SAMPLING = Sampling(max_new_tokens=6)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
BOX = (0.0, 0.0, 0.25, 0.25)


@cache
def method(name: str = "lare", **options: Any) -> Method:
    settings = {"latent_maker": name, "use_window": False} if get_method(name).latent_maker is not None else {}
    return get_method(name)(*tiny_parts(**settings), iterations=3, **options)


@cache
def bank() -> Bank:
    """Own latents of the three questions."""
    natural = method().answer(pictures(3), QUESTIONS, SAMPLING, trace=True)
    latents = torch.stack([torch.tensor(one.arrays["latents"]) for one in natural])
    return Bank(tuple(asked()), latents, torch.tensor([3, 3, 3]))


def asked() -> list[Asked]:
    return [Asked(one.key, one.group, boxes=(BOX,)) for one in ask_of(pictures(3), QUESTIONS)]


def under(*names: str, rows: slice = slice(None), name: str = "lare", **options: Any) -> list[list[Any]]:
    given = [Setting(one, 3, bank()) for one in names]
    return method(name, **options).answer_under(
        pictures(3)[rows], QUESTIONS[rows], SAMPLING, given, asked()[rows], True
    )


def latents(answers: list[Any]) -> torch.Tensor:
    return torch.stack([torch.tensor(one.arrays["latents"]) for one in answers])


def said(answers: list[Any]) -> list[tuple[str, int, int]]:
    return [(one.text, one.output_tokens, one.latent_steps) for one in answers]


@pytest.mark.parametrize("name", ["lare", "norefocus", "coconut", "lvr", "mcout"])
def test_shared_equals_apart_and_a_batch_its_questions_alone(name: str) -> None:
    """All interventions in one call; one by one; and one question at a time."""
    names = [one for one in intervention_names() if get_intervention(one).exchanges == ""]
    together = under(*names, name=name)
    own = method(name).answer(pictures(3), QUESTIONS, SAMPLING, trace=True)
    assert said(together[0]) == said(own)
    torch.testing.assert_close(latents(together[0]), latents(own), **CLOSE)
    for one, found in zip(names, together, strict=True):
        apart = under(one, name=name)[0]
        alone = [under(one, rows=slice(row, row + 1), name=name)[0][0] for row in range(3)]
        assert said(found) == said(apart) == said(alone), one
        torch.testing.assert_close(latents(found), latents(alone), **CLOSE)


def test_each_feeds_what_it_is_called() -> None:
    names = ("own", "zeros", "noise", "distribution", "first", "permuted", "other", "mean", "mean_norm", "dummy")
    fed = dict(zip(names, map(latents, under(*names)), strict=True))
    own = fed["own"]
    torch.testing.assert_close(own, bank().latents, **CLOSE)
    assert not fed["zeros"].any()
    torch.testing.assert_close(fed["noise"].norm(dim=-1), own.norm(dim=-1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fed["first"], own[:, :1].expand_as(own), **CLOSE)
    for row in range(3):
        order = [next(k for k in range(3) if torch.allclose(z, own[row, k], atol=1e-5)) for z in fed["permuted"][row]]
        assert sorted(order) == [0, 1, 2] and order != [0, 1, 2]
        others = [r for r in range(3) if torch.allclose(fed["other"][row], own[r], atol=1e-5)]
        assert others and others != [row]
    torch.testing.assert_close(fed["mean"][0], own.mean(0), **CLOSE)
    torch.testing.assert_close(fed["mean_norm"].norm(dim=-1), own.norm(dim=-1), rtol=1e-4, atol=1e-4)
    pad = method().model.embed_token(method().processor.tokenizer.pad_token_id, 1)[0, 0]
    torch.testing.assert_close(fed["dummy"], pad.expand_as(own), **CLOSE)


def test_distribution_has_each_dimensions_mean_and_spread() -> None:
    made = torch.randn(400, 2, 1, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1, 5]) + 2
    who = [Asked(f"q{row}", f"p{row}") for row in range(400)]
    from lare.interventions import Replacer

    replacer = Replacer(Setting("distribution", 0, Bank(tuple(who), made, torch.full((400,), 2))), who)
    fed = replacer(torch.zeros(400, 1, 3), 0)
    torch.testing.assert_close(fed.mean(0)[0], made[:, 0, 0].mean(0), atol=0.8, rtol=0)
    torch.testing.assert_close(fed.std(0)[0], made[:, 0, 0].std(0), rtol=0.15, atol=0)


def test_slots_change_number_and_marks_alone() -> None:
    names = ("marks", "fewer", "more", "none", "format")
    found = dict(zip(names, under(*names), strict=True))
    assert [found[name][0].latent_steps for name in names] == [0, 1, 6, 0, 0]
    one = method()
    for name, steps in (("marks", 0), ("fewer", 1), ("more", 6)):
        assert said(found[name]) == said(one.changed(iterations=steps).answer(pictures(3), QUESTIONS, SAMPLING))
    plain = get_method("llava")(*tiny_parts()).answer(pictures(3), QUESTIONS, SAMPLING, trace=True)
    assert said(found["none"]) == said(plain)
    longer = {a.input_tokens - b.input_tokens for a, b in zip(found["format"], plain, strict=True)}
    assert longer == {8}, "a blank, a bracket, three dots with two blanks between them, a bracket; each a byte"
    start = one.processor.latent_start_id
    assert all(start not in answer.arrays["prompt_ids"] for name in ("none", "format") for answer in found[name])


def test_a_hidden_image_stays_hidden_beside_the_setting_that_hides_it() -> None:
    own, hidden = under("own", "hidden", hide_image=True)
    assert said(own) == said(hidden) == said(method(hide_image=True).answer(pictures(3), QUESTIONS, SAMPLING))
    assert said(own) != said(under("own")[0])


def test_hidden_is_the_older_option() -> None:
    assert said(under("hidden")[0]) == said(method(hide_image=True).answer(pictures(3), QUESTIONS, SAMPLING))


def test_oracles_feed_tokens_inside_and_outside_the_region() -> None:
    inside, outside = map(latents, under("oracle", "oracle_other"))
    one = method()
    with torch.inference_mode(), one.configured():
        visual = one.model.encode_images(one.inputs(pictures(3), QUESTIONS)["pixel_values"]).refocus
    unit = torch.nn.functional.normalize(visual, dim=-1)
    for row in range(3):
        for made, wanted in ((inside, {0}), (outside, set(range(1, 16)))):
            near = (torch.nn.functional.normalize(made[row, :, 0], dim=-1) @ unit[row].T).max(-1)
            assert bool((near.values > 0.999).all()) and set(near.indices.tolist()) <= wanted


def test_a_stop_rule_keeps_each_questions_own_number() -> None:
    names = ("own", "zeros", "permuted", "more", "marks")
    one = method("norefocus", stop="cosine:0.6")
    own = one.answer(pictures(3), QUESTIONS, SAMPLING)
    found = one.answer_under(pictures(3), QUESTIONS, SAMPLING, [Setting(name) for name in names], trace=True)
    steps = [answer.latent_steps for answer in own]
    assert len(set(steps)) > 1, "rows that stop apart"
    assert said(found[0]) == said(own)
    for name, factor in (("zeros", 1), ("permuted", 1), ("more", 2), ("marks", 0)):
        assert [a.latent_steps for a in found[names.index(name)]] == [factor * count for count in steps]


def test_the_option_asks_the_same_and_draws_hang_on_the_question_alone() -> None:
    for name in ("zeros", "noise", "permuted", "marks", "none"):
        one = method().changed(intervene=name, seed=3)
        answers = one.answer(pictures(3), QUESTIONS, SAMPLING, trace=True)
        assert said(answers) == said(under(name)[0])
        assert one.arguments()["intervene"] == name and "intervene" not in method().arguments()
    noise = latents(method().changed(intervene="noise", seed=4).answer(pictures(3), QUESTIONS, SAMPLING, trace=True))
    assert not torch.allclose(noise, latents(under("noise")[0]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lare", {"intervene": "wishes"}, "unknown; known are: .*zeros"),
        ("lare", {"intervene": "other"}, "intervene_from=DIR"),
        ("lare", {"intervene": "oracle"}, "validate.py"),
        ("lare", {"intervene": "image"}, "validate.py"),
        ("lare", {"intervene": "image", "intervene_from": "traces"}, "validate.py"),
        ("lare", {"intervene": "zeros", "latents": "noise"}, "neither latents"),
        ("sft", {"intervene": "zeros"}, "makes no latents"),
        ("sft", {"intervene": "more"}, "makes no latents"),
    ],
)
def test_what_means_nothing_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LareError, match=message):
        get_method(name)(*tiny_parts(), **options)


def test_methods_without_latents() -> None:
    sft, llava = get_method("sft")(*tiny_parts()), get_method("llava")(*tiny_parts())
    own, none = sft.answer_under(pictures(3), QUESTIONS, SAMPLING, [Setting("own"), Setting("none")])
    assert said(own) == said(sft.answer(pictures(3), QUESTIONS, SAMPLING))
    assert said(none) == said(llava.answer(pictures(3), QUESTIONS, SAMPLING))
    with pytest.raises(LareError, match="makes no latents"):
        llava.answer_under(pictures(3), QUESTIONS, SAMPLING, [Setting("zeros")])


def test_every_intervention_says_what_it_changes_and_what_it_holds_fixed() -> None:
    for name in intervention_names():
        one = get_intervention(name)
        assert one.name == name and one.title and one.changes and one.fixed
        assert one.content is not None or one.group in ("own", "slots", "image", "input")


def test_others_latents_come_from_traces(tmp_path: Path) -> None:
    """As `intervene_from` has it: another question's latents, read back from the traces of the natural run."""
    natural = method().answer(pictures(3), QUESTIONS, SAMPLING, trace=True)
    with TraceWriter(tmp_path / "own", {}) as writer:
        for number, (text, answer) in enumerate(zip(QUESTIONS, natural, strict=True)):
            facts = (answer.text, answer.text, answer.input_tokens, answer.output_tokens, answer.latent_steps, "fixed")
            arrays = {name: answer.arrays[name] for name in ("prompt_ids", "latents")}
            writer.append(AnswerRecord("lare", "f", "t", number, text, *facts, **arrays))
    one = method().changed(intervene="other", intervene_from=str(tmp_path / "own"))
    fed, own = latents(one.answer(pictures(3), QUESTIONS, SAMPLING, trace=True)), latents(natural)
    for row in range(3):
        assert any(torch.allclose(fed[row], own[other], atol=1e-5) for other in range(3) if other != row)
    one = method().changed(intervene="mean", intervene_from=str(tmp_path / "own"))
    fed = latents(one.answer(pictures(3), QUESTIONS, SAMPLING, trace=True))
    torch.testing.assert_close(fed, own.mean(0, keepdim=True).expand_as(own), **CLOSE)
