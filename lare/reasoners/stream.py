"""Reads a prompt and then one block after another over one cache: any decoder of transformers, nothing recomputed.

The prompt goes through the whole model, which puts visual tokens in and counts positions; all that follows goes through
its decoder as embeddings. A causal decoder never changes a prefix's states, so this gives what a recompute over the
whole sequence would give. Columns may be padding anywhere; positions count a row's real columns only, so a row's
numbers do not depend on the rows around it.

Shapes: B rows, S columns so far, T new ones, d width, N_v visual tokens of a row.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor

from lare.errors import LareError
from lare.model.attention import ATTENTION_NAME, LastQueryCapture, shares_by_kind
from lare.model.cache import RoomyCache

__all__ = ["BOS", "LATENT", "TEXT", "VISUAL", "Stream", "attends"]

BOS, TEXT, VISUAL, LATENT = range(4)
"""Kinds of columns, in the order of `lare.trace.SHARES`."""

_ROOM = 256  # spare columns that a cache makes at once


def attends(model: Any) -> None:
    """Let the decoder hand out attention rows; its numbers stay those of torch's own kernel."""
    model.get_decoder().set_attn_implementation(ATTENTION_NAME)


class Stream:
    """What a batch has read.

    Args:
        model: A causal language model, with or without a vision encoder.
        inputs: Its processor's, padded on the left: input_ids, attention_mask (B, S), pixel_values, ...
        sequential: Give every token the next whole number as its position, visual ones too.
        watch: Also take the attention of the prompt's last position.
        looks: Keep the prompt's input embeddings, visual embeddings in their places.

    Attributes:
        hidden: (B, d) the decoder's output at the last position, after its final norm.
        shares: (B, L, H, 4) how each row's last watched position attended, split into `lare.trace.SHARES`; None unless
            watched.
        keys: (B,) over how many positions.
        kinds: (B, S) which of `lare.trace.SHARES` a column is, by number.
        mask: (B, S) booleans, False at padding.
        is_image: (B, S0) which columns of the prompt are visual tokens.
        visual: (B, S0, d) the prompt's input embeddings, visual ones in their places; None unless kept.
    """

    def __init__(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        sequential: bool = False,
        watch: bool = False,
        looks: bool = False,
    ) -> None:
        self.model, self.decoder = model, model.get_decoder()
        self._embeddings = model.get_input_embeddings()
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        image = getattr(model.config, "image_token_id", None)
        self.is_image = ids == image if image is not None else torch.zeros_like(mask)
        self.cache = RoomyCache(int(self.decoder.config.num_hidden_layers), _ROOM + 1)
        self._capture: LastQueryCapture | None = None
        self.shares: Tensor | None = None
        self.keys = torch.zeros_like(ids[:, 0])
        self.visual: Tensor | None = None
        self.kinds = torch.where(self.is_image, VISUAL, TEXT)
        self.kinds.scatter_(1, mask.long().argmax(1, keepdim=True), BOS)
        self._wide = hasattr(model.base_model, "get_rope_index")
        positions = self._positions(inputs, sequential)
        # The next position follows the row's greatest, which a picture may have pushed ahead of the last column's.
        self._next = positions.amax(0).amax(-1) + 1 if positions.dim() == 3 else positions[:, -1] + 1
        self.mask = mask[:, :-1]
        if self.mask.shape[1]:
            self._prefill(inputs, positions[..., :-1], watch or looks)
        self.mask = mask
        capture = LastQueryCapture() if watch else None
        self.hidden = self._run(self.embed(ids[:, -1:]), positions[..., -1:], capture)[:, -1]
        self._take(capture, None)

    @property
    def attention(self) -> Tensor | None:
        """(B, S) what the last watched position attended to, mean over heads and layers; None unless watched.

        Raises:
            LareError: If the decoder hands out no attention.
        """
        return None if self._capture is None else self._capture.mean_row()

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings (..., d) of token ids."""
        made: Tensor = self._embeddings(ids)
        return made

    def logits(self, hidden: Tensor | None = None) -> Tensor:
        """(B, V) what the language-model head says of states; None takes the last position's."""
        made: Tensor = self.model.get_output_embeddings()(self.hidden if hidden is None else hidden)
        return made

    def read(
        self, embeds: Tensor, real: Tensor | None = None, watch: bool = False, kinds: Tensor | None = None
    ) -> Tensor:
        """Read T new positions.

        Args:
            embeds: (B, T, d).
            real: (B, T) booleans, False where a row reads nothing; None means that all read all. A row whose last
                column is False keeps its `hidden` and `shares`.
            watch: Also take the attention of the last position.
            kinds: (B, T) what they are, see `kinds`; None stands for text.

        Returns:
            The decoder's output (B, T, d), after its final norm.
        """
        new = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device) if real is None else real
        positions = (self._next[:, None] + new.long().cumsum(1) - 1).clamp_min(0)
        self._next = self._next + new.sum(1)
        self.mask = torch.cat((self.mask, new), dim=1)
        said = torch.full_like(new, TEXT, dtype=torch.long) if kinds is None else kinds
        self.kinds = torch.cat((self.kinds, said), dim=1)
        capture = LastQueryCapture() if watch else None
        made = self._run(embeds, positions[None].expand(3, -1, -1) if self._wide else positions, capture)
        self.hidden = torch.where(new[:, -1:], made[:, -1], self.hidden)
        self._take(capture, new[:, -1])
        return made

    def hide_image(self, rows: Tensor) -> None:
        """Mask the visual tokens of rows (B,) from here on."""
        self.mask = self.mask.clone()
        self.mask[:, : self.is_image.shape[1]] &= ~(self.is_image & rows[:, None])

    def branch(self) -> Stream:
        """A copy that goes its own way; the model is shared."""
        other = copy.copy(self)
        other.cache = copy.deepcopy(self.cache)
        return other

    def _positions(self, inputs: dict[str, Tensor], sequential: bool) -> Tensor:
        """Positions of the prompt, (B, S), or (3, B, S) where the model has three axes (M-RoPE)."""
        mask = inputs["attention_mask"]
        plain = (mask.long().cumsum(1) - 1).clamp_min(0)
        if not self._wide:
            return plain
        if sequential or "image_grid_thw" not in inputs:
            return plain[None].expand(3, -1, -1)
        known = inspect.signature(self.model.base_model.get_rope_index).parameters
        given = {name: value for name, value in inputs.items() if name in known}
        positions: Tensor = self.model.base_model.get_rope_index(**given)[0]
        return positions

    def _prefill(self, inputs: dict[str, Tensor], positions: Tensor, looks: bool) -> None:
        """Read the prompt without its last column, pictures and all."""
        ids = inputs["input_ids"]
        if bool(self.is_image[:, -1].any()):
            raise LareError("a prompt ends in an image token; put the question after the picture")
        keywords: dict[str, Any] = {self._cache_name(self.model.base_model): self.cache, "use_cache": True}
        keywords |= {"attention_mask": self.mask.long(), "position_ids": positions}
        if "pixel_values" in inputs:
            places = {name: inputs[name] for name in ("image_grid_thw", "image_sizes") if name in inputs}
            pixels = inputs["pixel_values"].to(self.model.dtype)
            seen = self.model.base_model.get_image_features(pixel_values=pixels, return_dict=True, **places)
            keywords["mm_encoder_outputs"] = {"image": seen}
            if looks:
                flat = torch.cat(tuple(seen.pooler_output), dim=0)
                self.visual = self.embed(ids).masked_scatter(self.is_image[..., None], flat.to(self.model.dtype))
        self.model.base_model(input_ids=ids[:, :-1], **keywords)

    def _run(self, embeds: Tensor, positions: Tensor, capture: LastQueryCapture | None) -> Tensor:
        keywords: dict[str, Any] = {} if capture is None else dict(capture.keywords())
        keywords[self._cache_name(self.decoder)] = self.cache
        made = self.decoder(
            inputs_embeds=embeds,
            attention_mask=self.mask.long(),
            position_ids=positions,
            use_cache=True,
            **keywords,
        )
        hidden: Tensor = made.last_hidden_state
        return hidden

    def _take(self, capture: LastQueryCapture | None, rows: Tensor | None) -> None:
        """Keep what the last position attended to, in rows (B,) that have read it; None stands for all."""
        if capture is None:
            return
        self._capture = capture
        if len({row.shape for row in capture.rows}) != 1:
            return  # a decoder that hands out none, or whose layers see different columns
        found, keys = shares_by_kind(capture.layer_rows(), self.kinds, self.mask), self.mask.sum(1)
        if rows is not None and self.shares is not None:
            found, keys = torch.where(rows[:, None, None, None], found, self.shares), torch.where(rows, keys, self.keys)
        self.shares, self.keys = found, keys

    @staticmethod
    def _cache_name(module: Any) -> str:
        """How `forward` calls its cache: transformers renamed it while 5.x lasted."""
        known = inspect.signature(type(module).forward).parameters
        return "past_key_values" if "cache" not in known and "past_key_values" in known else "cache"
