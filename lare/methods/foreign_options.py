"""Options of methods that answer with another project's model, and what such a method is asked at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lare.interventions import OWN, Asked, Setting, get_intervention
from lare.methods.base import MethodOptions, Sampling, option

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Batch", "ForeignOptions"]


@dataclass(frozen=True)
class ForeignOptions(MethodOptions):
    """Options of any preset.

    Attributes:
        preset: One of `lare.reasoners.preset_names`, or a YAML file; None takes the one whose marks the tokenizer has.
        iterations: Latents of a block; None takes the preset's number, 0 makes none between the marks.
        image: "blank" shows a grey picture instead (a control).
        intervene: An intervention (`lare.interventions`).
        intervene_from: Trace folder of a run without intervention, from which other questions' latents are taken.
        seed: Seed of draws; each draw is a function of it and of the question.
    """

    preset: str | None = option(
        None, "coconut, mirage, monet, ... or a .yaml file; by default the one whose marks the tokenizer has"
    )
    iterations: int | None = option(None, "latents of a block; 0 makes none between the marks", least=0, always=True)
    image: str = option("given", "blank shows a grey picture instead (control)", choices=("given", "blank"))
    intervene: str = option(OWN, "what is done to the latents; `lare info --interventions` lists it",
                            check=get_intervention)  # fmt: skip
    intervene_from: str | None = option(None, "traces of a run without intervention, for others' latents")
    seed: int = option(0, "seed of draws")


@dataclass(frozen=True)
class Batch:
    """What a method is asked.

    Attributes:
        images: The pictures as they are shown.
        questions: The questions.
        asked: The questions as interventions know them.
        settings: The interventions.
        sampling: How text is decoded.
        watch: Also take what is attended to.
    """

    images: Sequence[Image]
    questions: Sequence[str]
    asked: Sequence[Asked]
    settings: Sequence[Setting]
    sampling: Sampling
    watch: bool = False
