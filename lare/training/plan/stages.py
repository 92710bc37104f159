"""The paper's four stages (Appendix A and B) as small task objects: which parts train, and which losses weigh in.

| stage | trains | losses |
| --- | --- | --- |
| I vision-language alignment | projector | L_lm |
| II latent alignment | Extractor, its projector, alignment heads, U-Net | L |
| III instruction tuning | all but the vision encoder and the image tokenizer | L |
| IV reasoning | the same | L |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from lare.errors import LareError
from lare.model.lora import LORA_MARK
from lare.training.plan.config import PARTS, StageConfig

__all__ = ["OWNERS", "STAGES", "Stage", "freeze_all_but", "part_of", "parts_of", "prefixes"]

OWNERS: dict[str, tuple[str, ...]] = {
    "projector": ("lare.projector.",),
    "refocus_projector": ("lare.refocus_projector.",),
    "extractor": ("lare.extractor.", "lare.latent_maker."),
    "language_model": ("lare.language_model.",),
    "alignment": ("alignment.", "heads."),
    "unet": ("image.",),
}
"""Where each part's parameters are in a `TrainingModel`; with "lm" sources the two projectors are one.

A method's own module that makes latents counts as the Extractor, and the modules of further losses as alignment heads.
"""


def prefixes(parts: Iterable[str]) -> tuple[str, ...]:
    """Where the parameters of parts are."""
    return tuple(prefix for part in parts for prefix in OWNERS[part])


def part_of(name: str, model: Any) -> str | None:
    """The part that a parameter of a `TrainingModel` belongs to; None where it never trains.

    Never trained are the encoder, wherever the backbone has it, and the base weights under low-rank adapters.
    """
    lare = getattr(model, "lare", None)
    backbone, own = getattr(lare, "backbone", None), name.removeprefix("lare.")
    if backbone is not None and own != name:
        if own.startswith(backbone.projector):
            return "projector"
        if own.startswith(backbone.encoder):
            return None
    found = next((part for part, starts in OWNERS.items() if name.startswith(starts)), None)
    adapted = lare is not None and lare.config.lora is not None and found == "language_model"
    return None if adapted and LORA_MARK not in name else found


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes:
        title: What it is for, in the paper's words.
        parts: Parts that train.
        latents: Whether it makes latents, and so has losses on them.
    """

    title: str
    parts: tuple[str, ...]
    latents: bool


STAGES: dict[str, Stage] = {
    "I": Stage("vision-language alignment", ("projector",), False),
    "II": Stage("latent alignment", ("extractor", "refocus_projector", "alignment", "unet"), True),
    "III": Stage("instruction tuning", PARTS, True),
    "IV": Stage("reasoning", PARTS, True),
}


def parts_of(stage: StageConfig) -> tuple[str, ...]:
    """The parts that an entry of the plan trains."""
    return stage.train or STAGES[stage.stage].parts


def freeze_all_but(model: nn.Module, parts: Iterable[str]) -> list[tuple[str, nn.Parameter]]:
    """Let exactly these parts of a `TrainingModel` train and return their named parameters.

    Raises:
        LareError: If that leaves nothing to train.
    """
    wanted = set(parts)
    chosen = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name, model) in wanted)
        if parameter.requires_grad:
            chosen.append((name, parameter))
    if not chosen:
        raise LareError(f"the model has none of the parts {', '.join(parts)}; there is nothing to train")
    return chosen
