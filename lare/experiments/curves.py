"""``python -m lare.experiments.curves RUN --out FOLDER``: a run's loss curves, and its stages on held-out questions.

Writes ``curves.csv`` (every line of the stages' logs), ``curves.svg`` (each loss, raw and smoothed, over all updates)
and ``curves.json``: circumstances, losses at both ends of every stage and, with ``--questions``, what
`lare.embedded.held_out` finds for the first weights and for those after each stage: losses, and the accuracy of what
the model writes by itself beside the majority's. All of them are asked in the last stage's way, so that they compare.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lare.commands import command, command_parser
from lare.errors import LareError
from lare.files import save_text
from lare.losses.base import get_loss, loss_names
from lare.training.log import flat
from lare.training.plan.run_file import load_run_config
from lare.training.saving.checkpoints import load_final, load_start, read_meta

if TYPE_CHECKING:
    from lare.training.plan.config import RunConfig

__all__ = ["draw_curves", "held_out_curve", "main", "read_curves", "smoothed"]

WIDTH = 9
"""Updates over which the drawn curve is averaged."""
_NAMES = {name: get_loss(name).label or name for name in loss_names()}
_TOLD = ("lare", "torch", "transformers", "python", "machine", "commit")
_INK = "#2a7f8e"


def read_curves(run: Path, stages: Sequence[str]) -> list[dict[str, float | str]]:
    """Every line of the log, flat, with its stage and with ``update`` counted through all stages.

    Raises:
        LareError: If a stage has no log.
    """
    rows: list[dict[str, float | str]] = []
    before = 0
    for stage in stages:
        path = run / stage / "log.jsonl"
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise LareError(f"{str(path)!r} can't be read ({error}); name the folder of a run") from None
        rows += [{"stage": stage, "update": before + int(line["step"]), **dict(flat(line))} for line in lines]
        before += int(lines[-1]["step"]) if lines else 0
    return rows


def smoothed(values: npt.NDArray[np.float64], width: int = WIDTH) -> npt.NDArray[np.float64]:
    """Mean of the `width` (odd) values around each, fewer at the ends."""
    half = width // 2
    sums = np.concatenate(([0.0], np.cumsum(values)))
    at = np.arange(len(values))
    first, last = np.maximum(0, at - half), np.minimum(len(values), at + half + 1)
    found: npt.NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return found


def held_out_curve(config: RunConfig, questions: int) -> dict[str, Any]:
    """Held-out figures of the first weights and of those after each finished stage.

    Args:
        config: The run.
        questions: Number of questions, a multiple of 4 (whole scenes).

    Returns:
        ``split``, ``questions``, ``scenes``, ``majority`` (accuracy), and ``after``: for ``start`` and each stage its
        ``losses``, ``right`` (accuracy), its 95 % ``interval`` over scenes, and ``families``.

    Raises:
        LareError: If the last stage's questions are not the world's.
    """
    from lare.embedded import held_out
    from lare.embedded.world_data import WorldData
    from lare.training.prepare import Prepared

    data = config.stages[-1].data[0]
    if not isinstance(data, WorldData):
        raise LareError("held-out questions are those of the embedded world; leave --questions out")
    asked = held_out.draw_questions(data, max(1, questions // held_out.PER_SCENE))
    scenes = np.array([one.scene for one in asked])
    prepared = Prepared(config)
    # As many as the last stage's global batch, so that the alignment has as many negatives.
    rows = max(1, config.stages[-1].batch // held_out.PER_SCENE) * held_out.PER_SCENE
    guessed = held_out.share_right(held_out.majority(data, asked), asked)
    found: dict[str, Any] = {
        "split": "validation",
        "questions": len(asked),
        "scenes": len(np.unique(scenes)),
        "majority": float(guessed.mean()),
        "majority_interval": held_out.scene_interval(guessed, scenes),
        "after": {},
    }
    for name in ("start", *_finished(config)):
        if name != "start":
            load_final(Path(config.out) / name, prepared.model)
        elif config.start is not None:
            load_start(Path(config.start), prepared.model)
        losses = held_out.held_out_losses(prepared.model, config, prepared.processor, asked, rows)
        right = held_out.share_right(held_out.answers(prepared.model, prepared.processor, asked, 16, 32), asked)
        found["after"][name] = {
            "losses": losses,
            "right": float(right.mean()),
            "interval": held_out.scene_interval(right, scenes),
            "minus_majority": held_out.scene_interval(right - guessed, scenes),
            "families": held_out.by_family(right, asked),
        }
        print(f"{name:>12}  right {100 * right.mean():5.1f} %  " + _told(losses), flush=True)
    return found


def _finished(config: RunConfig) -> list[str]:
    """Names of the stages that are finished."""
    return [one.name for one in config.stages if (Path(config.out) / one.name / "final" / "meta.json").is_file()]


def _told(losses: Mapping[str, float]) -> str:
    return "  ".join(f"{_NAMES[name]} {value:.3f}" for name, value in losses.items())


def _ends(rows: Sequence[Mapping[str, Any]], stages: Sequence[str]) -> dict[str, Any]:
    """Mean of each loss over the first and the last `WIDTH` updates of each stage."""
    found: dict[str, Any] = {}
    for stage in stages:
        own = [row for row in rows if row["stage"] == stage]
        names = [name for name in own[-1] if str(name).startswith("losses/")]
        means = {
            name.removeprefix("losses/"): [float(np.mean([row[name] for row in part])) for part in _both(own, name)]
            for name in names
        }
        found[stage] = {"updates": own[-1]["step"], "samples": own[-1]["samples"], "seconds": own[-1]["seconds"]}
        found[stage]["losses"] = means
    return found


def _both(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    known = [row for row in rows if name in row]
    return known[:WIDTH], known[-WIDTH:]


def draw_curves(rows: Sequence[Mapping[str, Any]], held_out: Mapping[str, Any] | None = None) -> str:
    """One panel a loss: raw and smoothed over updates, stages apart, held-out losses as dots after their stages.

    Raises:
        LareError: If matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise LareError("drawing needs matplotlib; install lare[analysis]") from None
    names = [name for name in _NAMES if any(f"losses/{name}" in row for row in rows)]
    stages = list(dict.fromkeys(str(row["stage"]) for row in rows))
    ends = {stage: max(float(row["update"]) for row in rows if row["stage"] == stage) for stage in stages}
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "lare", "font.size": 9, "axes.spines.top": False}
    with matplotlib.rc_context(style | {"axes.spines.right": False, "legend.frameon": False}):
        figure = Figure(figsize=(7.2, 1.0 + 1.9 * len(names)), layout="constrained")
        panels = figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0]
        for axes, name in zip(panels, names, strict=True):
            _panel(axes, rows, name, ends)
            _dots(axes, name, ends, held_out)
        panels[-1].set_xlabel("update")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(handles))
        out = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(out, metadata={"Date": None, "Creator": None})
    return out.getvalue().rstrip("\n")


def _panel(axes: Any, rows: Sequence[Mapping[str, Any]], name: str, ends: Mapping[str, float]) -> None:
    first = 0.0
    for number, (stage, end) in enumerate(ends.items()):
        own = [row for row in rows if row["stage"] == stage and f"losses/{name}" in row]
        where = np.array([row["update"] for row in own], float)
        values = np.array([row[f"losses/{name}"] for row in own], float)
        if len(values):
            axes.plot(where, values, color=_INK, alpha=0.3, linewidth=0.6, label="an update" if not number else None)
            label = f"mean of {WIDTH} updates" if not number else None
            axes.plot(where, smoothed(values), color=_INK, linewidth=1.5, label=label)
        axes.axvline(end, color="#888888", linewidth=0.5)
        axes.text((first + end) / 2, 1.0, stage, ha="center", va="bottom", transform=axes.get_xaxis_transform())
        first = end
    axes.set_ylabel(_NAMES[name])
    axes.set_xlim(0, max(ends.values()) * 1.02)


def _dots(axes: Any, name: str, ends: Mapping[str, float], held_out: Mapping[str, Any] | None) -> None:
    after = {} if held_out is None else held_out["after"]
    places = {"start": 0.0, **ends}
    dots = [(places[stage], one["losses"][name]) for stage, one in after.items() if name in one["losses"]]
    if dots:
        axes.plot(*zip(*dots, strict=True), "o", color="#d0782a", markersize=4, label="held out", clip_on=False)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows
    )
    return out.getvalue().rstrip("\n")


def run(options: argparse.Namespace) -> None:
    """Read, ask, write.

    Raises:
        LareError: If the folder holds no finished stage.
    """
    config = load_run_config(options.run / "run.yaml", [f"out={json.dumps(str(options.run))}"])
    planned = [stage.name for stage in config.stages]
    stages = [name for name in planned if (options.run / name / "log.jsonl").is_file()]
    done = _finished(config)
    if not done:
        raise LareError(f"{str(options.run)!r} has no finished stage yet; wait for one")
    rows = read_curves(options.run, stages)
    target = options.out / "curves.json"
    found = held_out_curve(config, options.questions) if options.questions else _asked_before(target)
    meta = read_meta(options.run / done[-1] / "final")
    ends = _ends(rows, stages)
    content = {
        "finished": done == planned,
        "run": config.to_dict() | {"out": Path(config.out).name},
        "circumstances": {
            name: meta[name] for name in ("lare", "torch", "transformers", "python", "machine", "commit")
        },
        "stages": ends,
        "held_out": found,
    }
    save_text(target, json.dumps(content, indent=1))
    save_text(options.out / "curves.csv", _table(rows))
    save_text(options.out / "curves.svg", draw_curves(rows, found))
    for stage, one in ends.items():
        told = "  ".join(f"{_NAMES.get(name, name)} {a:.3f} -> {b:.3f}" for name, (a, b) in one["losses"].items())
        print(f"{stage:>12}  {one['updates']:.0f} updates, {one['seconds'] / 60:.1f} minutes  {told}")
    print(f"written: {options.out}")


def _asked_before(path: Path) -> Any:
    """What an earlier call with --questions found."""
    return json.loads(path.read_text(encoding="utf-8"))["held_out"] if path.is_file() else None


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line; returns the exit code."""
    parser = command_parser("python -m lare.experiments.curves", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, finished or not")
    parser.add_argument("--out", type=Path, required=True, help="folder of curves.csv, curves.svg and curves.json")
    parser.add_argument("--questions", type=int, default=0, help="held-out questions to ask (default: none)")
    run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
