"""The model card of one run of a grid: how it was made, its curve, and what its rows say, all read from files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lare.embedded.card import beyond, lineage, read_log
from lare.errors import LareError
from lare.experiments.compare import interval
from lare.experiments.grid import SPLITS
from lare.experiments.plan import Plan, Run
from lare.experiments.store import Slot, done, read_questions, unpack
from lare.experiments.table import table
from lare.losses.base import loss_names
from lare.model.base_weights import read_base
from lare.model.shapes import stored_shapes
from lare.training.plan.config import RunConfig
from lare.training.plan.run_file import load_run_config
from lare.training.saving.checkpoints import read_meta

__all__ = ["model_card"]

POINTS = 5
"""Lines of a stage in the card's curve."""


def model_card(plan: Plan, run: Run, name: str, note: str = "") -> str:
    """The card (Markdown).

    Args:
        plan: The grid.
        run: A finished run of an arm.
        name: Name of the checkpoint.
        note: Further Markdown, such as what was tried and failed.

    Raises:
        LareError: If the run is not finished, or has no validation row.
    """
    folder = plan.folder(run)
    if folder is None or not plan.trained(run):
        raise LareError(f"{run.name} is not trained here; run lare experiments run {plan.file}")
    runs = lineage(folder, load_run_config(folder / "run.yaml", [f"out={folder}"]))
    config = runs[-1][1]
    sections = {
        "How it was made": _made(plan, run, runs),
        "Beyond the paper": "What this run does and the paper does not:\n\n" + _beyond(runs),
        "Learning curve": _curve(runs),
        "Answers": _answers(plan, run),
        "Beside it": _beside(plan),
        "Notes": note.strip(),
        "Run file": f"```yaml\n{yaml.safe_dump(config.to_dict(), sort_keys=False, width=110).rstrip()}\n```",
    }
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items() if text)
    return f"{_head(folder / run.last / 'final', config, name)}\n\n{body}\n"


def _head(final: Path, config: RunConfig, name: str) -> str:
    """Metadata, title, what the checkpoint is and how it is asked."""
    settings = json.loads((final / "config.json").read_text("utf8"))
    base, own = read_base(final, {}), sum(_sizes(final)) / 1e6
    grid, window = settings["grid"], settings["window"]
    parts = (config.model.checkpoint, config.model.vlm, config.model.text, config.model.vision)
    made_on = " and ".join(f"`{one}`" for one in parts if one)
    about = (
        f"LaRe (latent refocusing) with K = {settings['iterations']} latent steps on {made_on}: "
        f"{settings['lm_grid'] ** 2} visual tokens in the decoder's context, a window of "
        f"{window} x {window} of {grid} x {grid} cells."
    )
    lines = ["---", "license: apache-2.0", "library_name: lare", "---", f"# LaRe, {name}", "", about]
    if base is not None:
        lines += [
            f"The folder holds the {own:.1f} M trained weights and names the rest: {base.name}, {base.mend}.",
            "",
            "```sh",
            *([f"lare fetch {base.file['fetch']}"] if base.file.get("fetch") else []),
            f'lare ask photo.jpg "..." --model {name}',
            "```",
        ]
    return "\n".join(lines)


def _sizes(final: Path) -> Iterator[int]:
    """Elements of each tensor that a checkpoint holds."""
    for shape in stored_shapes(str(final), {}).values():
        yield int(np.prod(shape))


def _made(plan: Plan, run: Run, runs: Sequence[tuple[Path, RunConfig]]) -> str:
    """Command, seeds, minutes, machine, and what it was trained on."""
    command = f"lare experiments run {plan.file} --arms {run.arm}"
    command += f" --starts {run.start}" if run.start is not None else ""
    metas = [read_meta(folder / stage.name / "final") for folder, one in runs for stage in one.stages]
    stages = [stage for _, one in runs for stage in one.stages]
    lines = ["| stage | samples | updates | minutes | trained on |", "| --- | ---: | ---: | ---: | --- |"]
    for stage, meta in zip(stages, metas, strict=True):
        sources = ", ".join(f"`{one.path or one.format}` ({getattr(one, 'split', 'train')})" for one in stage.data)
        lines.append(
            f"| {stage.name} | {meta['samples']:,} | {meta['step']:,} | {meta['seconds'] / 60:.0f} | {sources} |"
        )
    seeds = " and ".join(dict.fromkeys(str(one.seed) for _, one in runs))
    machine = metas[-1]
    samples, seconds = (sum(meta[name] for meta in metas) for name in ("samples", "seconds"))
    return (
        f"`{command}`, seed {seeds} ({machine['machine']}, torch {machine['torch']}, commit {machine['commit']}).\n\n"
        + "\n".join(lines)
        + f"\n\n{samples:,} samples, {seconds / 60:.0f} minutes."
    )


def _beyond(runs: Sequence[tuple[Path, RunConfig]]) -> str:
    """What the run or those that it began with do beyond the paper, each once."""
    return "\n".join(dict.fromkeys(line for _, one in runs for line in beyond(one).splitlines()))


def _curve(runs: Sequence[tuple[Path, RunConfig]]) -> str:
    """Losses of training, each the mean over a part of a stage."""
    names = [name for name in loss_names() if any(name in one["losses"] for one in _every(runs))]
    lines = [
        "| stage | samples | " + " | ".join(f"L_{name}" for name in names) + " | right tokens, % |",
        "| --- |" + " ---: |" * (len(names) + 2),
    ]
    for folder, config in runs:
        for stage in config.stages:
            log = read_log(folder / stage.name)
            for part in np.array_split(np.arange(len(log)), min(POINTS, len(log))):
                rows = [log[index] for index in part]
                cells = [_mean([one["losses"].get(name) for one in rows], 3) for name in names]
                right = _mean([one.get("accuracy") for one in rows], 1, 100)
                lines.append("| " + " | ".join([stage.name, f"{rows[-1]['samples']:,}", *cells, right]) + " |")
    return f"Training losses, each the mean over 1/{POINTS} of a stage, up to so many samples.\n\n" + "\n".join(lines)


def _every(runs: Sequence[tuple[Path, RunConfig]]) -> Iterator[Mapping[str, Any]]:
    for folder, config in runs:
        for stage in config.stages:
            yield from read_log(folder / stage.name)


def _mean(values: Sequence[float | None], digits: int, factor: float = 1.0) -> str:
    known = [one for one in values if one is not None]
    return f"{factor * float(np.mean(known)):.{digits}f}" if known else ""


def _answers(plan: Plan, run: Run) -> str:
    """Right answers by task and family, each split that has a row."""
    own = plan.grid.arms[str(run.arm)].own
    parts = []
    for split in SPLITS:
        row = done(plan, Slot(run, own, split))
        if row is None:
            continue
        asked = f", asked {', '.join(str(one['time']) for one in row['asked'])}" if row["asked"] else ""
        parts.append(f"**{split}** (`{row['group']}`{asked}):\n\n" + "\n".join(_families(plan, row)))
    if not parts:
        raise LareError(f"{run.name} has no row yet; run lare experiments run {plan.file}")
    told = "As the model writes them by itself with its latent steps. Intervals of 95 % draw whole images."
    return "\n\n".join([told, *parts])


def _families(plan: Plan, row: Mapping[str, Any]) -> Iterator[str]:
    questions = read_questions(plan.out / "questions", str(row["questions"]))
    tasks = questions.tasks
    counts = [int((questions.task == task).sum()) for task in tasks]
    right = np.concatenate([unpack(row["right"][task], n) for task, n in zip(tasks, counts, strict=True)])
    yield "| task | family | questions | right, % | 95 % |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for task in tasks:
        families = [one for one in dict.fromkeys(questions.family[questions.task == task].tolist()) if one]
        for family in [None, *families] if len(families) > 1 else [None]:
            kept = questions.task == task
            kept &= (questions.family == family) if family is not None else True
            low, high = interval(right[None, kept], questions.task[kept], questions.scene[kept])
            name = "all" if family is None else str(family).replace("_", " ")
            span = f"{100 * low:.1f} to {100 * high:.1f}"
            yield f"| `{task}` | {name} | {kept.sum():,} | {100 * right[kept].mean():.1f} | {span} |"


def _beside(plan: Plan) -> str:
    """The grid's tables of the last split that has rows."""
    told = {split: table(plan, split, markdown=True) for split in SPLITS}
    found = [text for text in told.values() if not text.startswith("no ")]
    return found[-1] if found else ""
