"""Pictures from latents (Fig. 4): does a latent hold what its window showed?

A crop is sampled from each step's latents with the U-Net that trained beside the model (eq. 7), from one and the same
noise for every condition, and compared with what the window showed. Beside the own latents stand those of another
picture, their mean, noise and zeros; a latent that holds the picture beats them and is told among other pictures.

    python analysis/reconstruct.py
    python analysis/reconstruct.py --run runs/embedded_unet
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lare
from analysis.reconstruct.answer import answer
from analysis.reconstruct.sampling import (
    TITLES,
    Looks,
    Scores,
    Target,
    conditions,
    draw,
    final_folder,
    load_reconstruction,
    look,
    nearest,
    score_pictures,
    target_of,
    through_tokenizer,
    training_crops,
)
from analysis.shared.asking import Asker, Question, load_questions
from analysis.shared.cli import Computed, reproduce, run, standard_parser
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Column, Document, Figure, Sample, Series, Step, Table, View
from analysis.shared.showing import picture
from analysis.shared.stats import Result, cluster_difference, cluster_mean, holm, wilson
from lare.errors import LareError
from lare.progress import progress

__all__ = ["compute", "main"]

SAMPLED = ("own", "other", "mean", "noise", "zeros")

SHIPPED = Path(lare.__file__).parent / "checkpoints" / "embedded_unet"
"""U-Net and tokenizer of ``lare train lare/configs/embedded_unet.yaml``."""

ByStep = Mapping[str, Sequence[Scores]]
"""Condition to scores of each step."""


def _pictures(
    looks: Looks, reconstruction: Any, targets: Sequence[Target], options: argparse.Namespace, training: Tensor
) -> dict[str, list[Tensor]]:
    """Condition to the pictures (N, 3, S, S) of each step."""
    seed = int(options.seeds[0])
    generator = torch.Generator().manual_seed(seed)
    noises = [reconstruction.draw(len(looks.latents), generator)[0] for _ in range(options.draws)]
    made: dict[str, list[Tensor]] = {name: [] for name in TITLES}
    given = conditions(looks.latents, seed, options.candidates)
    for step, target in enumerate(progress(targets, desc="sampling", unit="step")):
        for name in SAMPLED:
            drawn = [draw(reconstruction, given[name][:, step], noise, options.denoising) for noise in noises]
            made[name].append(torch.stack(drawn).mean(0))
        made["tokenizer"].append(through_tokenizer(reconstruction, target.crops))
        made["training"].append(nearest(target.crops, target.corners, looks, training)[0])
        made["crop"].append(target.crops.mean(0, keepdim=True).expand_as(target.crops).contiguous())
    return made


def _over_steps(scores: Sequence[Scores], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N,) mean over steps: a question is one item, however many steps it took."""
    return np.asarray(np.mean([getattr(one, name) for one in scores], axis=0), dtype=np.float64)


def _interval(result: Result, scale: float = 1.0) -> list[float | None]:
    return [scale * end if np.isfinite(end) else None for end in (result.low, result.high)]


def _main(
    scores: ByStep, scenes: Sequence[str], chance: float
) -> tuple[tuple[Table, Table], dict[str, dict[str, Result]]]:
    """The main table and the rest of it, and own latents against each control by metric."""
    controls = [name for name in SAMPLED if name != "own"]
    gaps = {
        name: {
            metric: cluster_difference(_over_steps(scores["own"], metric), _over_steps(scores[name], metric), scenes)
            for metric in ("psnr", "found")
        }
        for name in controls
    }
    adjusted = dict(zip(controls, holm([gaps[name]["psnr"].p for name in controls]), strict=True))
    adjusted_found = dict(zip(controls, holm([gaps[name]["found"].p for name in controls]), strict=True))
    rows = []
    for name, title in TITLES.items():
        means = {one.name: cluster_mean(_over_steps(scores[name], one.name), scenes) for one in fields(Scores)}
        row: dict[str, Any] = {"condition": title}
        row |= {"psnr": means["psnr"].estimate, "psnr_interval": _interval(means["psnr"])}
        row |= {"ssim": means["ssim"].estimate, "code": means["code"].estimate}
        row |= {"found": 100 * means["found"].estimate, "found_interval": _interval(means["found"], 100)}
        row |= {"copied": None if name == "training" else 100 * means["copied"].estimate}
        if name in gaps:
            row |= {"gap": gaps[name]["psnr"].estimate, "gap_interval": _interval(gaps[name]["psnr"])}
            row |= {"holm": adjusted[name], "found_gap": 100 * gaps[name]["found"].estimate}
            row |= {"found_gap_interval": _interval(gaps[name]["found"], 100), "found_holm": adjusted_found[name]}
        rows.append(row)
    main = (
        Column("condition", "Sampled from"),
        Column("psnr", "PSNR, dB", "number", 2),
        Column("ssim", "SSIM", "number", 3),
        Column("found", "Identified, %", "number", 1, "the own crop is the nearest of all candidates"),
        Column("found_interval", "95 %", "interval", 1, "cluster-robust over scenes"),
        Column("gap", "Own minus this, dB", "number", 2, "paired"),
        Column("gap_interval", "95 %", "interval", 2, "cluster-robust over scenes"),
        Column("holm", "p (Holm)", "p", help="of the PSNR's difference, over the four controls"),
    )
    more = (
        Column("condition", "Sampled from"),
        Column("psnr_interval", "PSNR, 95 %", "interval", 2, "cluster-robust over scenes"),
        Column("code", "MSE of codes", "number", 3, "squared difference of the tokenizer's codes, unit variance"),
        Column("found_gap", "Own minus this, points identified", "number", 1, "paired"),
        Column("found_gap_interval", "95 %", "interval", 1, "cluster-robust over scenes"),
        Column("found_holm", "p (Holm)", "p", help="of the identification's difference, over the four controls"),
        Column("copied", "Nearer to a training crop, %", "number", 1, "than to the own crop"),
    )
    note = f"Means over the steps of a question. Chance of identification: {100 * chance:.2f} %."
    keys = {column.key for column in main}, {column.key for column in more}
    parts = [tuple({key: value for key, value in row.items() if key in wanted} for row in rows) for wanted in keys]
    caption = "Pictures against what the window showed"
    tables = (
        Table(
            "conditions", caption, main, parts[0], f"{note} Bounds and floor are not sampled from anything.", main=True
        ),
        Table("conditions-more", f"{caption}: codes, identification against controls, copies", more, parts[1], note),
    )
    return tables, gaps


def _steps(scores: ByStep) -> Table:
    rows = []
    for step in range(len(scores["own"])):
        for name in (*SAMPLED, "tokenizer"):
            one = scores[name][step]
            low, high = wilson(float(one.found.sum()), one.found.size)
            row = {"step": step + 1, "condition": TITLES[name], "psnr": one.psnr.mean(), "ssim": one.ssim.mean()}
            row |= {"code": one.code.mean(), "found": 100 * one.found.mean(), "interval": [100 * low, 100 * high]}
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
            means = [cluster_mean(getattr(one, metric), scenes) for one in scores[name]]
            ends = [_interval(one, scale) for one in means]
            if metric == "found":
                shares = [wilson(float(one.found.sum()), one.found.size) for one in scores[name]]
                ends = [[100 * low, 100 * high] for low, high in shares]
            lines.append(
                Series(
                    TITLES[name],
                    tuple(float(step + 1) for step in range(len(means))),
                    tuple(scale * one.estimate for one in means),
                    tuple(low for low, _ in ends),
                    tuple(high for _, high in ends),
                )
            )
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


def _samples(
    questions: Sequence[Question], looks: Looks, made: Mapping[str, Sequence[Tensor]], scores: ByStep, size: int,
    count: int, seed: int,
) -> tuple[Sample, ...]:  # fmt: skip
    """Random questions: what each window showed, and what is sampled from own and other latents."""
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
        one_question = questions[row]
        facts = {"scene": one_question.scene, "sort": one_question.sort}
        samples.append(
            Sample(
                f"s{row:04d}",
                one_question.task,
                one_question.text,
                one_question.target,
                tuple(views),
                picture(one_question.image),
                facts,
                "random",
            )  # fmt: skip
        )
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
    found = cluster_mean(_over_steps(scores["own"], "found"), scenes)
    other = gaps["other"]["psnr"]
    at_chance = found.low <= chance <= found.high
    return (
        f"Crops sampled from own latents are told among {round(1 / chance)} in {100 * found.estimate:.1f} % "
        f"[{100 * found.low:.1f}, {100 * found.high:.1f}] (chance {100 * chance:.1f} %; n = {found.n} questions, 95 % "
        f"over {found.clusters} scenes){': no better than guessing' if at_chance else ''}. Against another picture's "
        f"latents PSNR is {other.estimate:+.2f} dB [{other.low:.2f}, {other.high:.2f}]." + (_DOUBT if at_chance else "")
    )


def _warnings(scores: ByStep, scenes: Sequence[str], chance: float) -> tuple[str, ...]:
    found = {name: cluster_mean(_over_steps(scores[name], "found"), scenes) for name in (*SAMPLED, "tokenizer")}
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


def _questions(count: int, group: int) -> list[Question]:
    """The first questions of pairwise different scenes, tasks taking turns, a multiple of the group."""
    if count < 2 * group or group < 2:
        raise LareError(f"--rows is {count}, --candidates {group}; give at least two groups of at least 2")
    every: dict[str, list[Question]] = {}
    for one in load_questions("validation", limit=count):
        every.setdefault(one.task, []).append(one)
    turns = [one for rank in range(count) for task in every.values() for one in task[rank : rank + 1]]
    unique = {one.scene: one for one in reversed(turns)}
    chosen = sorted(unique.values(), key=lambda one: (one.doc_id, one.task))[: count // group * group]
    return chosen[: len(chosen) // group * group]


def compute(options: argparse.Namespace) -> Computed:
    """Sample crops from latents and compare.

    Args:
        options: `run`, `rows`, `candidates`, `denoising`, `training`, `samples`, `batch_size`, `seeds` (the first).

    Raises:
        LareError: If the run or its image reconstruction is missing, or an option is impossible.
    """
    if options.traces:
        raise LareError("reconstruct runs the model itself and reads no traces; leave --traces out")
    path = Path(options.run)
    folder = final_folder(path)
    questions = _questions(options.rows, options.candidates)
    # What is shipped beside the embedded checkpoint has no weights of its own but the U-Net's.
    own = (folder / "model.safetensors").is_file()
    asker = Asker(questions, str(folder) if own else None, options.batch_size)
    reconstruction = load_reconstruction(path, int(asker.model.config.text_config.hidden_size))
    looks = look(asker, reconstruction.config.cells)
    training = training_crops(options.training, looks.pictures.shape[-1])
    targets = [target_of(looks, step, reconstruction, options.candidates) for step in range(looks.latents.shape[1])]
    made = _pictures(looks, reconstruction, targets, options, training)
    each = [
        score_pictures({name: one[step] for name, one in made.items()}, target, looks, reconstruction, training)
        for step, target in enumerate(targets)
    ]
    scores = {name: [one[name] for one in each] for name in TITLES}
    scenes, chance = [one.scene for one in questions], 1 / options.candidates
    first, gaps = _main(scores, scenes, chance)
    shown = _samples(questions, looks, made, scores, reconstruction.size, options.samples, int(options.seeds[0]))
    document = Document(
        name="reconstruct",
        title="Pictures from latents",
        verdict=_verdict(scores, gaps, scenes, chance),
        reproduce=reproduce(options, {"checkpoint": asker.fingerprint}),
        warnings=_warnings(scores, scenes, chance),
        tables=(*first, _steps(scores)),
        figures=_figures(scores, scenes, chance),
        samples=shown,
        sampling=f"{len(shown)} of {len(questions)} questions, drawn by seed {int(options.seeds[0])}.",
        methods=_METHODS,
        lead="samples",
    )
    arrays = {
        f"{metric.name}_{name}": np.stack([getattr(one, metric.name) for one in found], 1)
        for name, found in scores.items()
        for metric in fields(Scores)
    }
    return answered(document, answer), arrays


def parser() -> argparse.ArgumentParser:
    """Command line."""
    made = standard_parser(
        "reconstruct", (__doc__ or "").split("\n\n")[1], "python analysis/reconstruct.py --run runs/embedded_unet"
    )
    add = made.add_argument
    add("--run", default=str(SHIPPED), help="folder of a finished training run (default: the one shipped with LaRe)")
    add("--rows", type=int, default=128, help="validation questions, of different scenes (default: %(default)s)")
    add("--candidates", type=int, default=16, help="pictures to tell apart (default: %(default)s)")
    add("--draws", type=int, default=4, help="samples a picture is the mean of (default: %(default)s)")
    add("--denoising", type=int, default=10, help="steps of the sampler (default: %(default)s)")
    add("--training", type=int, default=256, help="training pictures to look for copies in (default: %(default)s)")
    add("--samples", type=int, default=12, help="questions to show (default: %(default)s)")
    add("--batch-size", type=int, default=64, help="questions at once (default: %(default)s)")
    made.set_defaults(seeds=[0])
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(parser(), compute, arguments, answer)
