"""bfloat16: as weights and under autocast, the loop stays near its float32 self and keeps what must be float32."""

from __future__ import annotations

import copy

import pytest
import torch

from lare.model import LareForConditionalGeneration, LareOutput

from .conftest import ModelOf
from .test_loop import gradients
from .tiny import collate, make_samples


def outputs(model: LareForConditionalGeneration, autocast: bool) -> tuple[LareOutput, LareOutput]:
    """A float32 run and its bfloat16 twin."""
    batch = collate(make_samples(model.config, lengths=(5, 2), seed=1))
    exact = model(**batch)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            return exact, model(**batch)
    return exact, copy.deepcopy(model).to(torch.bfloat16)(**batch)


@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
@pytest.mark.parametrize(
    "changes", [{}, {"refocus_source": "fine"}, {"use_extractor": False}], ids=["lm", "fine", "no"]
)
def test_bfloat16_is_near_float32(model_of: ModelOf, kind: str, changes: dict[str, object], autocast: bool) -> None:
    exact, rough = outputs(model_of(kind, **changes), autocast)
    for name in ("lm_loss", "prefix_loss"):
        assert float(getattr(rough, name)[0].detach()) == pytest.approx(
            float(getattr(exact, name)[0].detach()), rel=0.05
        )
        assert getattr(rough, name)[0].dtype == torch.float32
    ours, theirs = rough.thoughts.latents.float(), exact.thoughts.latents
    similar = torch.nn.functional.cosine_similarity(ours, theirs, dim=-1)
    same = (rough.thoughts.windows == exact.thoughts.windows).all(-1).cumprod(1).bool()
    assert bool(same[:, 0].all()), "the first look must not depend on the precision here"
    assert float(similar[same].detach().min()) > 0.98
    assert rough.thoughts.saliency.dtype == torch.float32
    assert bool(torch.isfinite(ours).all())


@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
def test_bfloat16_padding_is_still_masked(model_of: ModelOf, kind: str, autocast: bool) -> None:
    """-inf in the additive mask must survive the cast: a pad's share is zero, not small."""
    model = model_of(kind)
    model = model if autocast else copy.deepcopy(model).to(torch.bfloat16)
    samples = make_samples(model.config, lengths=(1, 8))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        together = model(**collate(samples))
        alone = model(**collate(samples[:1]))
    torch.testing.assert_close(together.thoughts.saliency[0], alone.thoughts.saliency[0], atol=5e-3, rtol=0.05)


@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
def test_bfloat16_gradients_point_the_same_way(model_of: ModelOf, kind: str, autocast: bool) -> None:
    model = model_of(kind, use_window=False)
    batch = collate(make_samples(model.config, seed=1))
    exact = model(**batch)
    wanted = gradients(model, exact.lm_loss[0] + exact.prefix_loss[0])
    other = model if autocast else copy.deepcopy(model).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rough = other(**batch)
    found = gradients(other, rough.lm_loss[0] + rough.prefix_loss[0])
    flat = [torch.cat([grads[name].float().flatten() for name in wanted]) for grads in (found, wanted)]
    assert float(torch.nn.functional.cosine_similarity(*flat, dim=0)) > 0.98
