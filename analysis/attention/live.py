"""Asks the model again for what traces leave out: rows of attention by position, and answers on masked pictures.

A trace keeps how a row of attention divides over kinds of positions, not the row. Here a method answers the same
questions again, batch by batch, with the capture of `lare.model.attention`: which visual positions the mass lies on,
what the row becomes when another first token stands there, and how likely the method's own answer stays when patches
of the picture that the encoder sees are covered.

Shapes: N questions, B of a batch, T tokens of the longest answer, L layers, H heads, V visual tokens of the decoder,
C = side * side cells of a grid over the picture, K latent iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from analysis.heatmaps.numbers import lay_out
from analysis.shared.questions import MAX_NEW_TOKENS
from lare.errors import LareError
from lare.interventions import OWN
from lare.methods.generating import Generating
from lare.methods.intervening import Intervening
from lare.model.generation import attention_shares
from lare.model.loop import LoopState, extend, prefill
from lare.model.losses import target_states
from lare.model.thinking import Thoughts, think

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.methods.base import Method

__all__ = ["Again", "Effects", "Rows", "answer_words", "choose_cells", "cover", "masking_effects"]

BATCH = 32

ANSWER_MARK = "Answer:"
"""The answer follows it, and the rationale precedes it."""

COVERED = 0.1
"""Share of the patches that is covered; at least one patch."""

CONDITIONS = ("most attended", "random", "least attended", "another question's")
"""Which patches are covered. ``another question's``: those most attended under a question on another scene. The gap
between ``most attended`` and it is what this question and picture add to places that are always looked at."""

Values = npt.NDArray[np.float64]
Cells = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Attention of the two rows around the first token; axes N, then the row (`analysis.attention.measure.ROWS`).

    Attributes:
        first: (N,) first tokens, written or forced.
        shares: (N, 2, L, H, 4) shares of kinds of positions, as a trace keeps them.
        visual: (N, 2, L, V) attention to each visual token, mean over heads.
        bos: (N, 2, L) attention to the sequence's first token, mean over heads.
        extractor: (N, C) the Extractor's attention on the fine grid, mean over iterations; None without.
    """

    first: Tensor
    shares: Values
    visual: Values
    bos: Values
    extractor: Values | None


class Again:
    """One method and N questions with their pictures.

    Args:
        method: "lare" or "llava", with its options.
        pictures: One a question.
        questions: As the task asked them.
        batch: Questions at once.

    Raises:
        LareError: If the method is another one, whose way from prompt to text is not known here, hides the image, or
            stands under an intervention.
    """

    def __init__(self, method: Method, pictures: Sequence[Image], questions: Sequence[str], batch: int = BATCH) -> None:
        known = (Generating.answer, Intervening.answer)
        if not isinstance(method, Generating) or type(method).answer not in known:
            raise LareError(f"the method {method.name!r} can't be asked again here; give traces of 'lare' or 'llava'")
        if getattr(method.options, "intervene", OWN) != OWN:
            raise LareError("answers under an intervention can't be asked again here; give traces without it")
        if method.arguments_of_generate().get("hide_image"):
            raise LareError("answers made with hide_image=true can't be asked again here; give traces without it")
        self.method, self.model = method, method.model
        self.pictures, self.questions, self.batch = list(pictures), list(questions), batch

    def __len__(self) -> int:
        return len(self.questions)

    @cached_property
    def _batches(self) -> list[tuple[slice, dict[str, Tensor]]]:
        """Rows and inputs, made once: every pass reads the same pictures (0.3 GB for 200 of 336 x 336 pixels)."""
        found = []
        for start in range(0, len(self), self.batch):
            part = slice(start, start + self.batch)
            with self.method.configured():
                found.append((part, self.method.inputs(self.pictures[part], self.questions[part])))
        return found

    @cached_property
    def own(self) -> tuple[Tensor, Tensor]:
        """The answers written greedily: ids (N, T), and where they stand, (N, T) booleans; without the end token."""
        ids = torch.zeros(len(self), MAX_NEW_TOKENS, dtype=torch.long)
        stands = torch.zeros(len(self), MAX_NEW_TOKENS, dtype=torch.bool)
        for part, inputs in self._batches:
            with self.method.configured():
                options = self.method.arguments_of_generate() | inputs
                made = self.model.generate(max_new_tokens=MAX_NEW_TOKENS, **options)
            sequences, length = made.sequences.cpu(), made.sequences.shape[1]
            ids[part, :length] = sequences
            stands[part, :length] = torch.arange(length)[None] < made.lengths.cpu()[:, None]
        longest = max(1, int(stands.sum(1).max()))
        return ids[:, :longest] * stands[:, :longest], stands[:, :longest]

    def texts(self) -> list[str]:
        """The own answers as a trace keeps them."""
        decode = self.method.processor.tokenizer.decode
        ids, stands = self.own
        rows = zip(ids, stands, strict=True)
        return [str(decode(row[there].tolist(), skip_special_tokens=True)).strip() for row, there in rows]

    def _thoughts(
        self, inputs: dict[str, Tensor], pixels: Tensor, keep_rows: bool = False
    ) -> tuple[LoopState, Thoughts | None]:
        """The state before the first text token (before the closing delimiter where there is one)."""
        latent = self.method.latent
        with self.method.configured():
            visual = self.model.visual_tokens(pixels, None)
            state = prefill(
                self.model, inputs["input_ids"], inputs["attention_mask"], visual, room=MAX_NEW_TOKENS,
                keep_rows=keep_rows and not latent,
            )  # fmt: skip
            if not latent:
                return state, None
            thoughts = think(self.model, state, **self.method.arguments_of_generate())
        return thoughts.state, thoughts

    @torch.inference_mode()
    def rows(self, first: Tensor | None = None) -> Rows:
        """Both rows of attention around the first token.

        Args:
            first: (N,) first tokens to set there; None lets the method write its own.
        """
        tokens, parts = [], []
        maps: list[Values | None] = []
        for part, inputs in self._batches:
            state, thoughts = self._thoughts(inputs, inputs["pixel_values"], keep_rows=True)
            prompt = inputs["input_ids"].shape[1]
            latents = slice(prompt, state.attention_mask.shape[1])
            if thoughts is not None:
                end = self.model.embed_token(self.model.config.latent_end_id, len(inputs["input_ids"]))
                _, state = extend(self.model, state, end, capture=True, keep_rows=True)
                maps.append(_on_grid(thoughts, self.model.config.grid))
            token = self.model.lm_head(state.last_hidden).argmax(-1)
            if first is not None:
                token = first[part].to(token)
            before = self._numbers(state, latents)
            _, state = extend(self.model, state, self.model.embed(token[:, None]), capture=True, keep_rows=True)
            tokens.append(token.cpu())
            parts.append([np.stack(pair, 1) for pair in zip(before, self._numbers(state, latents), strict=True)])
        shares, visual, bos = (np.concatenate(one) for one in zip(*parts, strict=True))
        known = [one for one in maps if one is not None]
        extractor = np.concatenate(known) if known and len(known) == len(maps) else None
        return Rows(torch.cat(tokens), shares, visual, bos, extractor)

    def _numbers(self, state: LoopState, latents: slice) -> tuple[Values, Values, Values]:
        """What is kept of a captured row: shares of kinds, attention to each visual token, and to the first token."""
        assert state.rows is not None
        rows, slots = state.rows.float(), state.visual_slots
        shares = attention_shares(rows, state.attention_mask, slots, latents)
        mean = rows.mean(2)
        visual = mean.gather(2, slots[:, None].expand(-1, mean.shape[1], -1))
        bos = shares[..., 0].mean(2)
        return _numpy(shares), _numpy(visual), _numpy(bos)

    @torch.inference_mode()
    def log_probs(self, covered: Cells | None = None, fill: str = "mean") -> Values:
        """Natural log-probability of each token of the own answers, (N, T), 0 where none stands.

        Each token is read after the own tokens before it. Latent steps are taken anew on the covered picture.

        Args:
            covered: (N, C) patches of the picture to cover; None covers nothing.
            fill: What covers a patch: "mean", the picture's own mean colour, or "grey", middle grey.
        """
        ids, stands = self.own
        found = torch.zeros(ids.shape, dtype=torch.float64)
        for part, inputs in self._batches:
            pixels = inputs["pixel_values"]
            if covered is not None:
                grey = None if fill == "mean" else self._grey(pixels)
                pixels = cover(pixels, torch.from_numpy(covered[part]).to(pixels.device), grey)
            state, _ = self._thoughts(inputs, pixels)
            labels, mask = ids[part].to(pixels.device), stands[part].to(pixels.device)
            hidden, _ = target_states(self.model, state, labels, mask, self.method.latent)
            wide = self.model.lm_head(hidden[mask]).float().log_softmax(-1)
            values = torch.zeros(labels.shape, dtype=torch.float64)
            values[mask.cpu()] = wide.gather(1, labels[mask][:, None])[:, 0].double().cpu()
            found[part] = values
        return found.numpy()

    def _grey(self, pixels: Tensor) -> Tensor:
        """Middle grey as the encoder sees it, (1, 3, 1, 1)."""
        maker = self.method.processor.image_processor
        normal = getattr(maker, "do_normalize", False)
        mean, std = ([0.0], [1.0]) if not normal else (maker.image_mean, maker.image_std)
        return ((0.5 - pixels.new_tensor(mean)) / pixels.new_tensor(std)).reshape(1, -1, 1, 1)


def _numpy(values: Tensor) -> Values:
    return np.asarray(values.double().cpu().numpy())


def _on_grid(thoughts: Thoughts, grid: int) -> Values | None:
    """The Extractor's attention, mean over the steps that a row took, (B, C); None if it has none."""
    attention = _numpy(thoughts.cross_attention)
    if not attention.any():
        return None
    maps, _ = lay_out(attention, np.maximum(thoughts.windows.cpu().numpy(), 0), grid)
    total = maps.sum(1).reshape(len(maps), -1)
    return np.asarray(total / np.maximum(total.sum(1, keepdims=True), 1e-12))


def cover(pixels: Tensor, covered: Tensor, grey: Tensor | None = None) -> Tensor:
    """Cover patches of what the encoder sees.

    Args:
        pixels: (B, 3, H, W), normalised for the encoder.
        covered: (B, C) booleans over a square grid, row by row.
        grey: (1, 3, 1, 1) colour; None takes each picture's own mean colour.

    Returns:
        Pictures of the same shape; pixels outside the patches are as they were.
    """
    side = round(covered.shape[1] ** 0.5)
    mask = covered.reshape(-1, 1, side, side).to(torch.float32)
    mask = torch.nn.functional.interpolate(mask, size=pixels.shape[-2:], mode="nearest") > 0.5
    colour = pixels.mean((2, 3), keepdim=True) if grey is None else grey
    return torch.where(mask, colour.to(pixels.dtype), pixels)


def answer_words(ids: Tensor, stands: Tensor, tokenizer: Any) -> Cells:
    """Tokens after the last answer mark, (N, T); all of an answer without one, or with nothing after it."""
    found = np.zeros(tuple(ids.shape), dtype=bool)
    for row, (tokens, length) in enumerate(zip(ids.tolist(), stands.sum(1).tolist(), strict=True)):
        starts = [place for place in range(1, length) if _ends_in_mark(tokens[:place], tokenizer)]
        found[row, starts[-1] if starts else 0 : length] = True
    return found


def _ends_in_mark(tokens: list[int], tokenizer: Any) -> bool:
    return str(tokenizer.decode(tokens[-8:], skip_special_tokens=True)).rstrip().endswith(ANSWER_MARK)


def choose_cells(scores: Values, count: int, rng: np.random.Generator, most: bool = True) -> Cells:
    """The cells with the highest (or lowest) scores, `count` a row, equal ones by lot; (N, C) booleans.

    Args:
        scores: (N, C); all equal gives random cells.
        count: Cells a row.
        rng: Draws the lots.
        most: Highest rather than lowest.
    """
    lots = rng.permuted(np.tile(np.arange(scores.shape[1]), (len(scores), 1)), axis=1)
    ordered = np.argsort(np.take_along_axis(-scores if most else scores, lots, 1), axis=1, kind="stable")
    chosen = np.take_along_axis(lots, ordered[:, :count], 1)
    cells = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(cells, chosen, True, axis=1)
    return cells


@dataclass(frozen=True)
class Effects:
    """How much log-probability the own answers lost, in nats; above 0 is a loss.

    Attributes:
        count: Patches covered of each picture.
        cells: Patches that a picture has.
        whole: For each condition, (N,) loss of everything written.
        words: For each condition, (N,) loss of the answer's words, given the own rationale.
        entire: (N,) loss of everything written when the whole picture is covered: the most there is to lose.
    """

    count: int
    cells: int
    whole: dict[str, Values]
    words: dict[str, Values]
    entire: Values


def masking_effects(
    log_probs: Callable[[Cells | None], Values],
    scores: Values,
    words: Cells,
    stranger: npt.NDArray[np.int64],
    draws: int = 5,
    seed: int = 0,
) -> Effects:
    """Cover the most attended patches, the least, random ones, and those that another question attends to.

    Args:
        log_probs: From covered patches (N, C) (None: nothing covered) to each token's log-probability, (N, T).
        scores: (N, C) attention to the patches.
        words: (N, T) tokens that are the answer's words.
        stranger: (N,) a question on another scene for each.
        draws: Random choices, whose losses are averaged.
        seed: Seed of the draws.

    Returns:
        Losses by condition; each covers the same number of patches.
    """
    rng = np.random.default_rng(seed)
    cells = scores.shape[1]
    count = max(1, round(COVERED * cells))
    most = choose_cells(scores, count, rng)
    plain = log_probs(None)
    plans = {
        "most attended": [most],
        "random": [choose_cells(np.zeros_like(scores), count, rng) for _ in range(draws)],
        "least attended": [choose_cells(scores, count, rng, most=False)],
        "another question's": [most[stranger]],
    }
    whole, part = {}, {}
    for name, plan in plans.items():
        lost = np.mean([plain - log_probs(one) for one in plan], axis=0)
        whole[name], part[name] = lost.sum(1), (lost * words).sum(1)
    entire = (plain - log_probs(np.ones_like(most))).sum(1)
    return Effects(count, cells, whole, part, entire)
