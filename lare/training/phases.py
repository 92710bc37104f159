"""The phases of the embedded model's training: what each asks, how it is answered, and which parts learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lare.training.batches import Mode

CAPTIONS = {"caption": 1.0}
REASONING = {
    "what_at": 0.6, "where": 0.6, "colour": 0.7, "direction": 0.7, "size": 0.5, "digit": 0.9, "exist": 1.0,
    "count": 0.9, "more": 0.5, "larger_digit": 1.0, "further": 0.9, "common_colour": 0.3, "beside1": 1.0,
    "beside2": 1.2, "beside3": 1.2, "gaze1": 1.0, "gaze2": 1.4, "gaze3": 1.4, "chain_attribute": 1.2, "function": 1.0,
}  # fmt: skip
BENCHMARK_STYLES = {"open": 1.0, "mmbench": 1.0, "mmstar": 1.0, "scienceqa": 0.8, "mmvp": 0.6}


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
        name: its name and folder.
        questions: how many questions it trains on, over all processes.
        families: weight of each question family.
        styles: weight of each format.
        iterations: K.
        direct_share: share of batches answered at once: no delimiters, no rationale.
        text_share: share of batches that write the whole rationale behind empty delimiters (all with `iterations` 0).
        prefix: P, the rationale tokens to reconstruct from the latents (eq. 8).
        replaced: rationale tokens that the latents take the place of at the end; rises from 0 over the first 60 %.
        train: parts that train: any of lm, projector, extractor.
        learning_rate: peak learning rate of AdamW (the recipe's `matrix_rate` is Muon's).
        floor: learning rate at the end, as a share of the peak.
        prefix_weight: weight of text-prefix reconstruction (eq. 8).
        prefix_share: share of the latent batches that carry it.
        images: scenes a batch, over all processes.
        per_image: questions a scene.
    """

    name: str
    questions: int
    families: Mapping[str, float]
    styles: Mapping[str, float]
    iterations: int = 0
    direct_share: float = 0.0
    text_share: float = 0.0
    prefix: int = 0
    replaced: int = 0
    train: tuple[str, ...] = ("lm", "projector")
    learning_rate: float = 5e-4
    floor: float = 1.0
    prefix_weight: float = 0.5
    prefix_share: float = 1.0
    images: int = 8
    per_image: int = 16

    def mode(self, step: int, steps: int, flips: Sequence[float]) -> Mode:
        """How a step's batch is answered; `flips` are two uniform numbers, the same on every process."""
        if flips[0] < self.direct_share:
            return Mode(0, 0)
        if self.iterations == 0 or flips[0] < self.direct_share + self.text_share:
            return Mode(0, 0, rationale=self.families.keys() != CAPTIONS.keys())
        grown = min(1.0, (step + 1) / (0.6 * steps))
        reconstruct = flips[1] < self.prefix_share
        return Mode(self.iterations, self.prefix, reconstruct, replaced=round(self.replaced * grown))

    def final_mode(self) -> Mode:
        """How the phase's questions are answered at its end."""
        return self.mode(1, 1, (1.0, 1.0))


def phases(scale: float = 1.0, prefix: int = 8, replaced: int = 0) -> tuple[Phase, ...]:
    """The decoder's phases; `scale` multiplies the number of questions, `prefix` and `replaced` are the last one's."""
    return (
        Phase("captions", int(20_000 * scale), CAPTIONS, {"open": 1.0}, images=8, per_image=4),
        Phase("rationales", int(200_000 * scale), REASONING, BENCHMARK_STYLES, direct_share=0.1),
        Phase("warmup", int(12_000 * scale), REASONING, BENCHMARK_STYLES, iterations=1, train=("extractor",)),
        Phase(
            "latents",
            int(118_000 * scale),
            REASONING,
            BENCHMARK_STYLES,
            iterations=4,
            direct_share=0.15,
            text_share=0.1,
            prefix=prefix,
            replaced=replaced,
            train=("lm", "projector", "extractor"),
            floor=0.05,
            prefix_weight=0.2,
            prefix_share=0.3,
        ),
    )
