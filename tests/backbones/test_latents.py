"""On each family, the latent loop over a cache is what a recompute over the whole sequence is; a batch is its rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lare.model import LareForConditionalGeneration
from lare.model.loop import LoopState, extend, start
from lare.model.reading import Reading
from lare.model.refocusing import choose_look, make_latents

from .vlms import Vlm, fresh

QUESTIONS = ["Is it red?", "What is the colour of the cat in the image?", "Where?"]
STEPS = 2


def inputs_of(vlm: Vlm, count: int = 3) -> dict[str, Tensor]:
    return dict(vlm.processor(images=vlm.pictures(count), text=vlm.processor.build_prompts(QUESTIONS[:count])))


def recomputed(model: LareForConditionalGeneration, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, LoopState]:
    """Latents (B, K, d) and windows of passes over the whole sequence each, and the state after the last."""
    given = dict(inputs)
    ids, mask, pixels = (given.pop(name) for name in ("input_ids", "attention_mask", "pixel_values"))
    visual = model.visual_tokens(pixels, None, image_inputs=given)
    first = model.read(ids, mask.bool(), visual)
    memory = None if model.config.looks_closer else model.remember(visual)
    made: list[Tensor] = []
    windows = []
    for step in range(STEPS + 1):
        count = len(made)
        embeds = torch.cat((first.embeds, *made), dim=1)
        real = torch.nn.functional.pad(mask.bool(), (0, count), value=True)
        following = (mask.sum(1) if first.next_position is None else first.next_position)[:, None]
        behind = following + torch.arange(count)
        prompt = (mask.cumsum(1) - 1).clamp_min(0) if first.positions is None else first.positions
        behind = behind.expand(*prompt.shape[:-1], count)
        keywords: dict[str, Any] = dict(first.keywords)
        if "visual_pos_masks" in keywords:
            keywords["visual_pos_masks"] = torch.nn.functional.pad(keywords["visual_pos_masks"], (0, count))
        together = None if first.together is None else torch.nn.functional.pad(first.together, (0, count))
        whole = Reading(embeds, first.slots, first.cells, torch.cat((prompt, behind), dim=-1),
                        following[:, 0] + count, together, keywords)  # fmt: skip
        state = start(model, visual, first.slots, 0, 1, first.cells)
        state = extend(model, state, embeds, real, capture=True, reading=whole)[1]
        if step == STEPS:
            break
        look = choose_look(model, state, "saliency", None)
        made.append(make_latents(model, state, look, memory, model.embedding_rms()))
        windows.append(look.corner)
    return torch.stack(made, dim=1), torch.stack(windows, dim=1), state


def test_cached_loop_is_a_recompute_in_values_and_gradients(vlm: Vlm) -> None:
    inputs, model = inputs_of(vlm), fresh(vlm)
    direction = torch.randn(STEPS, 1, 32, generator=torch.Generator().manual_seed(0))
    found = model(**inputs, iterations=STEPS)
    wanted, windows, last = recomputed(model, inputs)
    assert torch.allclose(found.thoughts.latents, wanted, atol=2e-5)
    assert torch.equal(found.thoughts.windows, windows)
    assert torch.allclose(found.thoughts.state.last_hidden, last.last_hidden, atol=2e-5)
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    pairs = []
    for latents in (found.thoughts.latents, wanted):
        gradients = torch.autograd.grad((latents * direction).sum(), list(trained.values()), allow_unused=True)
        pairs.append(dict(zip(trained, gradients, strict=True)))
    size = max(float(one.abs().max()) for one in pairs[1].values() if one is not None)
    reached = [name for name, one in pairs[1].items() if one is not None and bool(one.any())]
    assert any(name.startswith(model.backbone.projector) for name in reached)
    for name, wanted_gradient in pairs[1].items():
        one = pairs[0][name]
        assert (one is None) == (wanted_gradient is None), name
        if one is not None and wanted_gradient is not None:
            assert torch.allclose(one, wanted_gradient, atol=2e-5 * size), name


def test_a_batch_is_its_rows(vlm: Vlm) -> None:
    """Pictures of several sizes and prompts of several lengths side by side change nothing for a row."""
    options: dict[str, Any] = dict(iterations=STEPS, max_new_tokens=4, output_trace=True)
    pictures, prompts = vlm.pictures(), vlm.processor.build_prompts(QUESTIONS)
    batch = vlm.model.generate(**vlm.processor(images=pictures, text=prompts), **options)
    for row, (one, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        alone = vlm.model.generate(**vlm.processor(images=[one], text=[prompt]), **options)
        length = int(alone.lengths[0])
        assert int(batch.lengths[row]) == length
        assert torch.equal(batch.sequences[row, :length], alone.sequences[0, :length])
        assert torch.allclose(batch.latents[row], alone.latents[0], atol=2e-5)
        assert torch.equal(batch.windows[row], alone.windows[0])
        assert torch.allclose(batch.cross_attention[row], alone.cross_attention[0], atol=1e-5)
        assert torch.allclose(batch.attention_shares[row], alone.attention_shares[0], atol=1e-5)
        rows, columns = (int(side) for side in (alone.saliency.shape[-2:] if alone.sizes is None else alone.sizes[0]))
        assert torch.allclose(batch.saliency[row, :, :rows, :columns], alone.saliency[0, :, :rows, :columns], atol=1e-6)
        beyond = batch.saliency[row].clone()
        beyond[:, :rows, :columns] = 0
        assert not bool(beyond.any())


def test_windows_stay_on_their_picture(vlm: Vlm) -> None:
    """Under every way of choosing, no window holds a cell beyond a smaller picture's grid."""
    inputs = inputs_of(vlm)
    for mode in ("saliency", "random"):
        made = vlm.model.generate(
            **inputs, window_mode=mode, generator=torch.Generator().manual_seed(0), max_new_tokens=1, output_trace=True
        )
        if made.sizes is None:
            continue
        window = vlm.model.config.window
        most = (made.sizes - window).clamp_min(0)[:, None]
        assert bool((made.windows <= most).all()) and bool((made.windows >= 0).all())


def test_questions_of_one_picture_share_it(vlm: Vlm) -> None:
    """Several prompts of an image, left-padded, give what each gives with an image of its own."""
    one = vlm.pictures(1)
    prompts = vlm.processor.build_prompts(QUESTIONS)
    apart = vlm.model.generate(**vlm.processor(images=one * 3, text=prompts), max_new_tokens=3, output_trace=True)
    inputs = dict(vlm.processor(images=one * 3, text=prompts))
    seen = dict(vlm.processor(images=one, text=prompts[:1]))
    inputs |= {name: seen[name] for name in seen if name not in ("input_ids", "attention_mask")}
    shared = vlm.model.generate(**inputs, questions_per_image=3, max_new_tokens=3, output_trace=True)
    assert torch.equal(shared.sequences, apart.sequences)
    assert torch.allclose(shared.latents, apart.latents, atol=2e-5)
