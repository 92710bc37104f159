"""The cache gives what a recompute gives, with and without gradients, in one piece or in many."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.cache_utils import DynamicCache

from lare.model import LareForConditionalGeneration, LoopState, extend, prefill, think
from lare.model.cache import RoomyCache

from .conftest import ModelOf
from .tiny import LAYERS, Sample, collate, make_samples

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def start(model: LareForConditionalGeneration, samples: list[Sample], room: int = 64) -> LoopState:
    batch = collate(samples)
    visual = model.encode_features(batch["visual_features"])
    return prefill(model, batch["input_ids"], batch["attention_mask"], visual, room=room)


def test_latents_fed_through_the_cache_equal_one_long_prefill(model_of: ModelOf, kind: str) -> None:
    """The state after K latents is that of a prefill over [prompt, z_1 .. z_K] in one run."""
    model = model_of(kind, latents_per_iteration=2)
    samples = make_samples(model.config, lengths=(5, 2))
    thoughts = think(model, start(model, samples), 3)
    again, _ = start(model, samples), None
    hidden, state = extend(model, again, thoughts.latents.flatten(1, 2), capture=True)
    torch.testing.assert_close(state.layer_hidden, thoughts.state.layer_hidden, **CLOSE)
    torch.testing.assert_close(state.last_hidden, thoughts.state.last_hidden, **CLOSE)
    torch.testing.assert_close(state.saliency, thoughts.state.saliency, **CLOSE)
    torch.testing.assert_close(hidden[:, -1], thoughts.state.last_hidden, **CLOSE)
    assert torch.equal(state.next_position, thoughts.state.next_position)
    assert torch.equal(state.attention_mask, thoughts.state.attention_mask)


@settings(deadline=None, max_examples=15)
@given(cuts=st.lists(st.integers(1, 3), min_size=1, max_size=4), seed=st.integers(0, 99), grad=st.booleans())
def test_pieces_equal_the_whole(model_of: ModelOf, cuts: list[int], seed: int, grad: bool) -> None:
    """Feeding T positions at once, or in pieces with pads of their own, gives the same outputs."""
    model = model_of("llama")
    samples = make_samples(model.config, lengths=(4, 2), seed=seed)
    size = sum(cuts)
    generator = torch.Generator().manual_seed(seed)
    embeds = model.embed(torch.randint(3, 60, (2, size), generator=generator)).detach()
    mask = torch.rand(2, size, generator=generator) > 0.3
    with torch.set_grad_enabled(grad):
        whole, end = extend(model, start(model, samples), embeds, mask)
        state, pieces, at = start(model, samples, room=2), [], 0
        for cut in cuts:
            hidden, state = extend(model, state, embeds[:, at : at + cut], mask[:, at : at + cut])
            pieces.append(hidden)
            at += cut
    torch.testing.assert_close(torch.cat(pieces, 1)[mask], whole[mask], **CLOSE)
    assert torch.equal(end.next_position, state.next_position)
    assert torch.equal(end.attention_mask, state.attention_mask)


def test_without_gradients_the_numbers_are_the_same(model_of: ModelOf, kind: str) -> None:
    model = model_of(kind, refocus_source="fine")
    batch = collate(make_samples(model.config, lengths=(5, 2)))
    trained = model(**batch)
    with torch.no_grad():
        free = model(**batch)
    with torch.inference_mode():
        inferred = model(**batch)
    assert isinstance(free.thoughts.state.cache, RoomyCache)
    assert not isinstance(trained.thoughts.state.cache, RoomyCache)
    for other in (free, inferred):
        assert not other.thoughts.latents.requires_grad
        torch.testing.assert_close(other.thoughts.latents, trained.thoughts.latents.detach(), **CLOSE)
        torch.testing.assert_close(other.lm_loss[0], trained.lm_loss[0].detach(), **CLOSE)
        torch.testing.assert_close(other.prefix_loss[0], trained.prefix_loss[0].detach(), **CLOSE)


def fill(cache: DynamicCache, sizes: list[int], batch: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Append random keys and values of the given lengths to each layer; returns what each layer gave last."""
    generator = torch.Generator().manual_seed(0)
    last: list[tuple[Tensor, Tensor]] = [None] * LAYERS
    for size in sizes:
        for layer in range(LAYERS):
            keys, values = (torch.randn(batch, 2, size, 4, generator=generator) for _ in range(2))
            last[layer] = cache.update(keys, values, layer)
    return last


@pytest.mark.parametrize("room", [0, 1, 4, 64])
@pytest.mark.parametrize("sizes", [[3], [1, 1, 1], [5, 1, 1, 4, 1]])
def test_roomy_cache_equals_transformers_own(room: int, sizes: list[int]) -> None:
    ours, theirs = RoomyCache(LAYERS, room), DynamicCache()
    for (key, value), (other_key, other_value) in zip(fill(ours, sizes), fill(theirs, sizes), strict=True):
        assert torch.equal(key, other_key)
        assert torch.equal(value, other_value)
    assert ours.get_seq_length() == theirs.get_seq_length() == sum(sizes)


@pytest.mark.parametrize("change", ["repeat", "select"])
def test_roomy_cache_goes_on_after_its_rows_changed(change: str) -> None:
    """Rows are repeated behind a shared prefix and dropped when finished; what follows must not overwrite them."""
    caches = (RoomyCache(LAYERS, 8), DynamicCache())
    results = []
    for cache in caches:
        fill(cache, [3, 1])
        if change == "repeat":
            cache.batch_repeat_interleave(3)
        else:
            cache.batch_select_indices(torch.tensor([1]))
        results.append(fill(cache, [1, 2, 1], batch=6 if change == "repeat" else 1))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_room_is_used_in_place() -> None:
    """The point of it: a new token does not move the old ones."""
    cache = RoomyCache(LAYERS, 8)
    before = fill(cache, [3])[0][0].data_ptr()
    assert fill(cache, [1])[0][0].data_ptr() == before
