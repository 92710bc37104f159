"""A preset's tokens in a checkpoint's tokenizer, and which presets a checkpoint's tokens fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lare.errors import LareError
from lare.model.choosing import end_ids
from lare.reasoners.preset import Preset
from lare.reasoners.reading import load_preset, preset_names

__all__ = ["Tokens", "find_tokens", "recognise"]


@dataclass(frozen=True)
class Tokens:
    """Token ids of a preset in one tokenizer.

    Attributes:
        start: Opens a block; None without a start mark.
        latent: Placeholder of a latent.
        end: Closes a block.
        slots: Learnt slots.
        ends: End an answer.
    """

    start: int | None
    latent: int | None
    end: int | None
    slots: tuple[int, ...]
    ends: tuple[int, ...]

    def special(self) -> set[int]:
        """Marks and slots, which are no text."""
        return {*self.slots, *(one for one in (self.start, self.latent, self.end) if one is not None)}


def find_tokens(preset: Preset, model: Any, tokenizer: Any, place: str) -> Tokens:
    """Ids of a preset's tokens.

    Args:
        preset: The preset.
        model: The model whose embeddings they need.
        tokenizer: The checkpoint's.
        place: Name of the checkpoint, for messages.

    Raises:
        LareError: If the tokenizer lacks one, or the model has no embedding for it.
    """
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    lacking = [token for token in preset.tokens() if token not in vocabulary]
    if lacking:
        raise LareError(
            f"the tokenizer of {place!r} has no {' '.join(lacking)}, which the preset {preset.name!r} needs as single "
            f"tokens (all it needs: {' '.join(preset.tokens())}); give the checkpoint's own tokenizer or another preset"
        )
    slots = () if preset.slots is None else tuple(vocabulary[one] for one in preset.slots.tokens if one in vocabulary)
    if preset.slots is not None and not slots:
        raise LareError(
            f"the tokenizer of {place!r} has none of the slots of the preset {preset.name!r} "
            f"({' '.join(preset.slots.tokens)}); give the checkpoint's own tokenizer or another preset"
        )
    marks = preset.marks
    start, latent, end = (None if one is None else vocabulary[one] for one in (marks.start, marks.latent, marks.end))
    rows = int(model.get_input_embeddings().weight.shape[0])
    if too_far := [one for one in (start, latent, end, *slots) if one is not None and one >= rows]:
        raise LareError(
            f"{place!r} has {rows} embeddings, but its tokenizer gives the id {max(too_far)} to a mark of the preset "
            f"{preset.name!r}; weights and tokenizer do not belong together"
        )
    ends = end_ids(model.config, getattr(model.config, "text_config", None), model.generation_config, tokenizer)
    return Tokens(start, latent, end, slots, tuple(ends))


def recognise(kind: str, model_type: str, tokenizer: Any, place: str) -> Preset:
    """The one preset whose tokens a tokenizer has.

    Args:
        kind: "feedback" or "slots".
        model_type: The checkpoint's; decides between presets that share their tokens.
        tokenizer: The checkpoint's.
        place: Its name, for messages.

    Raises:
        LareError: If none fits, with the tokens that were looked for, or several do.
    """
    vocabulary = set(tokenizer.get_vocab())
    every = [one for one in map(load_preset, preset_names()) if _wanted(one)]
    marked = [one for one in every if one.kind == kind]
    found = [one for one in every if any(set(tokens) <= vocabulary for tokens in _wanted(one))]
    fitting = [one for one in found if one.kind == kind]
    if not fitting:
        looked = "; ".join(f"{one.name}: {' or '.join(' '.join(tokens) for tokens in _wanted(one))}" for one in marked)
        raise LareError(
            f"{place!r} is no latent reasoner that this method knows: its tokenizer has no such marks ({looked}); "
            "name a preset=NAME or a .yaml file of your own"
        )
    fitting = [one for one in fitting if model_type in one.backbones] or fitting
    others = [one for one in found if one.kind != kind and set(fitting[0].tokens()) < set(one.tokens())]
    if len(fitting) > 1 or others:
        named = ", ".join(f"preset={one.name} (lare_{one.kind})" for one in (*fitting, *others))
        raise LareError(f"{place!r} has the marks of several presets; name one: {named}")
    return fitting[0]


def _wanted(preset: Preset) -> Sequence[Sequence[str]]:
    """Sets of tokens of which any makes a tokenizer the preset's; empty where it has no mark of its own."""
    written = preset.slots.tokens if preset.slots is not None and preset.slots.opened_by == "model" else ()
    need = preset.tokens()
    return [[*need, one] for one in written] or ([need] if need else [])
