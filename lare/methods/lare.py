"""LaRe: K latent steps that look at the image again, then the rest of the rationale and the answer (section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from lare.errors import LareError
from lare.methods.base import option
from lare.methods.intervening import InterveneOptions, Intervening
from lare.methods.layout import Layout, Row, Segment, Text
from lare.methods.training import ModelSettings, StageSettings, Training, TrainingOptions
from lare.model.closer import refocusing_on
from lare.model.configuration_lare import check_source
from lare.model.halting import STOP_HELP, parse_stop
from lare.window_modes import check_window_mode

__all__ = ["Lare", "LareOptions", "LareTraining"]


@dataclass(frozen=True)
class LareOptions(InterveneOptions):
    """Options of the latent steps.

    Attributes:
        iterations: Latent iterations K; None takes the checkpoint's. 0 keeps both delimiters and thinks nothing between
            them, so that the whole rationale is text (a control).
        window: Side of the window in cells of the fine grid; None takes the checkpoint's.
        stop: Stop rule ("fixed", "cosine:C", "learned", ..., see `lare.model.halting.parse_stop`); None takes the
            checkpoint's.
        window_mode: "saliency" is the method; "soft:T" mixes all windows, as a stage with ``window: soft:T`` trains on:
            a model that was trained so and whose saliency is spread answers worse by the arg-max. "random" draws
            windows evenly and "full" takes the whole grid (controls). Random windows and noise are drawn anew for each
            batch, so a question's depend on its place in the batch.
        refocus_source: "lm" or "fine" on a vision-language model (`lare.model.closer`); None takes the checkpoint's.
        latents: "own" is the method; "zeros" and "noise" (as long as each latent) are fed in place of what the
            Extractor makes. `intervene` has these and more, with draws that depend on the question alone.
        hide_image: Mask the image once thinking is done, so that latents and the question's own tokens alone carry it
            into the text; the same as ``intervene=hidden``.
        seed: Seed of random windows, of noise and of interventions.
    """

    iterations: int | None = option(None, "latent iterations K; 0 makes no latents", least=0, always=True)
    window: int | None = option(None, "side of the window in cells of the fine grid", least=1, always=True)
    stop: str | None = option(None, STOP_HELP, check=parse_stop, always=True)
    window_mode: str = option("saliency", "saliency, soft:T, or the controls random and full", check=check_window_mode)
    refocus_source: str | None = option(None, "lm; or fine, where a VLM encodes windows anew", choices=("lm", "fine"))
    latents: str = option("own", "own, or the controls zeros and noise", choices=("own", "zeros", "noise"))
    hide_image: bool = option(False, "hide the image from the text (control)")
    seed: int = option(0, "seed of random windows, of noise and of interventions")


@dataclass(frozen=True)
class LareTrainingOptions(TrainingOptions):
    """Options in a mixture; what is left out is the stage's.

    Attributes:
        iterations: K.
        window: Where the Extractor looks: "saliency" is the method, "random" and "full" are controls; "soft:T" trains
            on a mixture of windows, through which a gradient reaches the attention that chooses them.
        replaced: Rationale tokens that the text leaves out, because the latents stand for them.
        replaced_steps: K latents stand for the first K steps of the rationale, and the text goes on after them. With
            several K in a mixture, K is a dial: ``lare1: {method: lare, iterations: 1, ...}``.
        by_step: Eq. 8 asks each latent step alone for its own step of the rationale, at most P tokens (the last latent
            step for all steps that are left), instead of asking all latents together for the first P tokens.
        per_step: Latents for each step of the rationale, for both of these: one can find the place and the next read
            what lies there (c in Coconut).
    """

    iterations: int | None = option(None, "latent iterations K", least=0)
    window: str | None = option(None, "saliency, soft:T, or the controls random and full", check=check_window_mode)
    replaced: int | None = option(None, "rationale tokens that the text leaves out", least=0)
    replaced_steps: bool = option(False, "let K latents stand for the first K steps of the rationale")
    by_step: bool = option(False, "let each latent step tell its own step of the rationale (eq. 8)")
    per_step: int = option(1, "latents for each step of the rationale", least=1)


class LareTraining(Training):
    """K latents, then the rest of the rationale and the answer."""

    options_type = LareTrainingOptions
    options: LareTrainingOptions

    def layout(self, stage: StageSettings, config: ModelSettings) -> Layout:
        """See `Training.layout`."""
        own, iterations = self.options, self.steps(stage, config)
        chosen = stage.replaced if own.replaced is None else own.replaced
        replaced = (config.text_prefix if chosen is None else chosen) if iterations else 0
        window = own.window or stage.window
        layout = Layout(iterations, True, True, config.text_prefix, replaced, window, lm_grid=self.grid(stage))
        return replace(layout, by_step=True, per_step=own.per_step) if own.by_step else layout

    @property
    def own_segments(self) -> bool:
        """See `Training.own_segments`."""
        return self.options.replaced_steps

    def segments(self, row: Row, layout: Layout) -> Sequence[Segment] | None:
        """See `Training.segments`."""
        if not self.options.replaced_steps:
            return None
        return [Text(row.rationale[row.after_steps(layout.iterations // self.options.per_step) :]), Text(row.answer)]

    def steps(self, stage: StageSettings, config: ModelSettings) -> int:
        """K."""
        chosen = stage.iterations if self.options.iterations is None else self.options.iterations
        return config.iterations if chosen is None else chosen


class Lare(Intervening):
    """The paper's method, and with other options its controls; a stop rule lets a question take the steps it needs."""

    name = "lare"
    latent = True
    options_type = LareOptions
    options: LareOptions
    training: ClassVar[type[Training] | None] = LareTraining

    def check(self) -> None:
        """See `Method.check`."""
        super().check()
        window, grid = self.options.window, self.model.config.grid
        if window is not None and window > grid:
            raise LareError(f"window is {window}, but the grid has {grid} cells a side; give at most that")
        check_source(self.model.config, self.options.refocus_source)

    @property
    def longest_steps(self) -> int:
        """See `Generating.longest_steps`."""
        return max(super().longest_steps, self.options.iterations or 0)

    @contextmanager
    def configured(self) -> Iterator[None]:
        """See `Generating.configured`; window and source of the visual tokens as well."""
        own = self.options
        with refocusing_on(self.model.config, self.processor, own.window, own.refocus_source), super().configured():
            yield

    def arguments_of_generate(self) -> dict[str, Any]:
        """See `Generating.arguments_of_generate`."""
        options, made = self.options, dict[str, Any](iterations=self.options.iterations, stop=self.options.stop)
        if options.window_mode != "saliency":
            made["window_mode"] = options.window_mode
        if options.latents != "own":
            made["latent_override"] = options.latents
        if len(made) > 2:
            made["generator"] = torch.Generator().manual_seed(options.seed)
        return made | ({"hide_image": True} if options.hide_image else {})
