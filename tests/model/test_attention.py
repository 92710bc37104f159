"""The captured last row is eager attention's last row, and asking for it changes nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from lare.model import extend, prefill
from lare.model.attention import ATTENTION_NAME, LastQueryCapture, _slow_kernel, lare_sdpa
from lare.model.loop import LoopState

from . import reference
from .conftest import ModelOf
from .tiny import LAYERS, Sample, collate, make_samples

quick = settings(deadline=None, max_examples=60)


class _Attention(torch.nn.Module):
    """What attention functions ask of their module."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = True
        self.eval()


def tensors(batch: int, groups: int, new: int, past: int, seed: int, padded: bool) -> tuple[Tensor, ...]:
    """Query, key, value and an additive mask with left padding on row 0."""
    generator = torch.Generator().manual_seed(seed)

    def draw(heads: int, size: int) -> Tensor:
        return torch.randn(batch, heads, size, 4, generator=generator)

    total = past + new
    allowed = torch.ones(new, total, dtype=torch.bool).tril(past)[None, None].repeat(batch, 1, 1, 1)
    if padded and total > 1:
        allowed[0, :, :, 0] = False
        allowed[0, 0, :, past:] |= torch.eye(new, dtype=torch.bool)
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    return draw(2 * groups, new), draw(2, total), draw(2, total), mask


@quick
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 3),
    new=st.integers(1, 5),
    past=st.integers(0, 4),
    seed=st.integers(0, 2**31),
    padded=st.booleans(),
    boolean=st.booleans(),
)
def test_function_equals_eager(
    batch: int, groups: int, new: int, past: int, seed: int, padded: bool, boolean: bool
) -> None:
    query, key, value, mask = tensors(batch, groups, new, past, seed, padded)
    module, capture = _Attention(groups), LastQueryCapture()
    expected, maps = eager_attention_forward(module, query, key, value, mask, scaling=0.5)
    given_mask = mask == 0 if boolean else mask
    out, nothing = lare_sdpa(module, query, key, value, given_mask, scaling=0.5, **capture.keywords())
    plain, _ = lare_sdpa(module, query, key, value, given_mask, scaling=0.5)
    assert nothing is None
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(capture.rows[0], maps[:, :, -1], atol=1e-6, rtol=1e-5)


def test_default_scaling_is_by_head_width() -> None:
    query, key, value, mask = tensors(1, 2, 1, 3, 0, False)
    capture = LastQueryCapture()
    out, _ = lare_sdpa(_Attention(2), query, key, value, None, **capture.keywords())
    expected, maps = eager_attention_forward(_Attention(2), query, key, value, None, scaling=4**-0.5)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(capture.rows[0], maps[:, :, -1])


def test_registered_and_used_by_the_decoder(model_of: ModelOf, kind: str) -> None:
    assert ALL_ATTENTION_FUNCTIONS[ATTENTION_NAME] is lare_sdpa
    assert model_of(kind).language_model.config._attn_implementation == ATTENTION_NAME


def state_of(model_of: ModelOf, kind: str, samples: list[Sample]) -> LoopState:
    model, batch = model_of(kind), collate(samples)
    visual = model.encode_features(batch["visual_features"])
    return prefill(model, batch["input_ids"], batch["attention_mask"], visual, keep_rows=True)


def test_rows_states_and_saliency_equal_eagers(model_of: ModelOf, kind: str) -> None:
    model = model_of(kind)
    samples = make_samples(model.config, lengths=(6, 2))
    state = state_of(model_of, kind, samples)
    decoder = reference.EagerDecoder(model)
    for row, sample in enumerate(samples):
        run = decoder(reference.think(model, sample, 0).embeds)
        start = state.attention_mask.shape[1] - len(sample.prompt)
        rows = state.rows[row]
        torch.testing.assert_close(rows[:, :, start:], run.attention[:, :, -1], atol=1e-6, rtol=1e-5)
        assert float(rows[:, :, :start].abs().sum()) == 0.0
        torch.testing.assert_close(state.layer_hidden[row], run.layers[:, -1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(state.last_hidden[row], run.final[-1], atol=1e-5, rtol=1e-5)


def test_last_layer_state_is_taken_before_the_final_norm(model_of: ModelOf, kind: str) -> None:
    state = state_of(model_of, kind, make_samples(model_of(kind).config))
    normed = model_of(kind).decoder.norm(state.layer_hidden[:, -1])
    torch.testing.assert_close(normed, state.last_hidden)
    assert not torch.allclose(state.layer_hidden[:, -1], state.last_hidden, atol=1e-2)


def test_saliency_is_a_share_of_attention(model_of: ModelOf, kind: str) -> None:
    model = model_of(kind)
    state = state_of(model_of, kind, make_samples(model.config, lengths=(6, 2, 4)))
    torch.testing.assert_close(state.rows.sum(-1), torch.ones(3, LAYERS, 4), atol=1e-5, rtol=0)
    assert float(state.saliency.min()) >= 0
    assert float(state.saliency.sum(1).max()) < 1
    picked = state.rows.mean((1, 2)).gather(1, state.visual_slots)
    torch.testing.assert_close(state.saliency, picked, atol=1e-6, rtol=1e-5)


def test_attention_sums_to_one_after_every_extension(model_of: ModelOf, kind: str) -> None:
    model = model_of(kind)
    state = state_of(model_of, kind, make_samples(model.config, lengths=(6, 2)))
    for size in (1, 3):
        embeds = model.embed(torch.full((2, size), 7))
        _, state = extend(model, state, embeds, capture=True, keep_rows=True)
        assert state.rows.shape[-1] == state.attention_mask.shape[1]
        torch.testing.assert_close(state.rows.sum(-1), torch.ones(2, LAYERS, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("train", [True, False])
def test_capture_changes_no_number(model_of: ModelOf, kind: str, train: bool) -> None:
    model = model_of(kind)
    embeds = model.embed(torch.tensor([[5, 9, 11], [4, 4, 8]]))
    with torch.set_grad_enabled(train):
        plain, _ = extend(model, state_of(model_of, kind, make_samples(model.config)), embeds)
        seen, _ = extend(model, state_of(model_of, kind, make_samples(model.config)), embeds, capture=True)
    torch.testing.assert_close(plain, seen)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["none", "additive", "boolean"])
def test_half_precision_decode_steps_equal_the_kernel_in_float32(dtype: torch.dtype, kind: str) -> None:
    """One query a head on the CPU takes a path of its own; padding, grouped heads and scaling must all reach it."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, 1, 16, generator=generator).to(dtype)
    key, value = (torch.randn(3, 2, 9, 16, generator=generator).to(dtype) for _ in range(2))
    real = torch.arange(9) >= torch.tensor([[0], [2], [5]])  # left padding of different lengths
    mask = {
        "none": None,
        "boolean": real[:, None, None],
        "additive": torch.zeros(3, 9, dtype=dtype).masked_fill(~real, float("-inf"))[:, None, None],
    }[kind]
    with torch.inference_mode():
        assert _slow_kernel(query, 0.0), "or the test looks at another path"
        found, _ = lare_sdpa(torch.nn.Module(), query, key, value, mask, scaling=0.3)
    whole = None if mask is None else real[:, None, None]
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.float(), *(one.float().repeat_interleave(2, 1) for one in (key, value)), attn_mask=whole, scale=0.3
    ).transpose(1, 2)
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["none", "additive", "boolean"])
@pytest.mark.parametrize("autocast", [False, True])
def test_few_queries_with_gradient_are_computed_in_float32(
    dtype: torch.dtype, kind: str, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under autocast too, where rotary embeddings leave float32 queries: values and gradients are the exact ones."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4, 5, 16), (3, 2, 9, 16), (3, 2, 9, 16))
    given = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
    causal = (
        torch.ones(5, 9, dtype=torch.bool).tril(4)[None] & (torch.arange(9) >= torch.tensor([[0], [2], [3]]))[:, None]
    )
    mask = {
        "none": None,
        "boolean": causal[:, None],
        "additive": torch.zeros(3, 1, 5, 9, dtype=dtype).masked_fill(~causal[:, None], float("-inf")),
    }[kind]
    module = torch.nn.Module()
    module.is_causal = False
    module.num_key_value_groups = 2

    def run() -> list[torch.Tensor]:
        with torch.autocast("cpu", dtype, enabled=autocast):
            first = given[0].float() if autocast else given[0]
            out, _ = lare_sdpa(module, first, given[1], given[2], mask, scaling=0.3)
        assert out.dtype == dtype and out.shape == (3, 5, 4, 16)
        return [out.detach(), *torch.autograd.grad(out.float().square().sum(), given)]

    exact = [one.detach().float().requires_grad_() for one in given]
    repeated = [exact[0], *(one.repeat_interleave(2, 1) for one in exact[1:])]
    whole = None if mask is None else causal[:, None]
    out = torch.nn.functional.scaled_dot_product_attention(*repeated, attn_mask=whole, scale=0.3).transpose(1, 2)
    rounded = out.to(dtype)  # what the loss sees
    expected = [rounded.detach(), *torch.autograd.grad(out, exact, 2 * rounded.detach().float())]
    for found, wanted in zip(run(), expected, strict=True):
        assert torch.equal(found, wanted.to(dtype))
    monkeypatch.setattr("lare.model.attention._FEW", 0)
    errors = [float((one.float() - wanted.float()).abs().max()) for one, wanted in zip(run(), expected, strict=True)]
    assert max(errors) > 0, "or the test looks at torch's own path"
