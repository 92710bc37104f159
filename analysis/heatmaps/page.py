"""Where the model looks at each latent step (paper, Fig. 3): maps over the picture, and what they are worth in numbers.

``python -m analysis.heatmaps`` reads the traces of a thinking setting and the controls beside them, counts how much of
the Extractor's attention lies on the things that a question needs, and shows answers one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.heatmaps.answer import answer
from analysis.heatmaps.by_task import by_task, moves_by_source
from analysis.heatmaps.measure import HeatmapsOptions, Maps, read_maps, same_items, with_questions
from analysis.heatmaps.numbers import mean_map, ratio_of_sums, shape_of_maps
from analysis.heatmaps.overlap import agreement
from analysis.heatmaps.samples import TEXT_RULE, choose, samples_of
from analysis.heatmaps.sanity import (
    Check,
    cascade_table,
    checks_by_model,
    compare_maps,
    sanity_table,
    steps_of_cascade,
    unrelated,
)
from analysis.heatmaps.tables import (
    EVEN,
    MEAN,
    OWN,
    RANDOM,
    Measured,
    average_figure,
    boxes_table,
    curves,
    hops_table,
    measure,
    measures_table,
    shape_table,
    steps_table,
    thing_grids,
)
from analysis.shared.cli import Computed, reproduce, run
from analysis.shared.pictures import mini_images
from analysis.shared.questions import Question, questions_of_rows
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Document, Table
from analysis.shared.stats import FEW_CLUSTERS
from analysis.shared.tasks import METHOD, Apart, apart_table
from analysis.shared.traces import demo_traces, frame, open_traces, pair, scores_beside
from lare.embedded.world.benchmark import stand_in
from lare.errors import LareError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["compute", "main"]

Values = npt.NDArray[np.float64]

NO_BOXES = (
    "No question says by boxes what it is about, so the counts of attention on things are left out: only the maps' "
    "shapes and the sanity checks are here."
)


def compute(options: HeatmapsOptions) -> Computed:
    """Compute the report.

    Args:
        options: Controls are looked for beside the thinking traces: ``random``, ``blind``, ``K0``.

    Raises:
        LareError: If the traces are damaged, or the controls are of other weights or questions.
    """
    path = Path(options.traces[0]) if options.traces else demo_traces("K4")
    seed = options.seeds[0]
    warnings: list[str] = []
    maps = read_maps(path)
    pictures, maps = _pictures(maps, options.include_path, warnings)
    random, blind = (_control(maps, path, name, warnings) for name in ("random", "blind"))
    direct = _direct(maps, path, warnings)
    measured = measure(maps, random, seed)
    scenes = len(set(maps.table["cluster"] if measured is None else measured.clusters))
    if scenes < FEW_CLUSTERS:
        warnings.append(f"There are only {scenes} scenes: the intervals are rough.")
    checks, fallen = _checks(options, maps, blind, pictures, warnings, seed)
    shapes = shape_of_maps(maps.extractor)
    chosen = choose(maps.table, direct, options.samples, seed)
    average = mean_map(maps.extractor)
    apart = None if measured is None else moves_by_source(measured)
    kept = measured if measured is None or apart is None else _kept(measured, apart)
    if measured is None:
        warnings.append(NO_BOXES)
    document = Document(
        name="heatmaps",
        title="Where LaRe looks at each latent step",
        verdict=_verdict_of(measured, kept, apart, maps, shapes),
        reproduce=reproduce(options, {"checkpoint": maps.checkpoint}),
        warnings=(*(apart.warnings if apart else ()), *warnings),
        tables=(
            *(_tables(measured, kept, apart) if measured and kept and apart else ()),
            shape_table(maps, random, seed),
            sanity_table(checks),
            *([cascade_table(fallen)] if fallen else []),
        ),
        figures=(*curves(kept), *thing_grids(kept, average)) if kept else (average_figure(average),),
        samples=samples_of(maps, _beside(maps, shapes), direct, chosen, pictures),
        sampling=_sampling(chosen[1], len(maps.table)),
        methods=(*_methods(maps, measured), *((METHOD,) if apart else ())),
        stand_in=any(stand_in(str(task)) for task in maps.table["task"]),
        lead="samples",
    )
    return answered(document, answer), _arrays(measured, maps, shapes, average)


def _kept(measured: Measured, apart: Apart) -> Measured:
    """What is counted on the tasks that remain."""
    return measured.take(apart.of(measured.maps.table["task"].to_numpy(str))) if apart.aside else measured


def _tables(measured: Measured, kept: Measured, apart: Apart) -> list[Table]:
    """What is counted on things, of the tasks that remain; by task; and over all where one is set aside."""
    whole = replace(steps_table(measured), id="steps-all", caption="The same over all tasks.", main=False)
    return [
        steps_table(kept),
        *([whole] if apart.aside else []),
        by_task(measured, apart),
        apart_table(apart, "attention on the things, from each baseline to the Extractor's"),
        measures_table(kept),
        boxes_table(kept),
        *([hops_table(kept)] if kept.maps.hops.any() else []),
    ]


def _pictures(maps: Maps, include_path: str | None, warnings: list[str]) -> tuple[dict[tuple[str, int], Image], Maps]:
    """Pictures by task and question number; and the maps with the boxes of tasks that are none of the stand-ins."""
    keys = [(str(task), int(doc)) for task, doc in zip(maps.table["task"], maps.table["doc_id"], strict=True)]
    pictures = mini_images(((*key, None) for key in keys), any_scene=True)
    foreign = [key for key in keys if stand_in(key[0]) is None]
    if not foreign:
        return pictures, maps
    found: dict[tuple[str, int], Question] = {}
    try:
        found, _ = questions_of_rows(foreign, include_path)
    except LareError as error:
        warnings.append(f"The tasks' pictures and boxes are not at hand: {error}")
    asked = dict(zip(keys, maps.table["question"], strict=True))
    found = {key: one for key, one in found.items() if one.text == asked[key]}
    return pictures | {key: one.image for key, one in found.items()}, with_questions(maps, found)


def _control(maps: Maps, path: Path, name: str, warnings: list[str]) -> Maps | None:
    """The traces of a control beside the thinking ones."""
    beside = path.parent / name
    if not beside.is_dir() or beside.resolve() == path.resolve():
        warnings.append(f"There are no traces of the setting {name!r} beside {path.name!r}: its control is missing.")
        return None
    return same_items(maps, read_maps(beside), name)


def _direct(maps: Maps, path: Path, warnings: list[str]) -> pd.DataFrame | None:
    """Answers without thinking, in the order of the maps."""
    beside = path.parent / "K0"
    if not beside.is_dir():
        warnings.append(f"There are no answers without thinking (K0) beside {path.name!r} to compare with.")
        return None
    other = frame(open_traces([beside]), scores_beside([beside]))
    pair(maps.table, other, ("the thinking traces", "K0"))
    keys = pd.MultiIndex.from_frame(maps.table[["task", "doc_id"]])
    return other.set_index(["task", "doc_id"], drop=False).loc[keys].reset_index(drop=True)


def _checks(
    options: HeatmapsOptions, maps: Maps, blind: Maps | None, pictures: dict[tuple[str, int], Any],
    warnings: list[str], seed: int,
) -> tuple[list[Check], list[Check]]:  # fmt: skip
    """The sanity checks, from traces and, if asked for and possible, by running the model; and the cascade's steps."""
    checks = [
        compare_maps("nothing: the traced answers", "stays", maps, maps.extractor, maps.corners),
        unrelated(maps, seed),
    ]
    if blind is not None:
        checks.append(compare_maps("grey picture", "moves", maps, blind.extractor, blind.corners))
    if not options.sanity:
        return checks, []
    if maps.even is not None:
        warnings.append("The checks that need the model were left out: they compare maps on pictures of one grid.")
        return checks, []
    from lare.methods import load_method

    keys = list(zip(maps.table["task"], maps.table["doc_id"], strict=True))
    boxed = any(maps.boxes)
    known = np.array(
        [row for row, key in enumerate(keys) if key in pictures and (maps.boxes[row] or not boxed)], np.int64
    )
    method = load_method("lare", options.checkpoint, iterations=maps.steps)
    # The window's side and the number of steps decide the maps; the weights are compared by their fingerprint.
    if method.fingerprint() != maps.checkpoint or not len(known):
        warnings.append(
            "The checks that need the model were left out: the traces are not of the checkpoint at hand, or their "
            "pictures are not. Give it with --checkpoint."
        )
        return checks, []
    rows = np.sort(np.random.default_rng(seed).permutation(known)[: options.sanity_questions])
    part, shown = maps.take(rows), [pictures[keys[row]] for row in rows]
    drawn = all(stand_in(str(task)) for task in part.table["task"])
    if not drawn:
        warnings.append("The check by mirroring is left out: it needs questions that name places as the stand-ins do.")
    checks += checks_by_model(method, part, shown, seed, drawn)
    return checks, list(steps_of_cascade(method, part, shown, seed))


def _verdict_of(
    measured: Measured | None, kept: Measured | None, apart: Apart | None, maps: Maps, shapes: Mapping[str, Values]
) -> str:
    """The verdict over the tasks that remain, followed by all tasks where one is set aside; shapes without boxes."""
    if measured is None or kept is None or apart is None:
        clusters = list(maps.table["cluster"])
        entropy, travel = (ratio_of_sums(shapes[name], None, clusters) for name in ("entropy", "travel"))
        return (
            f"Over {maps.steps} latent steps the maps of {len(maps.table):,} answers have {entropy[0].mean():.2f} bits "
            f"of entropy (even over the window: {2 * np.log2(maps.window):.1f}), and their centre moves "
            f"{np.nanmean(travel[0]):.2f} cells a step. Without boxes nothing says whether that is what was asked "
            "about."
        )
    return apart.verdict(_verdict(kept), _verdict(measured))


def _verdict(measured: Measured) -> str:
    """The estimate with its interval beside both baselines, and what it does not say."""
    table = steps_table(measured).rows[-1]

    def points(key: str) -> str:
        low, high = table[f"{key}_interval"]
        return f"{table[key]:+.1f} points [{low:+.1f}, {high:+.1f}]"

    low, high = table["mass_interval"]
    lift_low, lift_high = table["lift_interval"]
    against = f"{points('even')} against the same windows looked at evenly, {points('mean')} against the {MEAN}"
    if RANDOM in measured.shares:
        against += f" and {points('random')} against {RANDOM}"
    return (
        f"Over all {measured.maps.steps} latent steps, {table['mass']:.1f} % [{low:.1f}, {high:.1f}] of the "
        f"Extractor's attention lies on the things that the question needs, which take {table['area']:.1f} % of the "
        f"picture: a lift of {table['lift']:.2f} [{lift_low:.2f}, {lift_high:.2f}], {against} (n = {table['n']:,} "
        f"questions, {len(set(measured.clusters)):,} scenes). "
        "Attention on a thing does not show that the answer rests on it."
    ).replace("-", "−")


def _beside(maps: Maps, shapes: dict[str, npt.NDArray[np.float64]]) -> dict[str, npt.NDArray[np.float64]]:
    """Numbers that stand beside a sample's map, in the order in which they are shown: that of their names."""
    known = np.array([bool(boxes) for boxes in maps.boxes])[:, None]
    covered = maps.covered()
    mass, area = (maps.extractor * covered[:, None]).sum((-2, -1)), covered.mean((-2, -1))[:, None]
    found = agreement(maps.extractor, covered)
    return {
        "attention on the things (%)": np.where(known, 100 * mass, np.nan),
        "attention on the things, lift": np.divide(
            mass, area, out=np.full_like(mass, np.nan), where=known & (area > 0)
        ),
        "boxes: AUC-Judd": found.auc,
        "boxes: best IoU (%)": 100 * found.iou,
        "centre, from the left (cells)": shapes["column"],
        "centre, from the top (cells)": shapes["row"],
        "centre, travel (cells)": shapes["travel"],
        "spread, effective cells": shapes["effective"],
        "spread, entropy (bits)": shapes["entropy"],
        "spread, in the strongest tenth (%)": 100 * shapes["top"],
        "step before, distance from it (bits)": shapes["divergence"],
        "step before, rank correlation": shapes["spearman"],
    }


def _sampling(reasons: Sequence[str], total: int) -> str:
    first = reasons.count("discordant")
    return (
        f"{len(reasons)} of {total:,} answers are shown: {first} drawn at random from those where thinking and "
        f"answering at once differ in being right, then {len(reasons) - first} drawn at random from the rest. The "
        "numbers above are of all answers."
    )


def _methods(maps: Maps, measured: Measured | None) -> tuple[str, ...]:
    side, coarse = maps.grid, maps.saliency.shape[-1]
    boxed = 0 if measured is None else len(measured.clusters)
    about_things = (1, 2, 3, 4) if measured is None else ()
    resampled = (
        f"Pictures have grids of their own here. Every map is brought to one of {side} x {side} cells: a token's share "
        "is dealt out over the cells that it overlaps, by area. So a window covers more cells in a picture with few "
        f"tokens ({maps.window} a side on average), and numbers in cells are in {side}ths of a side.",
    )
    methods = (
        f"A map is the Extractor's cross-attention over the cells of its {maps.window} x {maps.window} window on the "
        f"{side} x {side} grid, mean over its layers, heads and the decoder's layers. Outside the window there is no "
        f"value. The window is chosen by the decoder's attention to its {coarse} x {coarse} visual tokens, which is "
        "shown beside it.",
        f"What a question needs are the boxes of the things that it leads through, as the world that drew the picture "
        f"knows them. {len(maps.table) - boxed:,} of {len(maps.table):,} questions have no box "
        "(things that are not there, comparisons of counts) and take no part in the counts on things; they do in the "
        "mean map and in spread and travel.",
        "Baselines: the answers' own windows looked at evenly (what choosing the window alone brings); the mean of "
        "all maps of other scenes at the same step (it knows the data set but not the question), and the same "
        "weights looking through random windows. In a random window the Extractor still chooses "
        "within it, so the difference from it is the window's worth, not the Extractor's.",
        "AUC-Judd and IoU are over the whole picture. A cell that a box covers in part counts in that part: both are "
        "those of the map painted onto the pixels. NSS and AUC against the mean map tell what is more than a habit of "
        "looking at some places (Bylinskii 2019).",
        "Intervals are percentiles of a bootstrap over scenes, of which several questions can share one. Lift is a "
        "ratio of sums, so questions with small things do not dominate it.",
        TEXT_RULE + " The paper colours the text of its figure by step and gives no rule.",
        "Departures from the paper: it shows single examples chosen by hand; here all answers are counted and the "
        "shown ones are drawn at random.",
    )
    kept = tuple(one for place, one in enumerate(methods) if place not in about_things)
    return kept if maps.even is None else (*kept[:1], *resampled, *kept[1:])


def _arrays(
    measured: Measured | None, maps: Maps, shapes: dict[str, npt.NDArray[np.float64]], average: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[Any]]:
    """The arrays that the tables are made from, one row an answer."""
    short = {OWN: "own", EVEN: "even", MEAN: "mean", RANDOM: "random"}
    arrays: dict[str, npt.NDArray[Any]] = {
        "average": average.astype(np.float32),
        "all_task": np.array(maps.table["task"], dtype=str),
        "all_doc_id": np.array(maps.table["doc_id"], dtype=np.int64),
    }
    for name, values in shapes.items():
        arrays[f"all_{name}"] = values.astype(np.float32)
    if measured is None:
        return arrays
    arrays |= {
        "task": np.array(measured.maps.table["task"], dtype=str),
        "doc_id": np.array(measured.maps.table["doc_id"], dtype=np.int64),
        "area": measured.shares[OWN].area.astype(np.float32),
    }
    for source, shares in measured.shares.items():
        arrays[f"mass_{short[source]}"] = shares.mass.astype(np.float32)
        if source in measured.score:
            arrays[f"pointing_{short[source]}"] = shares.pointing.astype(np.uint8)
            arrays[f"nss_{short[source]}"] = measured.score[source].astype(np.float32)
        arrays[f"auc_{short[source]}"] = measured.boxes[source].auc.astype(np.float32)
        arrays[f"iou_{short[source]}"] = measured.boxes[source].iou.astype(np.float32)
    return arrays


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(HeatmapsOptions, compute, __doc__, arguments, answer)
