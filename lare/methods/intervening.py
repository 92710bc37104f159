"""Methods whose latents can be intervened on: options, and answers to one batch under several interventions at once.

Interventions that begin with the same prefix (picture, question, start mark) share its prefill: the cache is branched,
and each branch goes on with its own latents, number of latents and view of the image. Those without marks are asked by
themselves. A method with a loop of its own writes `answer_under` by means of `lare.interventions.Replacer`.

Shapes: B questions, C settings, K steps, m latents a step, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lare.errors import LareError
from lare.interventions import (
    OWN,
    Asked,
    Bank,
    Branches,
    Intervention,
    Replacer,
    Setting,
    get_intervention,
    question_key,
    read_bank,
)
from lare.interventions.regions import Point, cell_at, points_of
from lare.methods.base import Answer, Sampling, option
from lare.methods.generating import Generating, GeneratingOptions
from lare.model.refocusing import rms_normalise

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Intervening", "InterveneOptions", "ask_of"]


@dataclass(frozen=True)
class InterveneOptions(GeneratingOptions):
    """Options of interventions.

    Attributes:
        intervene: Name of the intervention (`lare.interventions`).
        intervene_from: Trace folder of a run without intervention, from which other questions' latents are taken.
        seed: Seed of draws; each draw is a function of it and of the question.
    """

    intervene: str = option(OWN, "what is done to the latents: zeros, noise, other, marks, none, ...; "
                                 "`lare info --interventions` lists them", check=get_intervention)  # fmt: skip
    intervene_from: str | None = option(None, "traces of a run without intervention, for others' latents")
    seed: int = option(0, "seed of draws")


def ask_of(images: Sequence[Image], questions: Sequence[str]) -> list[Asked]:
    """Questions as interventions know them, from pictures and texts alone."""
    return [Asked(question_key(image, text), text) for image, text in zip(images, questions, strict=True)]


class Intervening(Generating):
    """A method of LaRe's own model between whose marks latents may stand.

    Attributes:
        makes_latents: Whether latents do stand there; else only marks and format can be changed.
    """

    options_type = InterveneOptions
    options: InterveneOptions
    latent = True
    makes_latents: ClassVar[bool] = True

    def check(self) -> None:
        """See `Method.check`."""
        super().check()
        if self.options.intervene == OWN:
            return
        _check_alone(get_intervention(self.options.intervene), self.options.intervene_from is not None)
        others = {name: value for name in ("latents", "hide_image") if (value := getattr(self.options, name, None))}
        if others.get("latents", OWN) != OWN or others.get("hide_image"):
            raise LareError("intervene goes with neither latents nor hide_image, which are interventions too; give one")
        self.check_setting(Setting(self.options.intervene))

    def check_setting(self, setting: Setting) -> None:
        """See `Method.check_setting`."""
        one = setting.intervention
        if not self.makes_latents and (one.content is not None or (one.steps is not None and one.marks)):
            raise LareError(f"the method {self.name!r} makes no latents, so intervene={one.name} changes nothing")

    def answer(
        self, images: Sequence[Image], questions: Sequence[str], sampling: Sampling, trace: bool = False
    ) -> list[Answer]:
        """See `Method.answer`."""
        if self.options.intervene == OWN:
            return super().answer(images, questions, sampling, trace)
        bank = self._bank if "bank" in get_intervention(self.options.intervene).needs else None
        setting = Setting(self.options.intervene, self.options.seed, bank)
        return self.answer_under(images, questions, sampling, [setting], trace=trace)[0]

    def answer_under(
        self,
        images: Sequence[Image],
        questions: Sequence[str],
        sampling: Sampling,
        settings: Sequence[Setting],
        asked: Sequence[Asked] | None = None,
        trace: bool = False,
    ) -> list[list[Answer]]:
        """See `Method.answer_under`."""
        for setting in settings:
            self.check_setting(setting)
        who = ask_of(images, questions) if asked is None else list(asked)
        if sampling.temperature > 0:
            raise LareError("interventions are compared on greedy answers; set temperature to 0")
        found: dict[int, list[Answer]] = {}
        together = [place for place, one in enumerate(settings) if one.intervention.marks]
        if together:
            call = SharedCall(self, images, questions, who, [settings[place] for place in together])
            found.update(zip(together, call.run(sampling, trace), strict=True))
        for place, setting in enumerate(settings):
            if place not in found:
                found[place] = self._without_marks(setting).answer(images, questions, sampling, trace)
        return [found[place] for place in range(len(settings))]

    @cached_property
    def _bank(self) -> Bank | None:
        return None if self.options.intervene_from is None else read_bank(self.options.intervene_from)

    @property
    def own_steps(self) -> int:
        """Latent iterations by a fixed rule, K."""
        given = getattr(self.options, "iterations", None)
        made = int(self.model.config.iterations if given is None else given)
        return made if self.makes_latents else 0

    def dummy(self) -> Tensor | None:
        """(d,) embedding of the padding token; None without one."""
        tokenizer = self.processor.tokenizer
        token = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return None if token is None else self.model.embed_token(int(token), 1)[0, 0]

    def region_latents(self, images: Sequence[Image], points: Sequence[Sequence[Point]]) -> Tensor:
        """Visual tokens as latents (B, K, 1, d): of the fine cell that holds each of a question's K points."""
        model, made = self.model, self.inputs(images, ["?"] * len(images))
        further = {name: made[name] for name in model.backbone.image_inputs}
        visual = model.encode_images(made["pixel_values"], image_inputs=further)
        sizes = [visual.shape] * len(points) if visual.sizes is None else visual.sizes.tolist()
        cells = [
            [cell_at(point, rows, columns, visual.shape[1]) for point in one]
            for one, (rows, columns) in zip(points, sizes, strict=True)
        ]
        tokens = visual.refocus[torch.arange(len(cells))[:, None], torch.tensor(cells, device=model.device)]
        scaled = rms_normalise(tokens) * model.embedding_rms() if model.config.rms_scale else tokens
        return scaled.unsqueeze(2)

    def _without_marks(self, setting: Setting) -> Unmarked:
        own = {name: getattr(self.options, name) for name in GeneratingOptions.names()}
        plain = Unmarked(self.model, self.processor, GeneratingOptions(**own))
        plain.opening = setting.intervention.dots(self.own_steps)
        return plain


class Unmarked(Generating):
    """The same weights without marks and latents.

    Attributes:
        opening: Plain text that opens the reply.
    """

    name = "unmarked"
    opening: str = ""

    def prompts(self, questions: Sequence[str]) -> list[str]:
        """See `Generating.prompts`."""
        return [one + self.opening for one in super().prompts(questions)]

    def arguments_of_generate(self) -> dict[str, Any]:
        """See `Generating.arguments_of_generate`."""
        return {"iterations": 0, "delimiters": False}


def _check_alone(one: Intervention, traces: bool) -> None:
    """Refuse an intervention that needs more than is at hand: other questions' latents, boxes, another picture."""
    if one.alone or (traces and one.needs == {"bank"} and not one.exchanges):
        return
    if one.needs == {"bank"}:
        mend = "name the traces of a run without intervention with intervene_from=DIR"
    else:
        mend = "ask with analysis/validate.py, which has the task's questions and boxes"
    raise LareError(f"intervene={one.name} takes more than the question itself ({one.changes}); {mend}")


class SharedCall:
    """One call of `generate` for B questions under C settings with marks."""

    def __init__(
        self,
        method: Intervening,
        images: Sequence[Image],
        questions: Sequence[str],
        asked: Sequence[Asked],
        settings: Sequence[Setting],
    ) -> None:
        self.method, self.images, self.questions, self.asked = method, images, questions, asked
        self.settings = list(settings)

    def run(self, sampling: Sampling, trace: bool) -> list[list[Answer]]:
        """Answers by setting."""
        method, count = self.method, len(self.settings)
        with torch.inference_mode(), method.configured():
            own = self._own_steps()
            inputs = method.inputs(self.images, self.questions)
            arguments = method.arguments_of_generate() | self._arguments(own, inputs)
            longest = max(0, int(arguments["iterations"]) - method.longest_steps)
            room = inputs["input_ids"].shape[1] + longest * method.model.config.latents_per_iteration
            budget = method.budget(room, sampling.max_new_tokens)
            made = method.model.generate(max_new_tokens=budget, output_trace=trace, **(arguments | inputs))
        repeated = {name: inputs[name].repeat_interleave(count, 0) for name in ("input_ids", "attention_mask")}
        answers = method.answers_of(made, repeated, sampling, budget, trace)
        return [answers[place::count] for place in range(count)]

    def _own_steps(self) -> list[int]:
        """Iterations that each question takes without intervention; where a stop rule decides, they are run first."""
        method = self.method
        rule = getattr(method.options, "stop", None) or method.model.config.stop
        lacking = [one for one in self.settings if one.bank is None and "own" in one.intervention.needs]
        if not method.makes_latents or (rule == "fixed" and not lacking):
            return [method.own_steps] * len(self.asked)
        banks = [one.bank for one in self.settings if one.bank is not None]
        known = next((one for one in banks if all(who.key in one.rows for who in self.asked)), None)
        bank = known or self._natural()
        self.settings = [Setting(one.name, one.seed, bank) if one in lacking else one for one in self.settings]
        return [int(bank.steps[bank.rows[who.key]]) for who in self.asked]

    def _natural(self) -> Bank:
        """The latents of this batch without intervention."""
        method = self.method
        arguments = method.arguments_of_generate() | method.inputs(self.images, self.questions)
        made = method.model.generate(max_new_tokens=1, output_trace=True, **arguments)
        if made.latents is None or not made.latents.shape[1]:
            raise LareError(f"the method {method.name!r} makes no latents here; set iterations above 0")
        return Bank(tuple(self.asked), made.latents.float().cpu(), made.steps.cpu())

    def _arguments(self, own: Sequence[int], inputs: dict[str, Tensor]) -> dict[str, Any]:
        """What the settings make of the call."""
        kinds = [one.intervention for one in self.settings]
        steps = torch.tensor([[k.steps(n) if k.steps is not None else n for k in kinds] for n in own]).flatten()
        always = bool(getattr(self.method.options, "hide_image", False))  # what the whole call was asked for stays
        hidden = torch.tensor([always or k.hides_image for k in kinds] * len(own))
        device = self.method.model.device
        made: dict[str, Any] = {"iterations": int(steps.max()), "branches": len(kinds)}
        if self.method.makes_latents:
            made["stop"] = "fixed"
        if any(k.content is not None for k in kinds):
            made["latent_override"] = Branches([self._replacer(one) for one in self.settings])
        if bool((steps != steps.max()).any()):
            made["step_limits"] = steps.to(device)
        return made | ({"hide_image": hidden.to(device)} if bool(hidden.any()) else {})

    def _replacer(self, setting: Setting) -> Replacer:
        needs = setting.intervention.needs
        dummy = self.method.dummy() if "dummy" in needs else None
        given = None
        if "boxes" in needs:
            points = points_of(self.asked, setting, self.method.own_steps, int(self.method.model.config.grid))
            given = self.method.region_latents(self.images, points)
        return Replacer(setting, self.asked, dummy, given)
