"""Answers: think, then write text, one token at a time over the same cache.

A light loop instead of transformers' `generate`: the latent phase does not fit its interface, and at small models its
per-token bookkeeping costs more than the decoder. Here a step is one decoder call, one LM head and one choice; the
cache has its room from the start, masks exist only where there is padding, and when half of the rows have ended the
batch is cut down to the others.

Shapes: B rows, T generated tokens, S cached positions, V vocabulary, L layers, H heads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lare.errors import LareError
from lare.model.attention import LastQueryCapture, shares_by_kind
from lare.model.choosing import choose_tokens, end_ids, penalties, processors, stopping_criteria
from lare.model.generation_options import GenerationOptions, StopCheck
from lare.model.loop import LoopState, extend, prefill, repeat_rows, run_decoder, windowed
from lare.model.outputs import LareGeneration
from lare.model.reasoner import Reasoner
from lare.model.thinking import Thoughts, think

__all__ = ["Clock", "GenerationOptions", "StopCheck", "attention_shares", "choose_tokens", "eos_ids", "generate"]


def attention_shares(rows: Tensor, attention_mask: Tensor, visual_slots: Tensor, latents: slice) -> Tensor:
    """Split attention rows over the kinds of positions.

    Args:
        rows: (B, L, H, S) softmax rows.
        attention_mask: (B, S) real columns.
        visual_slots: (B, N_v) columns of the image tokens.
        latents: Columns of the latents.

    Returns:
        (B, L, H, 4): shares of the sequence's first token, other text, visual tokens and latents.
    """
    kinds = torch.ones_like(attention_mask, dtype=torch.long)
    kinds.scatter_(1, visual_slots, 2)
    kinds[:, latents] = 3
    kinds.scatter_(1, attention_mask.long().argmax(1, keepdim=True), 0)
    return shares_by_kind(rows, kinds, attention_mask)


def generate(
    model: Reasoner,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    seen: tuple[Tensor | None, Tensor | None, Mapping[str, Tensor]],
    options: GenerationOptions,
    shared_ids: Tensor | None = None,
    questions_per_image: int = 1,
) -> LareGeneration:
    """Answer a batch; see `LareForConditionalGeneration.generate`.

    Args:
        model: The model.
        input_ids: (B, S) left-padded prompts, or what follows `shared_ids`.
        attention_mask: (B, S), 0 at padding; None means no padding.
        seen: Pixels (I, 3, H, W) or cached features (I, N_f, d_vis), and the backbone's further inputs of images.
        options: How to generate.
        shared_ids: (I, S0) common prompt part.
        questions_per_image: Q with B = I * Q.

    Raises:
        LareError: If the prompts do not fit together, or a streamer is given for several answers.
    """
    answers = input_ids.shape[0] * options.num_return_sequences * options.branches
    if options.streamer is not None and answers > 1:
        raise LareError(f"streamer writes one answer, and {answers} are asked for; give one prompt at a time.")
    if options.delimiters:
        input_ids, attention_mask = _opened(model, input_ids, attention_mask)
    clock = Clock(model)
    with torch.inference_mode():
        visual = model.visual_tokens(seen[0], seen[1], image_inputs=seen[2])
        clock.lap("vision")
        iterations = options.iterations if options.delimiters else 0
        room = options.max_new_tokens + 2 + _latent_room(model, iterations)
        keep_rows = options.output_trace and not options.delimiters
        state = prefill(
            model, input_ids, attention_mask, visual, shared_ids, questions_per_image, room=room, keep_rows=keep_rows
        )
        clock.lap("prefill")
        prompt = state.attention_mask.shape[1]
        prompts = _whole_prompt(input_ids, attention_mask, shared_ids)
        if options.branches > 1:
            state, prompts = _branched(state, options.branches), _repeated_prompts(prompts, options.branches)
        how = (options.stop, options.window_mode, options.latent_override, options.generator)
        thoughts = think(model, state, iterations, *how, refocus=options.refocus, step_limits=options.step_limits)
        state = _hide_image(thoughts.state, options.hide_image)
        if options.delimiters:
            end = model.embed_token(model.config.latent_end_id, state.attention_mask.shape[0])
            _, state = extend(model, state, end, capture=True, keep_rows=options.output_trace)
        clock.lap("think")
        if options.num_return_sequences > 1:
            state, thoughts, prompts = _repeated(state, thoughts, prompts, options.num_return_sequences)
        latents = slice(prompt, prompt + thoughts.latents.shape[1] * thoughts.latents.shape[2])
        decoder = _Decoder(model, state, options, latents, prompts)
        sequences, lengths = decoder.run()
        clock.lap("decode")
    return _result(sequences, lengths, thoughts, decoder.shares, options.output_trace, clock.seconds)


Prompts = tuple[Tensor, Tensor]


def _opened(model: Reasoner, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Prompts (B, S) that end in <|latent_start|>; a chat template does not write it."""
    opened = ids[:, -1] == model.config.latent_start_id
    if bool(opened.all()):
        return ids, mask
    if bool(opened.any()):
        raise LareError("Some prompts end in <|latent_start|> and others do not; build all of them in the same way.")
    longer = torch.nn.functional.pad(ids, (0, 1), value=model.config.latent_start_id)
    return longer, None if mask is None else torch.nn.functional.pad(mask, (0, 1), value=1)


def _repeated(
    state: LoopState, thoughts: Thoughts, prompts: Prompts, times: int
) -> tuple[LoopState, Thoughts, Prompts]:
    """Several answers after the same latents: rows b * times .. b * times + times - 1 belong to prompt b."""

    def repeat(values: Tensor) -> Tensor:
        return values.repeat_interleave(times, 0)

    wider = _branched(state, times)
    names = ("latents", "windows", "saliency", "cross_attention", "window_masses", "steps")
    more = {name: repeat(getattr(thoughts, name)) for name in names}
    reasons = [reason for reason in thoughts.stop_reason for _ in range(times)]
    return wider, replace(thoughts, state=wider, stop_reason=reasons, **more), _repeated_prompts(prompts, times)


def _branched(state: LoopState, times: int) -> LoopState:
    """Each row `times` times, with what its last position saw."""
    seen = ("layer_hidden", "last_hidden", "saliency")
    more = {name: getattr(state, name).repeat_interleave(times, 0) for name in seen}
    rows = None if state.rows is None else state.rows.repeat_interleave(times, 0)
    return replace(repeat_rows(state, times), rows=rows, **more)


def _repeated_prompts(prompts: Prompts, times: int) -> Prompts:
    ids, real = prompts
    return ids.repeat_interleave(times, 0), real.repeat_interleave(times, 0)


def _whole_prompt(ids: Tensor, mask: Tensor | None, shared: Tensor | None) -> Prompts:
    """Ids (B, S) of the prompts with what they share, and which of them are no padding; latents have no ids."""
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    if shared is None:
        return ids, real
    before = shared.repeat_interleave(ids.shape[0] // shared.shape[0], 0)
    real = torch.cat((torch.ones_like(before, dtype=torch.bool), real), dim=1)
    # Padding stands between the parts here; processors know it on the left only.
    order = real.long().argsort(dim=1, stable=True)
    return torch.cat((before, ids), dim=1).gather(1, order), real.gather(1, order)


def _latent_room(model: Reasoner, iterations: int | None) -> int:
    config = model.config
    steps = max(config.iterations, config.max_iterations) if iterations is None else iterations
    return int(steps * config.latents_per_iteration)


def _hide_image(state: LoopState, which: bool | Tensor) -> LoopState:
    """Mask the image tokens from here on, so that only latents and text carry what they held; (B,) booleans: whose."""
    slots = state.visual_slots
    if isinstance(which, bool):
        which = torch.full((len(slots),), which, device=slots.device)
    if not bool(which.any()):
        return state
    seen = state.attention_mask.gather(1, slots) & ~which.to(slots.device)[:, None]
    return replace(state, attention_mask=state.attention_mask.scatter(1, slots, seen), padded=True)


def _result(
    sequences: Tensor, lengths: Tensor, thoughts: Thoughts, shares: list[Tensor], trace: bool, seconds: dict[str, float]
) -> LareGeneration:
    """Assemble the answer; tensors are cloned outside inference mode, so that they may enter autograd later."""
    output = LareGeneration(sequences.clone(), lengths.clone(), thoughts.steps.clone(), thoughts.stop_reason)
    output.seconds = seconds
    if trace:
        for name in ("latents", "windows", "saliency", "cross_attention", "window_masses"):
            setattr(output, name, getattr(thoughts, name).clone())
        output.attention_shares = torch.stack([share.clone() for share in shares], dim=1)
        visual = thoughts.state.visual
        if visual.sizes is not None:
            each = thoughts.state.visual_slots.shape[0] // visual.sizes.shape[0]
            output.sizes = visual.sizes.repeat_interleave(each, 0)
    return output


class Clock:
    """Wall-clock seconds per phase; waits for the device, so that a phase is charged with its own work."""

    def __init__(self, model: Reasoner) -> None:
        self.seconds: dict[str, float] = {}
        self._cuda = model.device.type == "cuda"
        self._last = self._now()

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def lap(self, name: str) -> None:
        """Charge the time since the last lap to `name`."""
        now = self._now()
        self.seconds[name] = now - self._last
        self._last = now


class _Decoder:
    """The decode loop over one batch; `alive` maps the rows still computed to rows of the batch."""

    def __init__(
        self,
        model: Reasoner,
        state: LoopState,
        options: GenerationOptions,
        latents: slice,
        prompt: Prompts,
    ) -> None:
        self.model, self.state, self.options, self.latents = model, state, options, latents
        self.shares: list[Tensor] = []
        text = model.config.text_config
        self.eos = eos_ids(model, options)
        self.prompt, real_prompt = prompt
        before = penalties(options, real_prompt, self.eos)
        # Such processors may keep something per row, so the batch is not cut down under them.
        self.whole = bool(before)
        self.processors, self.criteria = processors(options, before), stopping_criteria(options)
        pad = getattr(text, "pad_token_id", None) if options.pad_token_id is None else options.pad_token_id
        self.pad = int(pad) if pad is not None else (self.eos[0] if self.eos else 0)
        batch, device = state.attention_mask.shape[0], state.attention_mask.device
        self.sequences = torch.full((batch, options.max_new_tokens), self.pad, dtype=torch.long, device=device)
        self.lengths = torch.full((batch,), options.max_new_tokens, dtype=torch.long, device=device)
        self.alive = torch.arange(batch, device=device)
        self.open = torch.ones(batch, dtype=torch.bool, device=device)
        self.positions = state.next_position[:, None].clone()
        self.real = torch.nn.functional.pad(state.attention_mask, (0, options.max_new_tokens), value=True)
        self.mask = self._decode_mask()
        self._eos_tensor = torch.tensor(self.eos, dtype=torch.long, device=device)

    def _decode_mask(self) -> Tensor | None:
        """Additive mask (B, 1, 1, S + all new tokens), of which each step uses the front; None without padding."""
        if not self.state.padded:
            return None
        mask = torch.zeros(self.real.shape, dtype=self.state.last_hidden.dtype, device=self.real.device)
        return mask.masked_fill_(~self.real, float("-inf"))[:, None, None]

    def run(self) -> tuple[Tensor, Tensor]:
        """Generate; returns the ids (B, T), T the longest answer with its end of sequence, and lengths (B,)."""
        hidden, length = self.state.last_hidden, self.state.attention_mask.shape[1]
        self._note_shares(self.state.rows, self.state.attention_mask)
        step = 0
        self._stream(self.prompt[:1])
        for step in range(self.options.max_new_tokens):
            ids = self._ids(step) if self.whole else None
            tokens = choose_tokens(self.model.lm_head(hidden), self.options, ids, self.processors)
            self._record(step, tokens)
            self._stream(tokens)
            last = not bool(self.open.any()) or step + 1 == self.options.max_new_tokens
            watch = step == 0 and self.options.output_trace
            if last and not watch:
                break
            tokens = tokens if last else self._drop_finished(tokens)
            hidden = self._step(tokens, length + step + 1, watch)
            if last:
                break
        if self.options.streamer is not None:
            self.options.streamer.end()
        return self.sequences[:, : step + 1], self.lengths

    def _stream(self, ids: Tensor) -> None:
        if self.options.streamer is not None:
            self.options.streamer.put(ids.cpu())

    def _record(self, step: int, tokens: Tensor) -> None:
        """Write the new tokens of the open rows and close those that ended."""
        self.sequences[self.alive, step] = torch.where(self.open, tokens, self.pad)
        ended = torch.isin(tokens, self._eos_tensor) & self.open
        self.lengths[self.alive[ended]] = step
        if self.options.stop_check is not None:
            asked = self.options.stop_check(self.sequences[:, : step + 1]).to(self.alive.device)[self.alive]
            asked = asked & self.open & ~ended
            self.lengths[self.alive[asked]] = step + 1
            ended = ended | asked
        if self.criteria:
            done = self.criteria(self._ids(step + 1), None).to(self.alive.device)[self.alive] & self.open & ~ended
            self.lengths[self.alive[done]] = step + 1
            ended = ended | done
        self.open = self.open & ~ended

    def _ids(self, step: int) -> Tensor:
        """Prompt and `step` generated tokens of all rows, (B, S + step)."""
        return torch.cat((self.prompt, self.sequences[:, :step]), dim=1)

    def _drop_finished(self, tokens: Tensor) -> Tensor:
        """Cut the batch down to its open rows once they are half of it or fewer; returns their tokens."""
        if self.whole or int(self.open.sum()) * 2 > self.open.shape[0]:
            return tokens
        keep = self.open.nonzero().squeeze(1)
        if self.options.output_trace and not len(self.shares) > 1:
            return tokens
        self.state.cache.batch_select_indices(keep)
        self.alive, self.positions, self.open = self.alive[keep], self.positions[keep], self.open[keep]
        self.mask, self.real = None if self.mask is None else self.mask[keep], self.real[keep]
        return tokens[keep]

    def _step(self, tokens: Tensor, length: int, watch: bool) -> Tensor:
        """Feed one token per row; `length` counts the cached columns with it. Returns (B, d)."""
        capture = LastQueryCapture() if watch else None
        mask = windowed(self.model, None if self.mask is None else self.mask[..., :length], self.real[:, :length])
        hidden = run_decoder(
            self.model, self.model.embed(tokens[:, None]), self.state.cache, self.positions, mask, capture
        )
        self.positions = self.positions + 1
        if capture is not None:
            self._note_shares(
                capture.layer_rows(), torch.nn.functional.pad(self.state.attention_mask, (0, 1), value=True)
            )
        return hidden[:, -1]

    def _note_shares(self, rows: Tensor | None, mask: Tensor) -> None:
        if self.options.output_trace and rows is not None:
            self.shares.append(attention_shares(rows, mask, self.state.visual_slots, self.latents))


def eos_ids(model: Reasoner, options: GenerationOptions) -> list[int]:
    """Ids that end an answer: the options', else the text configuration's."""
    if options.eos_token_ids is not None:
        return [int(token) for token in options.eos_token_ids]
    return end_ids(model.config.text_config)
