"""Attention to the image around the first generated token: LaRe against the same backbone answering at once (Table 5).

Run ``python analysis/attention.py`` for the newest demo run: K4 (latent steps) against K0 (answers at once), the same
weights. The paper compares two separately trained models; give their traces with ``--traces LARE LLAVA``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.attention import layers as by_layer
from analysis.attention import live_tables, tables
from analysis.attention.again import Live, ask_again
from analysis.attention.answer import answer
from analysis.attention.measure import (
    HEADLINE,
    ROWS,
    AttentionOptions,
    Compared,
    Values,
    compare,
    measures,
    read_side,
)
from analysis.shared.cli import Computed, reproduce, run
from analysis.shared.pictures import Looks, mini_pictures, paired_views
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Document, Picture, Reproduce, Sample
from analysis.shared.stats import FEW_CLUSTERS, cluster_difference, format_p
from analysis.shared.traces import demo_run, demo_traces, described
from lare.embedded.world.benchmark import stand_in

__all__ = ["compute", "document", "main"]

LARGEST_GAP = 0.05
"""Points of visual share that rounding may move between the traces and asking again."""


def compute(options: AttentionOptions) -> Computed:
    """Table 5 on two traces.

    Raises:
        LareError: If the traces can't be compared.
    """
    paths = options.traces or (demo_traces("K4"), demo_traces("K0"))
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
    live = ask_again(compared, options) if options.live else "--live 0 leaves them out"
    if isinstance(live, Live):
        arrays |= live_tables.live_arrays(live)
    return answered(document(compared, numbers, options, again, further, live), answer), arrays


def _further(options: AttentionOptions) -> list[Path]:
    """The setting of a demo run that writes its rationale as text: its first token is of LaRe's kind."""
    text = demo_run() / "traces" / "text" if not options.traces else Path()
    return [text] if text.name and text.is_dir() else []


def document(
    compared: Compared,
    numbers: Mapping[str, Values],
    options: AttentionOptions,
    again: Reproduce,
    further: Sequence[Compared] = (),
    live: Live | str = "",
) -> Document:
    """The report of one comparison, with further settings in a table of their own.

    Args:
        compared: Both settings.
        numbers: What comes from `measures`.
        options: Options of the command.
        again: How to get the report again.
        further: Other settings against the judged one.
        live: What asking again gave, or why it was left out.
    """
    asked = live if isinstance(live, Live) else None
    said = f" {live_tables.live_sentences(asked, compared, options.sinks)}" if asked else ""
    samples = _samples(compared, numbers["visual"], options.samples, options.seeds[0])
    return Document(
        name="attention",
        title=f"Attention to the image: {compared.names[1]} against {compared.names[0]}",
        verdict=_verdict(compared, numbers, options.task, said),
        reproduce=again,
        warnings=(*_warnings(compared, numbers), *_live_warnings(live)),
        tables=(
            tables.table5(compared, numbers),
            *(live_tables.live_tables(asked, compared, options.sinks) if asked else ()),
            tables.settings([compared, *further]),
            by_layer.classes([compared, *further]),
            by_layer.layers(compared),
            tables.tests(compared, numbers),
            tables.measured(compared, numbers),
            tables.split(compared),
        ),
        figures=(
            *tables.figures(compared, numbers),
            by_layer.curve(compared),
            *(live_tables.live_figures(asked, compared, options.sinks) if asked else ()),
        ),
        samples=samples,
        stand_in=stand_in(options.task) is not None,
        sampling=(
            f"{len(samples)} of {len(compared.items)} items: a third with the largest, a third with the smallest "
            f"difference, the rest drawn with seed {options.seeds[0]}."
        ),
        methods=_METHODS,
    )


def _verdict(compared: Compared, numbers: Mapping[str, Values], task: str, said: str) -> str:
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
        f"was looked at, counted as well it is {both.estimate:+.2f} points ({both.low:+.2f} to {both.high:+.2f})."
        f"{said} More attention is not by itself more seeing; only covered patches say whether an answer uses them."
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


def _live_warnings(live: Live | str) -> tuple[str, ...]:
    """Why asking again was left out, or how far it is from the traces."""
    if isinstance(live, str):
        return (f"Sinks, covered patches and forced first tokens were left out: {live}.",) if live else ()
    found = []
    if live.same_text < 1:
        found.append(f"{100 * (1 - live.same_text):.1f} % of the answers read otherwise when asked again.")
    if live.gap > LARGEST_GAP:
        found.append(f"Asked again, a question's visual share is up to {live.gap:.2f} points from the traces'.")
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
    rights = [None if item[f"right_{mark}"] is None else bool(item[f"right_{mark}"]) for mark in "ab"]
    beside = [
        {
            "visual, predicting (%)": round(float(visual[side, row, 0]), 3),
            "visual, own row (%)": round(float(visual[side, row, 1]), 3),
            "text tokens": int(item[f"output_tokens_{mark}"]),
            "latent steps": int(item[f"latent_steps_{mark}"]),
        }
        for side, mark in enumerate("ab")
    ]
    views = paired_views(item, compared.names, looks, rights, beside)
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
    "an attention sink, and renormalises in each head.",
    "The paper names Student's T for means and Mann-Whitney's U for medians. Both are shown; Welch's does without "
    "equal variances, the paired tests use that both settings answered the same items, and the cluster-robust one that "
    "questions on one scene are not independent. U tests stochastic order, not medians: medians and the other "
    "quantiles have bootstrap intervals in the first table. Holm's adjustment is over all measures and rows of a test.",
    "The paper's scale is lost: 4.47 and 10.84 can be sums in percent or means per token x 10^-4, not x 10^-3. Their "
    "ratio does not depend on it. The paper's numbers are for other models on MMStar and stand here as reported.",
    "Asked again: traces keep shares of kinds of positions, not rows, so the same checkpoint answers a random part "
    "of the questions once more, in both settings. The table of sinks says how far its shares are from the traces'.",
    "Sinks: visual tokens have sinks of their own, in background that can go without loss (Kang et al., 2025). Here a "
    "sink is a position, not a thing: the visual tokens with the largest mean over all questions, layers and heads, "
    "each setting's own. They and the sequence's first token are left out of part and whole, in each layer. A model "
    "that looks at one place because things often stand there has such a position as well.",
    "Covered patches: attention is no explanation (Jain and Wallace, 2019). A tenth of the patches (at least one) of "
    "the picture as the encoder sees it is covered, the method runs anew, latent steps included, and the "
    "log-probability of the text that it wrote on the whole picture is taken token by token. Covered are the patches "
    "most attended to, as many at random, the least attended to, and those most attended to under a question on "
    "another scene. A loss above that of random patches says that the answer needs what is there; it does not say "
    "that attention is the way by which it gets it. An encoder's features reach beyond their patch, and a covered "
    "patch is a picture that training did not show. Settings write texts of other lengths: compare losses within a "
    "setting. The answer's words are scored after the own rationale, which may already hold the answer.",
    "Forced first token: the own row depends on which token stands there. Both settings get the same token, once "
    "LaRe's own and once the other's, question by question; prompt and latents stay as they are.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(AttentionOptions, compute, __doc__, arguments, answer)
