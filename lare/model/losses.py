"""The two text losses of a training step: the answer's (L_lm) and the rationale prefix's (eq. 8).

Both run the LM head at label positions only: at every position of a batch its logits would be the largest tensor of
the whole step. Both return (sum, count), to be normalised once per optimiser step.

Shapes: B rows, T target tokens, P prefix tokens, K iterations, m latents each, d width, N labels in all, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lare.model.loop import LoopState, compute_dtype, decoder_mask, extend, run_decoder, windowed
from lare.model.outputs import LareOutput, Loss
from lare.model.reasoner import Reasoner
from lare.model.thinking import Thoughts
from lare.model.vision import VisualTokens

__all__ = [
    "answer",
    "answer_loss",
    "cross_entropy_at",
    "prefix_reconstruction",
    "target_states",
    "text_loss",
]


def cross_entropy_at(model: Reasoner, hidden: Tensor, labels: Tensor, mask: Tensor) -> tuple[Loss, Tensor, Tensor]:
    """Cross-entropy of the labels where the mask is on.

    Args:
        model: The model, for its LM head.
        hidden: (B, T, d) decoder outputs that predict `labels`.
        labels: (B, T).
        mask: (B, T) booleans.

    Returns:
        (sum, count), the logits (N, V) and the labels (N,).
    """
    chosen = labels[mask]
    logits = model.lm_head(hidden[mask])
    total = torch.nn.functional.cross_entropy(logits.float(), chosen, reduction="sum")
    return (total, mask.sum()), logits, chosen


def answer(
    model: Reasoner,
    output: LareOutput,
    state: LoopState,
    target: tuple[Tensor, Tensor | None, Tensor | None],
    seen: tuple[Tensor | None, Tensor | None],
    delimiters: bool,
) -> None:
    """Run a target in one teacher-forced pass after the state, and add its states and L_lm to an output.

    Args:
        model: The model.
        output: The output to fill, with its visual tokens.
        state: The state; it is spent.
        target: Ids (B, T), their mask (0 at padding), and the mask of those that are supervised.
        seen: Numbers (B, T) of the target's visual tokens (`ForwardOptions.target_visual`), and the crops' tokens
            (C, N_v, d).
        delimiters: See `target_states`.
    """
    ids, mask, label_mask = target
    numbers, crops = seen
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    inputs = model.embed(ids)
    if numbers is not None:
        assert output.visual is not None
        output.target_visual = visual_in_target(output.visual, crops, numbers)
        inputs = inputs.masked_scatter((numbers >= 0)[..., None], output.target_visual.to(inputs.dtype))
    output.target_hidden, _ = target_states(model, state, ids, real, delimiters, inputs)
    answer_loss(model, output, ids, real, label_mask)


def visual_in_target(visual: VisualTokens, crops: Tensor | None, numbers: Tensor) -> Tensor:
    """The visual tokens inside targets.

    Args:
        visual: The images' visual tokens, R * C fine ones each.
        crops: (C, N_v, d) the crops' tokens; None without crops.
        numbers: (B, T) as `lare.model.forward_options.ForwardOptions.target_visual`.

    Returns:
        (N, d), those with a number, in row order.
    """
    every = visual.refocus.flatten(0, 1)
    every = every if crops is None else torch.cat((every, crops.flatten(0, 1)))
    return every[numbers[numbers >= 0]]


def target_states(
    model: Reasoner,
    state: LoopState,
    target_ids: Tensor,
    mask: Tensor,
    delimiters: bool,
    inputs: Tensor | None = None,
) -> tuple[Tensor, LoopState]:
    """Decoder outputs (B, T, d) that predict `target_ids`, teacher-forced after the state.

    Args:
        model: The model.
        state: The state; it is spent.
        target_ids: (B, T) right-padded.
        mask: (B, T) booleans, False at padding.
        delimiters: Whether <|latent_end|> is fed first and predicts the first target; else the prompt's last position
            predicts it (plain LLaVA).
        inputs: (B, T, d) the targets' embeddings, where they are not those of the ids.

    Returns:
        The outputs, and the state after the last target but one, which predicts the last.
    """
    inputs = model.embed(target_ids) if inputs is None else inputs
    if delimiters:
        embeds = torch.cat((model.embed_token(model.config.latent_end_id, inputs.shape[0]), inputs[:, :-1]), dim=1)
        fed = torch.cat((torch.ones_like(mask[:, :1]), mask[:, :-1]), dim=1)
        return extend(model, state, embeds, fed)
    first = state.last_hidden.unsqueeze(1)
    if inputs.shape[1] == 1:
        return first, state
    hidden, state = extend(model, state, inputs[:, :-1], mask[:, :-1])
    return torch.cat((first, hidden), dim=1), state


def answer_loss(
    model: Reasoner, output: LareOutput, target_ids: Tensor, mask: Tensor, label_mask: Tensor | None
) -> LareOutput:
    """Add L_lm to an output that has `target_hidden`: over all targets, or over those where `label_mask` is on."""
    assert output.target_hidden is not None
    answered = mask if label_mask is None else mask & label_mask.bool()
    output.lm_loss, output.logits, output.labels = cross_entropy_at(model, output.target_hidden, target_ids, answered)
    return output


def text_loss(
    model: Reasoner,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    target_ids: Tensor,
    target_mask: Tensor | None,
    label_mask: Tensor | None,
) -> LareOutput:
    """L_lm after prompts without an image: the decoder alone, in one pass.

    Args:
        model: The model.
        input_ids: (B, S) left-padded prompts.
        attention_mask: (B, S), 0 at padding; None means none.
        target_ids: (B, T) right-padded targets.
        target_mask: (B, T), 0 at padding; None means none.
        label_mask: (B, T), 0 where a target token is only read; None means nowhere.
    """
    mask = torch.ones_like(target_ids, dtype=torch.bool) if target_mask is None else target_mask.bool()
    start = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    valid = torch.cat((start, mask[:, :-1]), dim=1)
    embeds = model.embed(torch.cat((input_ids, target_ids[:, :-1]), dim=1))
    positions = (valid.long().cumsum(1) - 1).clamp_min(0)
    causal = decoder_mask(valid[:, :0], valid, not bool(valid.all()), compute_dtype(embeds))
    hidden = run_decoder(model, embeds, None, positions, windowed(model, causal, valid))
    output = LareOutput(target_hidden=hidden[:, input_ids.shape[1] - 1 :])
    return answer_loss(model, output, target_ids, mask, label_mask)


def prefix_reconstruction(
    model: Reasoner, thoughts: Thoughts, prefix_ids: Tensor, prefix_mask: Tensor | None
) -> tuple[Loss, Tensor]:
    """Text-prefix reconstruction (eq. 8): the rationale's first tokens from the latents alone.

    The decoder reads [<|latent_start|>, z_1..z_K, <|latent_end|>] with neither image nor question, then the prefix,
    teacher-forced; gradients flow into the latents. Rows whose mask is all off cost nothing.

    Args:
        model: The model.
        thoughts: The latents.
        prefix_ids: (B, P) right-padded, or (B, K, P): one rationale step for each iteration.
        prefix_mask: As `prefix_ids`, 0 at padding; None means no padding.

    Returns:
        (sum, count), and the decoder outputs (B, P, d) that predict the prefix. Prefixes (B, K, P), one rationale step
        for each iteration, are each predicted from that iteration's latents alone; their outputs are (B * K, P, d).
    """
    mask = torch.ones_like(prefix_ids, dtype=torch.bool) if prefix_mask is None else prefix_mask.bool()
    latents, taken = thoughts.latents, thoughts.steps
    if prefix_ids.dim() == 3:
        prefix_ids, mask = prefix_ids.flatten(0, 1), mask.flatten(0, 1)
        latents = latents.flatten(0, 1).unsqueeze(1)
        taken = torch.ones(len(latents), dtype=taken.dtype, device=taken.device)
    rows = mask.any(1)
    if bool(rows.all()):
        hidden = _prefix_states(model, latents, taken, prefix_ids, mask)
    else:
        chosen = rows.nonzero().squeeze(1)
        part = _prefix_states(model, latents[chosen], taken[chosen], prefix_ids[chosen], mask[chosen])
        hidden = part.new_zeros(*prefix_ids.shape, part.shape[-1]).index_copy(0, chosen, part)
    return cross_entropy_at(model, hidden, prefix_ids, mask)[0], hidden


def _prefix_states(model: Reasoner, latents: Tensor, steps: Tensor, prefix_ids: Tensor, mask: Tensor) -> Tensor:
    """Decoder outputs (B, P, d) that predict the prefix from latents (B, K, m, d)."""
    batch, iterations, per_step, _ = latents.shape
    device = prefix_ids.device
    start, end = (model.embed_token(i, batch) for i in (model.config.latent_start_id, model.config.latent_end_id))
    text = model.embed(prefix_ids[:, :-1])
    embeds = torch.cat((start, latents.flatten(1, 2).to(start.dtype), end, text), dim=1)
    taken = torch.arange(iterations, device=device)[None] < steps[:, None]
    always = torch.ones(batch, 1, dtype=torch.bool, device=device)
    valid = torch.cat((always, taken.repeat_interleave(per_step, 1), always, mask[:, :-1]), dim=1)
    padded = not bool(taken.all())
    # Right padding needs no mask: no real position comes after it, and its own outputs are not read.
    positions = (valid.long().cumsum(1) - 1).clamp_min(0) if padded else torch.arange(embeds.shape[1], device=device)
    causal = decoder_mask(valid[:, :0], valid, True, embeds.dtype) if padded else None
    hidden = run_decoder(model, embeds, None, positions.expand(batch, -1), windowed(model, causal, valid))
    return hidden[:, -prefix_ids.shape[1] :]
