"""Interventions on other projects' models: each changes what it says, alone as in a batch, shared as apart."""

import numpy as np
import pytest
import torch

from lare.errors import LareError
from lare.interventions import Asked, Bank, Setting, get_intervention, intervention_names
from lare.methods.base import Sampling
from lare.methods.intervening import ask_of
from lare.reasoners import preset_names
from tests.reasoners import tiny

SHORT = Sampling(max_new_tokens=4)
BOX = (0.0, 0.0, 0.25, 0.25)
ROWS = 3


def asked():
    pairs = ask_of(tiny.pictures(ROWS), tiny.QUESTIONS[:ROWS])
    return [Asked(one.key, one.group, boxes=(BOX,)) for one in pairs]


def bank_of(answers):
    longest = max(one.latent_steps for one in answers)
    latents = np.zeros((ROWS, longest, 1, tiny.WIDTH), np.float32)
    for row, one in enumerate(answers):
        if one.latent_steps:
            latents[row, : one.latent_steps] = one.arrays["latents"]
    return Bank(tuple(asked()), torch.tensor(latents), torch.tensor([one.latent_steps for one in answers]))


def under(method, settings, rows=slice(None)):
    images = tiny.pictures(ROWS)
    return method.answer_under(images[rows], tiny.QUESTIONS[:ROWS][rows], SHORT, settings, asked()[rows], True)


def said(answers):
    return [(one.text, one.output_tokens, one.latent_steps, one.decoder_passes) for one in answers]


@pytest.mark.parametrize("name", preset_names())
def test_the_suite_runs_on_every_preset(loaded, name):
    method = loaded(name)
    if method.preset.block is not None and method.block.count > 8:
        method = method.changed(iterations=5)
    settings = [Setting(one) for one in ("own", "zeros", "marks", "none")]
    settings += [Setting("first")]
    own, zeros, marks, none, first = under(method, settings)
    alone = under(method, settings[1:2], slice(1, 2))[0]
    assert said(own) == said(method.answer(tiny.pictures(ROWS), tiny.QUESTIONS[:ROWS], SHORT))
    assert said(alone) == said(zeros[1:2])
    assert all(one.latent_steps == 0 for one in [*marks, *none])
    fed_back = method.preset.block is not None
    for was, zero, repeated in zip(own, zeros, first, strict=True):
        if fed_back and was.latent_steps:
            block = int(was.arrays["blocks"][0])
            assert int(zero.arrays["blocks"][0]) == int(repeated.arrays["blocks"][0]) == block
            assert not zero.arrays["latents"].any()
            np.testing.assert_allclose(repeated.arrays["latents"][0], was.arrays["latents"][0], atol=1e-5)
            assert (repeated.arrays["latents"] == repeated.arrays["latents"][:1]).all()
    if fed_back and name != "colt":
        assert any(one.text != other.text for one, other in zip(own, zeros, strict=True))


@pytest.mark.parametrize(
    "name", ["mirage", *(pytest.param(one, marks=pytest.mark.slow) for one in ("lvr", "ivt_lr", "monet"))]
)
def test_shared_equals_apart_and_a_batch_its_questions_alone(loaded, name):
    method = loaded(name, iterations=2)
    bank = bank_of(method.answer(tiny.pictures(ROWS), tiny.QUESTIONS[:ROWS], SHORT, trace=True))
    names = [one for one in intervention_names() if not get_intervention(one).exchanges and one != "more"]
    settings = [Setting(one, 3, bank) for one in names]
    together = under(method, settings)
    for setting, found in zip(settings, together, strict=True):
        assert said(under(method, [setting], slice(1, 2))[0]) == said(found[1:2]), setting.name


def test_each_feeds_what_it_is_called(loaded):
    method = loaded("coconut", iterations=4)
    own = method.answer(tiny.pictures(ROWS), tiny.QUESTIONS[:ROWS], SHORT, trace=True)
    bank = bank_of(own)
    names = ("noise", "other", "mean", "dummy", "permuted", "fewer", "more", "marks", "none", "format")
    found = dict(zip(names, under(method, [Setting(one, 1, bank) for one in names]), strict=True))
    latents = {one: [a.arrays.get("latents", np.zeros((0, 1, tiny.WIDTH))) for a in found[one]] for one in names}
    for row in range(ROWS):
        mine = own[row].arrays["latents"]
        np.testing.assert_allclose(latents["mean"][row], bank.latents.mean(0).numpy(), atol=1e-6)
        others = [bank.latents[other].numpy() for other in range(ROWS) if other != row]
        assert any(np.allclose(latents["other"][row], one) for one in others)
        assert not np.allclose(latents["permuted"][row], mine)
        np.testing.assert_allclose(np.sort(latents["permuted"][row], 0), np.sort(mine, 0), atol=1e-6)
        length = np.linalg.norm(latents["noise"][row][0], axis=-1)
        np.testing.assert_allclose(length, np.linalg.norm(mine[0], axis=-1), rtol=1e-5)
        np.testing.assert_allclose(latents["dummy"][row][0, 0], method.dummy.numpy(), atol=1e-6)
    counts = {one: {len(a) for a in latents[one]} for one in ("fewer", "more", "marks", "none", "format")}
    assert counts == {"fewer": {2}, "more": {8}, "marks": {0}, "none": {0}, "format": {0}}
    end, start = method.tokens.end, method.tokens.start
    assert start in found["marks"][0].arrays["prompt_ids"] and found["marks"][0].decoder_passes == 5 and end is not None
    assert start not in found["none"][0].arrays["prompt_ids"]
    dots = method.decode(found["format"][0].arrays["prompt_ids"].tolist())
    assert dots.endswith("(. . . .)")
    with pytest.raises(LareError, match="sees no picture, so intervene=hidden changes nothing"):
        under(method, [Setting("hidden")])


def test_a_regions_tokens_are_those_of_the_picture(loaded):
    method = loaded("lvr", iterations=2)
    (answers,) = under(method, [Setting("oracle")])
    row = next(row for row, one in enumerate(answers) if one.latent_steps)
    with torch.inference_mode():
        inputs = method.processor(images=[tiny.pictures(ROWS)[row]], text="<|image_pad|>", return_tensors="pt")
        seen = method.model.base_model.get_image_features(
            pixel_values=inputs["pixel_values"].double(), image_grid_thw=inputs["image_grid_thw"], return_dict=True
        )
    tokens = torch.cat(tuple(seen.pooler_output)).float().numpy()
    np.testing.assert_allclose(answers[row].arrays["latents"][0, 0], tokens[0], atol=1e-5)


def test_the_answer_can_be_kept_from_the_image(loaded):
    """With the image masked once the latents are made, what follows is that of a picture of which only they know."""
    method = loaded("mull_tokens", iterations=2)
    hidden, own = under(method, [Setting("hidden"), Setting("own")])
    assert [one.text for one in hidden] != [one.text for one in own]
    assert all((one.arrays["latents"] == other.arrays["latents"]).all() for one, other in zip(hidden, own, strict=True))


def test_what_means_nothing_to_slots_is_refused(loaded):
    mull, covt = loaded("mull_tokens"), loaded("covt")
    for name in ("other", "mean", "distribution", "oracle", "image_latents"):
        with pytest.raises(LareError, match="slots are the same embeddings for every question"):
            mull.check_setting(Setting(name))
    for name in ("fewer", "more", "permuted"):
        with pytest.raises(LareError, match="'covt' lets the model write its slots"):
            covt.check_setting(Setting(name))
    for answers, steps in zip(under(mull, [Setting("fewer"), Setting("more")]), (10, 40), strict=True):
        assert {one.latent_steps for one in answers} == {steps}


def test_options_ask_for_an_intervention(loaded, tmp_path):
    method = loaded("coconut")
    zeros = method.changed(intervene="zeros")
    (answer,) = zeros.answer(tiny.pictures(1), tiny.QUESTIONS[:1], SHORT, trace=True)
    assert not answer.arrays["latents"].any() and zeros.arguments() != method.arguments()
    with pytest.raises(LareError, match="intervene_from=DIR"):
        method.changed(intervene="mean").answer(tiny.pictures(1), tiny.QUESTIONS[:1], SHORT)
    with pytest.raises(LareError, match="set temperature to 0"):
        zeros.answer(tiny.pictures(1), tiny.QUESTIONS[:1], Sampling(temperature=1.0))
    assert len(method.answer(tiny.pictures(2), tiny.QUESTIONS[:2], Sampling(max_new_tokens=3, temperature=1.0))) == 2
