"""The cached latent loop: prefill once, then per iteration look, make latents, and feed them back.

Nothing is recomputed: from the prompt's first position to the answer's last there is one key-value cache, and since
a causal decoder never changes a prefix's states, the loop gives what a recompute over the whole sequence would give.
All questions of an image may share the prefill of the part up to its visual tokens.

Padding is allowed anywhere before the newest position: left padding of a question after a shared prefix, latent slots
of rows that stopped early. Such columns are masked, and position ids count a row's real positions only, so a row's
numbers do not depend on the rows around it.

Shapes: B rows, Q questions per image, I = B / Q images, S cached positions, T new ones, L layers, d width, N_v decoder
visual tokens, m latents per iteration, K iterations, n cells that a look may take in.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import cache as remember_result
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from lare.errors import LareError
from lare.model.attention import LastQueryCapture
from lare.model.cache import new_cache
from lare.model.families import attention_window, masks_by_kind
from lare.model.reading import Reading, image_slots, place_visual, repeat_visual
from lare.model.reasoner import Reasoner
from lare.model.vision import VisualTokens

__all__ = ["LoopState", "Masks", "embed_prompt", "extend", "image_slots", "prefill", "repeat_rows", "start"]


@dataclass
class LoopState:
    """Where a batch stands: the cache and what the last position saw.

    A state owns its cache, and the cache grows in place: `extend` returns the new state and the old one is spent.

    Attributes:
        cache: Keys and values of all layers.
        attention_mask: (B, S) booleans, False where a cached column is padding.
        next_position: (B,) position id of the next real token.
        layer_hidden: (B, L, d) output of every decoder layer at the last captured position (the last layer's before
            the final norm).
        last_hidden: (B, d) decoder output (after the final norm) at the last captured position.
        saliency: (B, n) its attention to the visual tokens by cells of the decoder's grid, mean over heads and layers.
        visual: The visual tokens of the I images.
        visual_slots: (B, N_v) cache columns of the image tokens; a row with fewer repeats its first.
        questions_per_image: Q.
        padded: Whether any column is masked.
        rows: (B, L, H, S) attention rows of the last captured position, if they were asked for.
        saliency_gradient: Whether the saliency keeps its gradient.
        cells: (B, n) cache columns of the grid's cells, -1 for none; None where that is `visual_slots`.
    """

    cache: DynamicCache
    attention_mask: Tensor
    next_position: Tensor
    layer_hidden: Tensor
    last_hidden: Tensor
    saliency: Tensor
    visual: VisualTokens
    visual_slots: Tensor
    questions_per_image: int = 1
    padded: bool = False
    rows: Tensor | None = None
    saliency_gradient: bool = False
    cells: Tensor | None = None


def decoder_mask(
    past: Tensor, new: Tensor, padded: bool, dtype: torch.dtype, together: Tensor | None = None
) -> Tensor | None:
    """The mask of T new positions over the cache and themselves.

    Args:
        past: (B, S) booleans.
        new: (B, T) booleans.
        padded: Whether either holds a False.
        dtype: Type of the additive mask.
        together: (B, T) as `Reading.together`; nothing is cached before it.

    Returns:
        Additive (B, 1, T, S + T) (B = 1 without padding), or None where plain causal attention is meant. A padded
        position sees itself, so that no softmax row is empty.
    """
    size, length = new.shape[1], past.shape[1]
    if together is None and not padded and (length == 0 or size == 1):
        return None
    device = new.device
    causal = torch.ones(size, length + size, dtype=torch.bool, device=device).tril(length)[None]
    if together is not None:
        causal = causal | same_block(together)
    if padded:
        itself = torch.eye(size, dtype=torch.bool, device=device)
        itself = torch.nn.functional.pad(itself, (length, 0))
        causal = (causal & torch.cat((past, new), dim=1)[:, None]) | itself
    mask = torch.zeros(causal.shape, dtype=dtype, device=device).masked_fill_(~causal, float("-inf"))
    return mask.unsqueeze(1)


def same_block(together: Tensor) -> Tensor:
    """(B, T, T) booleans, True where two positions have the same number above 0."""
    return (together[:, :, None] == together[:, None]) & (together > 0)[:, None]


Masks = Tensor | dict[str, Tensor] | None


def windowed(model: Reasoner, mask: Tensor | None, real: Tensor) -> Masks:
    """The mask as the decoder takes it: unchanged, or narrowed in the layers that attend within a window only.

    The window counts a row's real positions, so that padding inside a row does not shorten its view. Without a mask
    there is no padding, and the decoder makes its windows itself.

    Args:
        model: The model.
        mask: Additive (B or 1, 1, T, S), or None.
        real: (B, S) booleans, False at padding.
    """
    window = attention_window(model.config.text_config)
    if window is None or mask is None:
        return mask
    positions = real[: len(mask)].long().cumsum(1)
    far = positions[:, None] <= positions[:, -mask.shape[2] :, None] - window
    narrow = mask.masked_fill(far.unsqueeze(1), float("-inf"))
    by_kind = masks_by_kind(model.config.text_config)
    return {"full_attention": mask, "sliding_attention": narrow} if by_kind else narrow


def compute_dtype(embeds: Tensor) -> torch.dtype:
    """The type in which the decoder computes: autocast's where that is on."""
    kind = embeds.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else embeds.dtype


@remember_result
def _cache_keyword(decoder: Any) -> str:
    """How `forward` calls its cache: transformers renamed it while 5.x lasted, and 5.40 takes the new name only."""
    return "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"


def run_decoder(
    model: Reasoner,
    embeds: Tensor,
    cache: DynamicCache | None,
    position_ids: Tensor,
    mask: Masks,
    capture: LastQueryCapture | None = None,
    extra: dict[str, Any] | None = None,
) -> Tensor:
    """Run new positions through the decoder, over the cache if there is one.

    Args:
        model: The model.
        embeds: (B, T, d).
        cache: Keys and values so far; it grows. None attends within the new positions only.
        position_ids: (B, T), or (axes, B, T).
        mask: From `windowed`.
        capture: Takes the last position's layer states and attention.
        extra: Further keyword arguments of the decoder's forward.

    Returns:
        The decoder's output (B, T, d), after its final norm.
    """
    decoder = model.decoder
    keywords: dict[str, Any] = dict(extra or {}) | ({} if capture is None else dict(capture.keywords()))
    keywords[_cache_keyword(cast(Any, type(decoder)))] = cache
    output = decoder(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=position_ids,
        use_cache=cache is not None,
        **keywords,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def extend(
    model: Reasoner,
    state: LoopState,
    embeds: Tensor,
    mask: Tensor | None = None,
    capture: bool = False,
    keep_rows: bool = False,
    reading: Reading | None = None,
) -> tuple[Tensor, LoopState]:
    """Feed T new positions after those in the cache.

    Args:
        model: The model.
        state: The state so far; its cache grows, so it must not be used again.
        embeds: (B, T, d).
        mask: (B, T) booleans, False at padding; None means no padding.
        capture: Also take the last position's layer states and attention; else they stay as they were.
        keep_rows: With `capture`, keep all attention rows in the state.
        reading: The prompt that `embeds` belong to, with its position ids; only at the beginning of the cache.

    Returns:
        The decoder's output (B, T, d) and the new state.
    """
    batch, size = embeds.shape[:2]
    new = torch.ones(batch, size, dtype=torch.bool, device=embeds.device) if mask is None else mask.bool()
    padded = state.padded or (mask is not None and not bool(new.all()))
    positions = (state.next_position[:, None] + new.long().cumsum(1) - 1).clamp_min(0)
    following = state.next_position + new.sum(1)
    if reading is not None and reading.positions is not None and reading.next_position is not None:
        positions, following = reading.positions, reading.next_position
    together = None if reading is None else reading.together
    watcher = LastQueryCapture(state.saliency_gradient) if capture else None
    real = torch.cat((state.attention_mask, new), dim=1)
    causal = decoder_mask(state.attention_mask, new, padded, compute_dtype(embeds), together)
    masks = windowed(model, causal, real)
    extra = None if reading is None else reading.keywords
    hidden = run_decoder(model, embeds, state.cache, positions, masks, watcher, extra)
    grown = replace(
        state,
        attention_mask=real,
        next_position=following,
        padded=padded,
    )
    return hidden, grown if watcher is None else _captured(grown, hidden, watcher, keep_rows)


def _captured(state: LoopState, hidden: Tensor, watcher: LastQueryCapture, keep_rows: bool) -> LoopState:
    row = watcher.mean_row()
    columns = state.visual_slots if state.cells is None else state.cells
    saliency = row.gather(1, columns.clamp_min(0))
    if state.cells is not None:
        saliency = saliency.masked_fill(columns < 0, 0.0)
    return replace(
        state,
        layer_hidden=watcher.layer_hidden(),
        last_hidden=hidden[:, -1],
        saliency=saliency,
        rows=watcher.layer_rows() if keep_rows else None,
    )


def embed_prompt(model: Reasoner, input_ids: Tensor, visual: VisualTokens) -> tuple[Tensor, Tensor]:
    """Token embeddings with the visual tokens in their slots: (B, S, d), and the slots (B, N_v)."""
    return place_visual(model.embed(input_ids), input_ids, model.config.image_token_id, visual)


def start(
    model: Reasoner, visual: VisualTokens, slots: Tensor, room: int, questions: int, cells: Tensor | None = None
) -> LoopState:
    """The state before the first position.

    Args:
        model: The model.
        visual: Visual tokens of the I images.
        slots: (B, N_v) cache columns of the image tokens.
        room: Spare cache positions (ignored when gradients are on).
        questions: Q.
        cells: As `LoopState.cells`.
    """
    batch, device = slots.shape[0], slots.device
    empty = visual.lm.new_empty(0)
    return LoopState(
        cache=new_cache(model.num_layers, room),
        attention_mask=torch.ones(batch, 0, dtype=torch.bool, device=device),
        next_position=torch.zeros(batch, dtype=torch.long, device=device),
        layer_hidden=empty,
        last_hidden=empty,
        saliency=empty,
        visual=visual,
        visual_slots=slots,
        questions_per_image=questions,
        cells=cells,
    )


def prefill(
    model: Reasoner,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    visual: VisualTokens,
    shared_ids: Tensor | None = None,
    questions_per_image: int = 1,
    room: int = 64,
    keep_rows: bool = False,
    saliency_gradient: bool = False,
) -> LoopState:
    """Read the prompts.

    Args:
        model: The model.
        input_ids: (B, S) left-padded; the whole prompt, or what follows `shared_ids`.
        attention_mask: (B, S), 0 at padding; None means no padding.
        visual: Visual tokens of the I images.
        shared_ids: (I, S0) unpadded prompt part up to and including the image tokens; run once per image.
        questions_per_image: Q; rows b * Q .. b * Q + Q - 1 belong to image b.
        room: Spare cache positions for decoding (ignored when gradients are on).
        keep_rows: Keep all attention rows of the last position.
        saliency_gradient: Keep the saliency's gradient, here and in what follows.

    Returns:
        The state after the prompt's last position.

    Raises:
        LareError: If batch sizes do not fit together or image tokens are missing.
    """
    images, batch = visual.lm.shape[0], input_ids.shape[0]
    if images * questions_per_image != batch:
        raise LareError(
            f"{batch} prompts do not belong to {images} images with questions_per_image={questions_per_image}; "
            "give that many prompts per image."
        )
    mask = None if attention_mask is None else attention_mask.bool()
    if shared_ids is None:
        reading: Reading | None = model.read(input_ids, mask, repeat_visual(visual, questions_per_image))
        assert reading is not None
        embeds = reading.embeds
        state = start(model, visual, reading.slots, room, questions_per_image, reading.cells)
    else:
        shared = model.read(shared_ids, None, visual)
        empty = start(model, visual, shared.slots, room + input_ids.shape[1], 1, shared.cells)
        state = repeat_rows(extend(model, empty, shared.embeds, reading=shared)[1], questions_per_image)
        embeds, reading = model.embed(input_ids), None
    state.saliency_gradient = saliency_gradient
    return extend(model, state, embeds, mask, capture=True, keep_rows=keep_rows, reading=reading)[1]


def repeat_rows(state: LoopState, times: int) -> LoopState:
    """Repeat each row, such as an image's for its questions; what the last position saw stays as it was."""
    if times > 1:
        state.cache.batch_repeat_interleave(times)
    return replace(
        state,
        attention_mask=state.attention_mask.repeat_interleave(times, 0),
        next_position=state.next_position.repeat_interleave(times, 0),
        visual_slots=state.visual_slots.repeat_interleave(times, 0),
        cells=None if state.cells is None else state.cells.repeat_interleave(times, 0),
        questions_per_image=state.questions_per_image * times,
    )
