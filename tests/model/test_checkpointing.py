"""Gradient checkpointing: loss and gradients are those without it, on every path through the cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lare.model import LareForConditionalGeneration
from lare.model.checkpointing import is_checkpointed

from .tiny import collate, make_samples, tiny_model

WAYS: dict[str, dict[str, Any]] = {
    "latents": dict(iterations=2),
    "saliency": dict(iterations=2, saliency_gradient=True),
    "soft window": dict(iterations=2, window_mode="soft:0.1"),
    "plain": dict(iterations=0, delimiters=False),
}


def gradients(model: LareForConditionalGeneration, way: str) -> tuple[float, dict[str, torch.Tensor]]:
    options = WAYS[way]
    samples = make_samples(model.config, start=options.get("delimiters", True))
    out = model(**collate(samples, prefixes=bool(options["iterations"])), **options)
    loss = out.lm_loss[0]
    if out.prefix_loss is not None:
        loss = loss + out.prefix_loss[0] + out.thoughts.latents.square().sum()
    if options.get("saliency_gradient"):
        loss = loss + out.thoughts.saliency[..., 0].log().sum()
    model.zero_grad()
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_loss_and_gradients_are_those_without(kind: str, way: str) -> None:
    model = tiny_model(kind).train()
    loss, wanted = gradients(model, way)
    model.gradient_checkpointing_enable()
    calls = []
    hooks = [layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1)) for layer in model.decoder.layers]
    again, found = gradients(model, way)
    for hook in hooks:
        hook.remove()
    assert again == loss and found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, atol=1e-6 * float(value.abs().max().clamp_min(1.0))), name
    model.gradient_checkpointing_disable()
    assert not any(is_checkpointed(layer) for layer in model.decoder.layers)
    plain: list[int] = []
    for layer in model.decoder.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: plain.append(1))
    gradients(model, way)
    assert len(calls) == 2 * len(plain)  # each layer's call is made once more, in the backward pass


def test_less_is_kept_for_the_backward_pass() -> None:
    """Bytes that autograd holds fall; answers take no notice."""

    def kept(model: LareForConditionalGeneration) -> int:
        held = {}

        def pack(value: torch.Tensor) -> torch.Tensor:
            held[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            model(**collate(make_samples(model.config, lengths=(40, 33))), iterations=1)
        return sum(size for place, size in held.items() if place not in weights)

    model = tiny_model("llama").train()
    before = kept(model)
    inputs = collate(make_samples(model.config), targets=False, prefixes=False)
    said = model.generate(**inputs, max_new_tokens=3).sequences
    model.gradient_checkpointing_enable()
    assert kept(model) < 0.7 * before
    assert torch.equal(model.generate(**inputs, max_new_tokens=3).sequences, said)
