"""Learnt slots: forced or written by the model, their states, and answers that no batch changes."""

import numpy as np
import pytest
import torch

from lare.errors import LareError
from lare.methods.base import Sampling
from lare.reasoners import preset_names
from tests.reasoners import plain, tiny

SHORT = Sampling(max_new_tokens=4)
CASES = [(name, tiny.first_family(name)) for name in preset_names("slots")] + [("covt", "llava")]


def _reference(method, image, question, limit):
    """Tokens and states at the slots: plain greedy decoding, the whole sequence read anew for every token."""
    row = plain.Plain(method, image, question)
    ids = row.ids[0].tolist()
    while True:
        states = row.read().last_hidden_state[0]
        token = int(method.model.get_output_embeddings()(states[-1]).argmax())
        written = ids[row.ids.shape[1] :]
        if token in method.tokens.ends or len(written) == limit:
            slots = [place for place, one in enumerate(ids[: len(states)]) if one in method.tokens.slots]
            return written, states[slots]
        ids.append(token)
        if len(written) + 1 < limit:
            row.append(row.embed(torch.tensor([[token]])))


@pytest.mark.parametrize(("name", "family"), CASES)
def test_batch_of_eight_is_one_alone_is_plain_decoding(loaded, name, family):
    method = loaded(name, family)
    images = tiny.pictures(8)
    together = method.answer(images, tiny.QUESTIONS, SHORT, trace=True)
    assert any(one.latent_steps for one in together)
    for row in (0, 6):
        (alone,) = method.answer([images[row]], [tiny.QUESTIONS[row]], SHORT, trace=True)
        assert (alone.text, alone.latent_steps) == (together[row].text, together[row].latent_steps)
        if alone.latent_steps:
            assert np.abs(alone.arrays["latents"] - together[row].arrays["latents"]).max() < 1e-5
    with torch.inference_mode():
        written, states = _reference(method, images[0], tiny.QUESTIONS[0], SHORT.max_new_tokens)
    text = [one for one in written if one not in method.tokens.special()]
    assert method.decode(text).strip() == together[0].text and len(states) == together[0].latent_steps
    if len(states):
        assert np.abs(together[0].arrays["latents"][:, 0] - states.float().numpy()).max() < 1e-5


def test_the_number_of_slots(loaded):
    method = loaded("mull_tokens", "qwen2_5_vl", iterations=3)
    (answer,) = method.answer(tiny.pictures(1), tiny.QUESTIONS[:1], SHORT, trace=True)
    slot = method.tokens.slots[0]
    assert answer.latent_steps == 3 and (answer.arrays["prompt_ids"] == slot).sum() == 3
    (none,) = method.changed(iterations=0).answer(tiny.pictures(1), tiny.QUESTIONS[:1], SHORT, trace=True)
    assert none.latent_steps == 0 and slot not in none.arrays["prompt_ids"]
    assert none.input_tokens == answer.input_tokens - 3
    with pytest.raises(LareError, match="iterations is 3; the slots of 'lavit' come in rows of 4"):
        loaded("lavit", "qwen2_5_vl", iterations=3)
    with pytest.raises(LareError, match="'covt' lets the model write its slots; leave iterations out"):
        loaded("covt", "qwen2_5_vl", iterations=3)
