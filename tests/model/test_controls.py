"""Switches and causal controls do what they say, and latents live where input embeddings live."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lare import LareError
from lare.losses.image_loss import image_crop
from lare.model import LareForConditionalGeneration, LareOutput, Thoughts, prefill, think
from lare.model.checkpointing import is_checkpointed
from lare.model.thinking import rms_normalise

from . import reference
from .conftest import ModelOf
from .test_loop import gradients
from .tiny import END, GRID, WIDTH, WINDOW, Sample, collate, make_samples, tiny_config, tiny_model

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def run(model: LareForConditionalGeneration, samples: list[Sample], iterations: int = 3, **options: object) -> Thoughts:
    batch = collate(samples)
    state = prefill(model, batch["input_ids"], batch["attention_mask"], model.encode_features(batch["visual_features"]))
    return think(model, state, iterations, **options)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 99), extractor=st.booleans(), tokens=st.integers(1, 3))
def test_latents_have_the_rms_of_the_embedding_table(
    model_of: ModelOf, seed: int, extractor: bool, tokens: int
) -> None:
    model = model_of("llama", use_extractor=extractor, latents_per_iteration=tokens)
    latents = run(model, make_samples(model.config, seed=seed)).latents
    table = model.get_input_embeddings().weight
    wanted = table.square().mean().sqrt().expand(latents.shape[:3])
    torch.testing.assert_close(latents.square().mean(-1).sqrt(), wanted, atol=1e-4, rtol=1e-4)


def test_embedding_rms_follows_training() -> None:
    """It is cached; every way in which an optimiser changes the table must be seen."""
    model = tiny_model("llama")
    table = model.get_input_embeddings().weight

    def agrees() -> bool:
        return float(model.embedding_rms()) == pytest.approx(float(table.detach().square().mean().sqrt()), rel=1e-6)

    assert agrees()
    for fused, foreach in ((True, False), (False, True), (False, False)):
        optimiser = torch.optim.AdamW([table], lr=0.1, fused=fused, foreach=foreach)
        table.grad = torch.ones_like(table)
        before = float(model.embedding_rms())
        optimiser.step()
        assert agrees()
        assert float(model.embedding_rms()) != before
    model.load_state_dict({name: value * 2 for name, value in model.state_dict().items()})
    assert agrees()
    model.get_input_embeddings().weight.data = table.detach() * 3
    table = model.get_input_embeddings().weight
    assert agrees()


def test_a_model_made_in_inference_mode_works() -> None:
    """Its weights are inference tensors, which count no versions."""
    with torch.inference_mode():
        model = tiny_model("llama")
        thoughts = run(model, make_samples(model.config))
    ordinary = run(tiny_model("llama"), make_samples(model.config))
    torch.testing.assert_close(thoughts.latents.clone(), ordinary.latents.detach(), **CLOSE)


@given(st.integers(0, 2**31), st.floats(0.5, 1e3))
def test_rms_normalise_is_blind_to_scale(seed: int, scale: float) -> None:
    states = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(rms_normalise(states * scale), rms_normalise(states), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rms_normalise(states).square().mean(-1), torch.ones(3), atol=1e-4, rtol=0)


# Controls at test time -----------------------------------------------------------------------------------------


def test_zeros_are_fed(model_of: ModelOf) -> None:
    model = model_of("llama")
    samples = make_samples(model.config)
    thoughts = run(model, samples, latent_override="zeros")
    assert float(thoughts.latents.abs().sum()) == 0
    assert_fed(model, samples, thoughts)


def test_noise_has_each_latents_norm_and_repeats(model_of: ModelOf) -> None:
    model = model_of("llama", latents_per_iteration=2)
    samples = make_samples(model.config)
    first, second, other = (
        run(model, samples, latent_override="noise", generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.latents, second.latents)
    assert not torch.allclose(first.latents, other.latents)
    table = model.get_input_embeddings().weight.square().mean().sqrt() * WIDTH**0.5
    torch.testing.assert_close(first.latents.norm(dim=-1), table.expand(2, 3, 2), atol=1e-3, rtol=1e-4)
    similar = torch.nn.functional.cosine_similarity(first.latents[:, 0], run(model, samples).latents[:, 0], dim=-1)
    assert float(similar.abs().max()) < 0.9
    assert_fed(model, samples, first)


@pytest.mark.parametrize("shape", [(2, 3, 1, WIDTH), (3, 1, WIDTH), (1, WIDTH), (WIDTH,), (2, 1, 1, WIDTH)])
def test_a_tensor_is_fed(model_of: ModelOf, shape: tuple[int, ...]) -> None:
    model = model_of("llama")
    samples = make_samples(model.config)
    override = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    thoughts = run(model, samples, latent_override=override)
    assert torch.equal(thoughts.latents, override.expand(2, 3, 1, WIDTH))
    assert_fed(model, samples, thoughts)


def assert_fed(model: LareForConditionalGeneration, samples: list[Sample], thoughts: Thoughts) -> None:
    """What the record says is what the decoder read: the last state is that of a plain run over it."""
    for row, sample in enumerate(samples):
        plain = reference.think(model, sample, 3, override=thoughts.latents[row])
        final = reference.EagerDecoder(model)(plain.embeds).final[-1]
        torch.testing.assert_close(thoughts.state.last_hidden[row], final, **CLOSE)


def test_own_latents_as_override_change_nothing(model_of: ModelOf) -> None:
    model = model_of("llama")
    samples = make_samples(model.config)
    natural = run(model, samples)
    forced = run(model, samples, latent_override=natural.latents.detach())
    torch.testing.assert_close(forced.state.last_hidden, natural.state.last_hidden, **CLOSE)
    assert torch.equal(forced.windows, natural.windows)


@pytest.mark.parametrize("override", ["ones", torch.zeros(3, 3, 1, WIDTH), torch.zeros(WIDTH - 1)])
def test_impossible_override_is_named(model_of: ModelOf, override: str | Tensor) -> None:
    with pytest.raises(LareError, match="latent_override"):
        run(model_of("llama"), make_samples(model_of("llama").config), latent_override=override)


def test_random_windows_are_looked_at(model_of: ModelOf) -> None:
    model = model_of("llama", refocus_source="fine")
    samples = make_samples(model.config)
    first, again = (
        run(model, samples, window_mode="random", generator=torch.Generator().manual_seed(4)) for _ in range(2)
    )
    assert torch.equal(first.latents, again.latents)
    assert not torch.equal(first.windows, run(model, samples).windows)
    for row, sample in enumerate(samples):
        plain = reference.think(model, sample, 3, corners=first.windows[row].tolist())
        torch.testing.assert_close(first.latents[row], torch.stack(plain.latents), **CLOSE)
        torch.testing.assert_close(first.cross_attention[row], torch.stack(plain.looks), **CLOSE)


def test_full_window_is_the_model_without_one(model_of: ModelOf, kind: str) -> None:
    model, open_model = model_of(kind), model_of(kind, use_window=False)
    samples = make_samples(model.config)
    full, without = run(model, samples, window_mode="full"), run(open_model, samples)
    torch.testing.assert_close(full.latents, without.latents)
    torch.testing.assert_close(full.cross_attention, without.cross_attention)
    assert full.cross_attention.shape == (2, 3, GRID**2)
    assert full.window_masses.tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(("mode", "side"), [("saliency", WINDOW), ("full", GRID)])
@pytest.mark.parametrize("cells", [0, 1])
def test_latents_rebuild_what_their_mode_shows(model_of: ModelOf, mode: str, side: int, cells: int) -> None:
    model = model_of("llama")
    samples = make_samples(model.config)
    thoughts = run(model, samples, window_mode=mode)
    rows, step = torch.arange(len(samples)), torch.tensor([0, 2])
    corners = thoughts.windows[rows, step]
    found, cut = image_crop(model.config, cells, thoughts, rows, step, corners)
    assert cut == (cells or side)
    peak = thoughts.cross_attention[rows, step].argmax(-1)
    assert torch.equal(found, corners + torch.stack((peak // side, peak % side), -1) * bool(cells))


def test_unknown_window_mode_is_named(model_of: ModelOf) -> None:
    with pytest.raises(LareError, match="window is 'centre'"):
        run(model_of("llama"), make_samples(model_of("llama").config), window_mode="centre")


def test_cross_attention_is_a_distribution_over_the_window(model_of: ModelOf, kind: str) -> None:
    thoughts = run(model_of(kind), make_samples(model_of(kind).config))
    assert thoughts.cross_attention.shape == (2, 3, WINDOW**2)
    torch.testing.assert_close(thoughts.cross_attention.sum(-1), torch.ones(2, 3), atol=1e-5, rtol=0)


def test_tokens_outside_the_window_do_not_count(model_of: ModelOf) -> None:
    """Change every fine token that no window holds: no latent moves; change one inside: they do."""
    model = model_of("llama", refocus_source="fine")
    batch = collate(make_samples(model.config, lengths=(4,)))
    visual = model.encode_features(batch["visual_features"])

    def latents(refocus: Tensor) -> Thoughts:
        changed = replace(visual, refocus=refocus)
        return think(model, prefill(model, batch["input_ids"], batch["attention_mask"], changed), 3)

    natural = latents(visual.refocus)
    seen = torch.zeros(GRID, GRID, dtype=torch.bool)
    for top, left in natural.windows[0].tolist():
        seen[top : top + WINDOW, left : left + WINDOW] = True
    assert not bool(seen.all())
    noise = torch.randn_like(visual.refocus)
    outside = torch.where(seen.flatten()[:, None], visual.refocus, noise)
    inside = torch.where(seen.flatten()[:, None], noise, visual.refocus)
    torch.testing.assert_close(latents(outside).latents, natural.latents, **CLOSE)
    assert not torch.allclose(latents(inside).latents, natural.latents, atol=1e-2)


# Switches ------------------------------------------------------------------------------------------------------


def test_feedback_without_refocusing_never_looks(model_of: ModelOf) -> None:
    """No Extractor and no window: each latent is the last hidden state alone, scaled."""
    model = model_of("llama", use_extractor=False, use_window=False, refocus_source="fine")
    samples = make_samples(model.config)
    thoughts = run(model, samples, 1)
    batch = collate(samples)
    state = prefill(model, batch["input_ids"], batch["attention_mask"], model.encode_features(batch["visual_features"]))
    wanted = rms_normalise(state.last_hidden) * model.embedding_rms()
    torch.testing.assert_close(thoughts.latents[:, 0, 0], wanted, **CLOSE)
    assert float(thoughts.cross_attention.sum()) == 0
    assert model.extractor is None
    loss = model(**batch).lm_loss[0]
    silent = {name for name, grad in gradients(model, loss).items() if float(grad.abs().sum()) == 0}
    assert {name for name in silent if name.startswith("refocus_projector")}


def test_zero_start_begins_as_plain_feedback() -> None:
    """A fresh Extractor adds nothing, yet learns: its output projection has a gradient at once."""
    torch.manual_seed(0)
    model = LareForConditionalGeneration(tiny_config("llama")).eval()
    batch = collate(make_samples(model.config))
    state = prefill(model, batch["input_ids"], batch["attention_mask"], model.encode_features(batch["visual_features"]))
    wanted = rms_normalise(state.last_hidden) * model.embedding_rms()
    thoughts = think(model, state, 1)
    torch.testing.assert_close(thoughts.latents[:, 0, 0], wanted, **CLOSE)
    found = gradients(model, model(**batch).lm_loss[0])
    assert float(found["extractor.output_proj.weight"].abs().max()) > 0
    assert float(found["extractor.state_proj.weight"].abs().max()) == 0


@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_output_start_is_a_fraction_of_the_identity(fraction: float) -> None:
    model = LareForConditionalGeneration(tiny_config("llama", extractor_output_init=fraction))
    weight = model.extractor.output_proj.weight
    assert torch.equal(weight, torch.eye(*weight.shape) * fraction)


def test_every_trainable_weight_takes_part(model_of: ModelOf, kind: str) -> None:
    """No forgotten layer: each parameter gets a gradient from the two losses."""
    model = model_of(kind, refocus_source="fine")
    output = model(**collate(make_samples(model.config)))
    found = gradients(model, output.lm_loss[0] + output.prefix_loss[0])
    # A key's bias shifts every score of a row alike, so its gradient is zero but for rounding.
    dead = [name for name, grad in found.items() if float(grad.abs().max()) < 1e-6 and "k_proj.bias" not in name]
    assert dead == []


# No iterations -------------------------------------------------------------------------------------------------


def losses(model: LareForConditionalGeneration, start: bool, delimiters: bool) -> tuple[LareOutput, list[Tensor]]:
    samples = make_samples(model.config, lengths=(5, 2), start=start)
    output = model(**collate(samples, prefixes=False), iterations=0, delimiters=delimiters)
    plain = [reference.lm_loss(model, sample, reference.think(model, sample, 0), delimiters) for sample in samples]
    return output, plain


@pytest.mark.parametrize("delimiters", [True, False])
def test_no_iterations_equal_reference(model_of: ModelOf, kind: str, delimiters: bool) -> None:
    output, plain = losses(model_of(kind), start=delimiters, delimiters=delimiters)
    torch.testing.assert_close(output.lm_loss[0], torch.stack(plain).sum(), **CLOSE)


def test_without_delimiters_no_latent_token_is_seen(model_of: ModelOf) -> None:
    """Plain LLaVA: the embeddings of both delimiters get no gradient, with them they do."""
    model = model_of("llama")
    name = "language_model.model.embed_tokens.weight"
    for delimiters in (True, False):
        output, _ = losses(model, start=delimiters, delimiters=delimiters)
        rows = gradients(model, output.lm_loss[0])[name].abs().sum(1)
        assert bool(rows[END] > 0) == delimiters
        assert bool(rows[END - 1] > 0) == delimiters


def test_target_of_one_token(model_of: ModelOf) -> None:
    model = model_of("llama")
    for delimiters in (True, False):
        samples = make_samples(model.config, lengths=(0, 0), start=delimiters)
        assert [len(sample.target) for sample in samples] == [1, 1]
        output = model(**collate(samples, prefixes=False), iterations=0, delimiters=delimiters)
        plain = [reference.lm_loss(model, sample, reference.think(model, sample, 0), delimiters) for sample in samples]
        torch.testing.assert_close(output.lm_loss[0], torch.stack(plain).sum(), **CLOSE)


# Refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gradient_checkpointing_enable", "activation_checkpointing_enable"])
def test_gradient_checkpointing_never_drops_the_cache(name: str) -> None:
    """Under both of transformers' names for it, it is LaRe's own that is switched on."""
    model = tiny_model("llama")
    if not hasattr(model, name):
        pytest.skip(f"this transformers has no {name}")
    getattr(model, name)()
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert all(is_checkpointed(layer) for layer in model.decoder.layers)


@pytest.mark.parametrize("iterations", [0, 2])
def test_checkpointing_switched_on_below_is_refused(iterations: int) -> None:
    """Somebody may enable it on the decoder itself: transformers would drop the cache and train on wrong losses."""
    model = tiny_model("llama")
    model.language_model.gradient_checkpointing_enable()
    model.train()
    with pytest.raises(LareError, match="gradient_checkpointing"):
        model(**collate(make_samples(model.config), prefixes=False), iterations=iterations)


def test_latents_need_delimiters(model_of: ModelOf) -> None:
    batch = collate(make_samples(model_of("llama").config))
    with pytest.raises(LareError, match="iterations=3 needs delimiters"):
        model_of("llama")(**batch, delimiters=False)


def test_prefix_needs_latents(model_of: ModelOf) -> None:
    batch = collate(make_samples(model_of("llama").config))
    with pytest.raises(LareError, match="prefix_ids needs latents"):
        model_of("llama")(**batch, iterations=0)


def test_unknown_argument_is_named(model_of: ModelOf) -> None:
    batch = collate(make_samples(model_of("llama").config))
    with pytest.raises(LareError, match="labels"):
        model_of("llama")(**batch, labels=None)
