"""Attention to the image around the first generated token: LaRe against the same backbone answering at once (Table 5).

Run ``python analysis/attention.py`` for the newest demo run: K4 (latent steps) against K0 (answers at once), the same
weights. The paper compares two separately trained models; give their traces with ``--traces LARE LLAVA``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis import attention_tables as tables
from analysis.attention_data import HEADLINE, ROWS, Compared, Values, compare, measures, read_side
from analysis.cli import Computed, reproduce, run, standard_parser
from analysis.pictures import Looks, mini_pictures
from analysis.report.document import Document, Picture, Reproduce, Sample, View
from analysis.stats import FEW_CLUSTERS, cluster_difference, format_p
from analysis.traces import demo_run, demo_traces, described
from lare.errors import LareError

__all__ = ["compute", "document", "main"]

TASK = "lare_mini_mmstar"


def compute(options: argparse.Namespace) -> Computed:
    """Table 5 on two traces.

    Args:
        options: traces (judged first, then the other; None for the demo's K4 and K0), task, samples, seeds.

    Raises:
        LareError: If the traces can't be compared.
    """
    paths = options.traces or [demo_traces("K4"), demo_traces("K0")]
    if len(paths) != 2:
        raise LareError(f"--traces takes two directories, LaRe's and then LLaVA's, got {len(paths)}")
    judged = read_side(paths[0], options.task)
    compared = compare(judged, read_side(paths[1], options.task))
    further = [compare(judged, read_side(path, options.task)) for path in options.also or _further(options)]
    numbers = measures(compared)
    again = reproduce(options, dict(zip(compared.names, compared.checkpoints, strict=True)))
    arrays: dict[str, npt.NDArray[Any]] = {
        "doc_id": compared.items["doc_id"].to_numpy(),
        "shares_a": compared.shares[0],
        "shares_b": compared.shares[1],
        **{f"measure_{name.replace(' ', '_')}": values for name, values in numbers.items()},
    }
    return document(compared, numbers, options, again, further), arrays


def _further(options: argparse.Namespace) -> list[Path]:
    """Of a demo run: the setting that writes its rationale as text, so that its first token is of LaRe's kind."""
    text = demo_run() / "traces" / "text" if not options.traces else Path()
    return [text] if text.name and text.is_dir() else []


def document(
    compared: Compared,
    numbers: Mapping[str, Values],
    options: argparse.Namespace,
    again: Reproduce,
    further: Sequence[Compared] = (),
) -> Document:
    """The report of one comparison, with further settings in a table of their own."""
    samples = _samples(compared, numbers["visual"], options.samples, options.seeds[0])
    return Document(
        name="attention",
        title=f"Attention to the image: {compared.names[1]} against {compared.names[0]}",
        verdict=_verdict(compared, numbers, options.task),
        reproduce=again,
        warnings=_warnings(compared, numbers),
        tables=(
            tables.table5(compared, numbers),
            tables.settings([compared, *further]),
            tables.tests(compared, numbers),
            tables.measured(compared, numbers),
            tables.split(compared),
        ),
        figures=tables.figures(compared, numbers),
        samples=samples,
        sampling=(
            f"{len(samples)} of {len(compared.items)} items: a third with the largest, a third with the smallest "
            f"difference, the rest drawn with seed {options.seeds[0]}."
        ),
        methods=_METHODS,
    )


def _verdict(compared: Compared, numbers: Mapping[str, Values], task: str) -> str:
    a, b = compared.names
    (left, right) = numbers["visual"][:, :, HEADLINE]
    gap = cluster_difference(right, left, compared.items["cluster"])
    size = tables.effect(right, left)
    whole = numbers["visual + latent"][:, :, HEADLINE]
    both = cluster_difference(whole[1], whole[0], compared.items["cluster"])
    direction = "more" if gap.low > 0 else "less" if gap.high < 0 else "neither more nor less (the interval holds 0)"
    return (
        f"On {task} the first token's own row gives {right.mean():.2f} % of its attention to visual tokens under "
        f"{described(b)} and {left.mean():.2f} % under {described(a)}: "
        f"{direction}, {gap.estimate:+.2f} points, 95 % interval {gap.low:+.2f} to {gap.high:+.2f}, "
        f"{gap.n} items in {gap.clusters} scenes, d_z {size.estimate:.2f} ({size.low:.2f} to "
        f"{size.high:.2f}), cluster-robust t, p = {format_p(gap.log10_p)}. With the latent tokens, which carry what "
        f"was looked at, counted as well it is {both.estimate:+.2f} points ({both.low:+.2f} to {both.high:+.2f}). "
        "More attention is not by itself more seeing: this says nothing on whether the answers use it."
    )


def _warnings(compared: Compared, numbers: Mapping[str, Values]) -> tuple[str, ...]:
    a, b = compared.names
    found = []
    if compared.checkpoints[0] != compared.checkpoints[1]:
        found.append(f"{a} and {b} are of different weights: differences may come from training, not from thinking.")
    clusters = compared.items["cluster"].nunique()
    if clusters < FEW_CLUSTERS:
        found.append(f"Only {clusters} independent scenes: intervals lean on few degrees of freedom.")
    if compared.lacking:
        shown = ", ".join(compared.lacking[:8]) + (" ..." if len(compared.lacking) > 8 else "")
        found.append(f"{len(compared.lacking)} items lack the first token's own row and are left out: {shown}.")
    if (compared.visual[0] != compared.visual[1]).any():
        found.append(
            f"The numbers of visual tokens differ (on average {compared.visual[0].mean():.0f} for {a}, "
            f"{compared.visual[1].mean():.0f} for {b}): compare the lift, not the sum."
        )
    classes = [tables.first_classes(compared.items[f"text_{side}"]) for side in "ab"]
    if classes[0] != classes[1]:
        told = ["; ".join(f"{kind} {count}" for kind, count in sorted(one.items())) for one in classes]
        found.append(
            f"The first tokens are of different kinds ({a}: {told[0]}; {b}: {told[1]}): a word of a rationale may look "
            "at the image more or less than an answer's word whatever the method. The table of "
            "settings names what each begins with."
        )
    rows = [numbers["visual"][1, :, row].mean() - numbers["visual"][0, :, row].mean() for row in range(len(ROWS))]
    if rows[0] * rows[1] < 0:
        found.append(f"The two readings disagree: {rows[0]:+.2f} points {ROWS[0]}, {rows[1]:+.2f} {ROWS[1]}.")
    failed = int((compared.items["failed_a"] | compared.items["failed_b"]).sum())
    if failed:
        found.append(f"{failed} of the compared items could not be answered by one side.")
    return tuple(found)


def _samples(compared: Compared, visual: Values, most: int, seed: int) -> tuple[Sample, ...]:
    """The extreme items of both signs and a random rest."""
    gaps = visual[1, :, HEADLINE] - visual[0, :, HEADLINE]
    order = np.argsort(gaps, kind="stable")
    most = max(0, min(most, len(order)))
    third = most // 3
    why = dict.fromkeys(order[::-1][:third].tolist(), "largest difference")
    why |= dict.fromkeys(order[:third].tolist(), "smallest difference")
    rest = np.array([row for row in order.tolist() if row not in why], dtype=int)
    drawn = np.random.default_rng(seed).permutation(rest)[: most - len(why)]
    why |= dict.fromkeys(sorted(drawn.tolist()), "random")
    keys = [
        (str(item["task"]), int(item["doc_id"]), item["scene"]) for item in (compared.items.iloc[row] for row in why)
    ]
    pictures, looks = mini_pictures(keys), [Looks(reader) for reader in compared.readers]
    return tuple(
        _sample(compared, visual, row, gaps[row], reason, looks, pictures.get(key[:2]))
        for (row, reason), key in zip(why.items(), keys, strict=True)
    )


def _sample(
    compared: Compared,
    visual: Values,
    row: int,
    gap: float,
    reason: str,
    looks: Sequence[Looks],
    picture: Picture | None,
) -> Sample:
    item = compared.items.iloc[row]
    seen = [look.steps(int(item[f"row_{mark}"])) for look, mark in zip(looks, "ab", strict=True)]
    views = tuple(
        View(
            name=compared.names[side],
            answer=str(item[f"answer_{mark}"]),
            right=None if item[f"right_{mark}"] is None else bool(item[f"right_{mark}"]),
            text=str(item[f"text_{mark}"]),
            steps=seen[side][0],
            grid=seen[side][1],
            facts={
                "visual, predicting (%)": round(float(visual[side, row, 0]), 3),
                "visual, own row (%)": round(float(visual[side, row, 1]), 3),
                "text tokens": int(item[f"output_tokens_{mark}"]),
                "latent steps": int(item[f"latent_steps_{mark}"]),
            },
        )
        for side, mark in enumerate("ab")
    )
    facts = {"difference (points)": round(float(gap), 3)}
    facts |= {name: item[name] for name in ("hops", "sort", "category") if item[name] is not None}
    return Sample(
        id=f"s{int(item['doc_id']):04d}",
        task=str(item["task"]),
        question=str(item["question_a"]),
        target="" if item["target"] is None else str(item["target"]),
        views=views,
        picture=picture,
        facts=facts,
        chosen=reason,
    )


_METHODS = (
    "Score of an item: 100 x the mean over layers and heads of the attention that falls on all visual tokens. One "
    "number an item; heads and layers are never counted as samples.",
    "Two rows can be meant by 'from the first generated token': the row that predicts it (the last of the prompt, or "
    "of the latents' closing delimiter) and the token's own. Both are in every table; the headline is the own row.",
    "Lift: the share by what even attention over all positions would give, so that models with other numbers of visual "
    "tokens or with latents in their context can be compared. 'Without first' leaves out the sequence's first token, "
    "an attention sink, and renormalises in each head. Other sinks are not left out: the trace keeps shares, not rows.",
    "The paper names Student's T for means and Mann-Whitney's U for medians. Both are shown; Welch's does without "
    "equal variances, the paired tests use that both settings answered the same items, and the cluster-robust one that "
    "questions on one scene are not independent. U tests stochastic order, not medians: medians and the other "
    "quantiles have bootstrap intervals in the first table. Holm's adjustment is over all measures and rows of a test.",
    "The paper's scale is lost: 4.47 and 10.84 can be sums in percent or means per token x 10^-4, not x 10^-3. Their "
    "ratio does not depend on it. The paper's numbers are for other models on MMStar and stand here as reported.",
    "Attention is no explanation (Jain and Wallace, 2019), and visual tokens have sinks of their own (Kang et al., "
    "2025): the causal controls are in the report of analysis/controls.py.",
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = standard_parser(
        "attention",
        "Attention to the image around the first generated token, LaRe against the same backbone (paper, Table 5).",
        "python analysis/attention.py --traces results/demo/RUN/traces/K4 results/demo/RUN/traces/K0",
    )
    made.add_argument("--task", default=TASK, help="task whose items are compared (default: %(default)s)")
    made.add_argument("--also", nargs="+", metavar="DIR", help="traces of further settings to set beside the second")
    made.add_argument("--samples", type=int, default=60, help="items in the sample table (default: %(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(parser(), compute, arguments)


if __name__ == "__main__":
    sys.exit(main())
