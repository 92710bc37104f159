"""Pictures from latents (Fig. 4): does a latent hold what its window showed?

A crop is sampled from each step's latents with the U-Net that trained beside the model (eq. 7), from one and the same
noise for every condition, and compared with what the window showed. Beside the own latents stand those of another
picture, their mean, noise and zeros; a latent that holds the picture beats them and is told among other pictures.

    python analysis/reconstruct.py
    python analysis/reconstruct.py --run runs/embedded_unet
    python analysis/reconstruct.py --run runs/mine --tasks mmstar
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from analysis.reconstruct.answer import answer
from analysis.reconstruct.by_task import by_task, moves_by_condition, take
from analysis.reconstruct.measure import SAMPLED, ByStep, Measured, ReconstructOptions, measure, over_steps
from analysis.reconstruct.sampling import TITLES, Scores
from analysis.shared.cells import cells, only, question_sample, series, share, with_interval
from analysis.shared.cli import Computed, reproduce, run
from analysis.shared.questions import Question, stand_ins
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Column, Document, Figure, Sample, Step, Table, View
from analysis.shared.showing import picture
from analysis.shared.stats import Result, cluster_difference, cluster_mean, holm
from analysis.shared.tasks import METHOD, Apart, apart_table

__all__ = ["compute", "main"]

_ALL = "The same over all tasks"


def gaps_of(scores: ByStep, scenes: Sequence[str]) -> dict[str, dict[str, Result]]:
    """Own latents against each control, by metric."""
    return {
        name: {
            metric: cluster_difference(over_steps(scores["own"], metric), over_steps(scores[name], metric), scenes)
            for metric in ("psnr", "found")
        }
        for name in SAMPLED[1:]
    }


def _main(scores: ByStep, scenes: Sequence[str], chance: float) -> tuple[Table, Table]:
    """The main table and the rest of it."""
    controls, gaps = SAMPLED[1:], gaps_of(scores, scenes)
    adjusted = dict(zip(controls, holm([gaps[name]["psnr"].p for name in controls]), strict=True))
    adjusted_found = dict(zip(controls, holm([gaps[name]["found"].p for name in controls]), strict=True))
    rows = []
    copies, metrics = "training" in scores, [one.name for one in fields(Scores) if one.name != "copied"]
    for name in scores:
        means = {metric: cluster_mean(over_steps(scores[name], metric), scenes) for metric in metrics}
        row = {"condition": TITLES[name], **cells("psnr", means["psnr"]), **cells("found", means["found"], 100)}
        row |= {"ssim": means["ssim"].estimate, "code": means["code"].estimate}
        copied = 100 * cluster_mean(over_steps(scores[name], "copied"), scenes).estimate if copies else None
        row |= {"copied": None if name == "training" else copied}
        if name in gaps:
            row |= cells("gap", gaps[name]["psnr"]) | cells("found_gap", gaps[name]["found"], 100)
            row |= {"holm": adjusted[name], "found_holm": adjusted_found[name]}
        rows.append(row)
    main = (
        Column("condition", "Sampled from"),
        Column("psnr", "PSNR, dB", "number", 2),
        Column("ssim", "SSIM", "number", 3),
        *with_interval("found", "Identified, %", 1, "the own crop is the nearest of all candidates"),
        *with_interval("gap", "Own minus this, dB", 2, "paired"),
        Column("holm", "p (Holm)", "p", help="of the PSNR's difference, over the four controls"),
    )
    more = (
        Column("condition", "Sampled from"),
        Column("psnr_interval", "PSNR, 95 %", "interval", 2, "cluster-robust over scenes"),
        Column("code", "MSE of codes", "number", 3, "squared difference of the tokenizer's codes, unit variance"),
        *with_interval("found_gap", "Own minus this, points identified", 1, "paired"),
        Column("found_holm", "p (Holm)", "p", help="of the identification's difference, over the four controls"),
        *([Column("copied", "Nearer to a training crop, %", "number", 1, "than to the own crop")] if copies else []),
    )
    note = f"Means over the steps of a question. Chance of identification: {100 * chance:.2f} %."
    parts = only(main, rows), only(more, rows)
    caption = "Pictures against what the window showed"
    return (
        Table(
            "conditions", caption, main, parts[0], f"{note} Bounds and floor are not sampled from anything.", main=True
        ),
        Table("conditions-more", f"{caption}: codes, identification against controls, copies", more, parts[1], note),
    )


def _steps(scores: ByStep) -> Table:
    rows = []
    for step in range(len(scores["own"])):
        for name in (*SAMPLED, "tokenizer"):
            one = scores[name][step]
            row = {"step": step + 1, "condition": TITLES[name], "psnr": one.psnr.mean(), "ssim": one.ssim.mean()}
            row |= {
                "code": one.code.mean(),
                "found": 100 * one.found.mean(),
                "interval": share(float(one.found.sum()), one.found.size),
            }
            rows.append(row)
    columns = (
        Column("step", "Step", "count"),
        Column("condition", "Sampled from"),
        Column("psnr", "PSNR, dB", "number", 2),
        Column("ssim", "SSIM", "number", 3),
        Column("code", "MSE of codes", "number", 3),
        Column("found", "Identified, %", "number", 1),
        Column("interval", "95 % (Wilson)", "interval", 1),
    )
    return Table("steps", "Step by step", columns, tuple(rows))


def _figures(scores: ByStep, scenes: Sequence[str], chance: float) -> tuple[Figure, ...]:
    figures = []
    for metric, title, label, scale, reference in (
        ("found", "Identification by step", "own crop nearest, %", 100.0, 100 * chance),
        ("psnr", "PSNR by step", "PSNR, dB", 1.0, None),
    ):
        lines = []
        for name in SAMPLED:
            line = series(
                TITLES[name],
                [float(step + 1) for step in range(len(scores[name]))],
                [cluster_mean(getattr(one, metric), scenes) for one in scores[name]],
                scale,
            )
            if metric == "found":
                shares = [share(float(one.found.sum()), one.found.size) for one in scores[name]]
                line = replace(line, low=tuple(low for low, _ in shares), high=tuple(high for _, high in shares))
            lines.append(line)
        description = (
            f"{title} for own latents and controls, with 95 % intervals over scenes. Latents that hold the picture lie "
            "above all controls" + ("; the line is chance." if reference is not None else ".")
        )
        figures.append(Figure(metric, title, description, "lines", tuple(lines), "step", label, reference=reference))
    return tuple(figures)


def _image(pixels: Tensor, alt: str) -> Any:
    from PIL import Image

    array = (pixels.permute(1, 2, 0).clamp(0, 1).numpy() * 255).round().astype(np.uint8)
    return picture(Image.fromarray(array), alt)


def _samples(found: Measured, count: int, seed: int) -> tuple[Sample, ...]:
    """Random questions: what each window showed, and what is sampled from own and other latents."""
    questions: Sequence[Question] = found.gathered.questions
    looks, made, scores, size = found.looks, found.pictures, found.scores, found.size
    chosen = np.sort(np.random.default_rng(seed).permutation(len(questions))[:count])
    shown: dict[str, Sequence[Tensor]] = {
        "What the window showed": [looks.crops(step, size) for step in range(looks.latents.shape[1])]
    }
    keys = {"What the window showed": ""}
    for name in ("own", "other", "mean", "noise", "tokenizer"):
        shown[TITLES[name]], keys[TITLES[name]] = made[name], name
    samples = []
    for row in chosen.tolist():
        views = []
        for title, pictures in shown.items():
            steps = []
            for step, pixels in enumerate(pictures):
                numbers: dict[str, float | None] = {}
                if keys[title]:
                    one = scores[keys[title]][step]
                    numbers = {"PSNR, dB": float(one.psnr[row]), "SSIM": float(one.ssim[row])}
                    numbers |= {"identified": float(one.found[row])}
                top, left = looks.corners[row, step].tolist()
                steps.append(
                    Step(
                        f"step {step + 1} of {len(pictures)}",
                        window=(top, left, looks.window, looks.window),
                        numbers=numbers,
                        picture=_image(pixels[row], f"{title}, step {step + 1}"),
                    )
                )
            views.append(View(title, "", steps=tuple(steps), grid=looks.grid))
        samples.append(question_sample(row, questions[row], views, "random", ("scene", "sort")))
    return tuple(samples)


_METHODS = (
    "A crop is what the window of a step showed (where the run trained with image.cells: the square around the cell "
    "attended to most); the condition is the latents of that step alone, as in training. "
    "Sampling is DDIM without added noise; a picture is the mean of a few draws, which comes close to what the "
    "condition says of each pixel. Every step and condition starts from the same noises, so that columns differ by "
    "their condition only.",
    "Identification: among what a group of questions looked at, is the own crop nearest by mean squared difference of "
    "pixels? Every candidate was looked at by its own question, so a sampler that knows nothing is right once in that "
    "many. Blurred averages get a fair PSNR and are not identified; PSNR alone proves nothing. Another picture's "
    "latents are of another group, so that their own crop is no candidate.",
    "PSNR and SSIM are scikit-image's, on pixels in [0, 1]; codes are the image tokenizer's. Intervals and tests are "
    "cluster-robust over scenes, a question's steps averaged; Holm runs over the four controls.",
    "Nearer to a training crop: among training scenes' crops at the same window, is one nearer to the sample than the "
    "own crop is? Near 100 % means that the sampler draws typical pictures and not this one.",
    "A picture that can be sampled back shows that latents hold it, not that the answer uses it; see the controls.",
)


_DOUBT = (
    " So this sampler does not show that the latents hold the picture: a gap of a few tenths of a decibel is a trace "
    "of the condition, not a picture."
)


def _verdict(scores: ByStep, gaps: Mapping[str, Mapping[str, Result]], scenes: Sequence[str], chance: float) -> str:
    found = cluster_mean(over_steps(scores["own"], "found"), scenes)
    other = gaps["other"]["psnr"]
    at_chance = found.low <= chance <= found.high
    return (
        f"Crops sampled from own latents are told among {round(1 / chance)} in {100 * found.estimate:.1f} % "
        f"[{100 * found.low:.1f}, {100 * found.high:.1f}] (chance {100 * chance:.1f} %; n = {found.n} questions, 95 % "
        f"over {found.clusters} scenes){': no better than guessing' if at_chance else ''}. Against another picture's "
        f"latents PSNR is {other.estimate:+.2f} dB [{other.low:.2f}, {other.high:.2f}]." + (_DOUBT if at_chance else "")
    )


def _warnings(scores: ByStep, scenes: Sequence[str], chance: float) -> tuple[str, ...]:
    found = {name: cluster_mean(over_steps(scores[name], "found"), scenes) for name in (*SAMPLED, "tokenizer")}
    warnings = []
    if found["own"].low <= chance:
        warnings.append(
            "Identification from own latents is at chance: pictures sampled here show nothing of the latents"
        )
    above = [TITLES[name] for name in SAMPLED[1:] if found[name].low > chance]
    if above:
        warnings.append(f"Controls above chance: {', '.join(above)}; the comparison leaks")
    if found["tokenizer"].estimate < 0.95:
        warnings.append(
            "Even the crop itself, through the tokenizer, is not told safely; the tokenizer limits the test"
        )
    return tuple(warnings)


def _verdict_of(found: Measured, apart: Apart) -> str:
    """The verdict over the tasks that remain; where one is set aside, the same over all tasks follows."""
    scenes = np.array([one.scene for one in found.gathered.questions])
    whole = _verdict(found.scores, gaps_of(found.scores, scenes.tolist()), scenes.tolist(), found.chance)
    if not apart.aside:
        return whole
    rows = apart.of([one.task for one in found.gathered.questions])
    kept, inside = take(found.scores, rows), scenes[rows].tolist()
    told = _verdict(kept, gaps_of(kept, inside), inside, found.chance)
    return apart.verdict(told, whole)


def compute(options: ReconstructOptions) -> Computed:
    """Sample crops from latents and compare.

    Raises:
        LareError: If the run or its image reconstruction is missing, or questions can't be had.
    """
    found = measure(options)
    questions = found.gathered.questions
    tasks, scenes = [one.task for one in questions], np.array([one.scene for one in questions])
    apart = moves_by_condition(found.scores, tasks, scenes.tolist())
    rows = apart.of(tasks)
    kept, inside = take(found.scores, rows), scenes[rows].tolist()
    shown = _samples(found, options.samples, options.seeds[0])
    whole, _ = _main(found.scores, scenes.tolist(), found.chance)
    document = Document(
        name="reconstruct",
        title="Pictures from latents",
        verdict=_verdict_of(found, apart),
        reproduce=reproduce(options, {"checkpoint": found.checkpoint}),
        warnings=(*found.gathered.warnings, *apart.warnings, *_warnings(kept, inside, found.chance)),
        tables=(
            *_main(kept, inside, found.chance),
            *([replace(whole, id="conditions-all", caption=_ALL, main=False)] if apart.aside else []),
            by_task(found.scores, tasks, scenes.tolist(), apart),
            apart_table(apart, "identified, from each control to own latents"),
            _steps(kept),
        ),
        figures=_figures(kept, inside, found.chance),
        samples=shown,
        sampling=f"{len(shown)} of {len(questions)} questions, drawn by seed {options.seeds[0]}.",
        methods=(*(_METHODS if found.copies else (*_METHODS[:3], _METHODS[-1])), METHOD),
        stand_in=stand_ins(questions),
        lead="samples",
    )
    return answered(document, answer), _arrays(found)


def _arrays(found: Measured) -> dict[str, npt.NDArray[Any]]:
    """Every score by question and step."""
    arrays: dict[str, npt.NDArray[Any]] = {
        f"{metric.name}_{name}": np.stack([getattr(one, metric.name) for one in each], 1)
        for name, each in found.scores.items()
        for metric in fields(Scores)
    }
    questions = found.gathered.questions
    arrays |= {"task": np.array([one.task for one in questions]), "doc_id": np.array([one.doc_id for one in questions])}
    return arrays | {"scene": np.array([one.scene for one in questions])}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(ReconstructOptions, compute, __doc__, arguments, answer)
