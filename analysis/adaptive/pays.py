"""Does a rule pay: what it loses against the best fixed number of steps, at which share of its steps, and for whom.

Several starts are judged together: thresholds and the best fixed number are each start's own, chosen on validation
questions, and intervals are those of a two-level bootstrap over starts and scenes (`lare.experiments.compare`). With
one start they are over scenes.

Shapes: S starts, n questions, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from analysis.adaptive.stopping import Prefixes, Steps, at_stop, rule_label, shuffled_right
from analysis.adaptive.tables import Judged
from analysis.shared.cells import cells, with_interval
from analysis.shared.report.document import Column, Table
from analysis.shared.stats import Result
from lare.experiments.compare import DRAWS, mean_by_start
from lare.experiments.compare import interval as two_levels

__all__ = ["Start", "best_fixed", "hops_table", "pays_table", "rank_correlation"]

MAY_LOSE = 0.01
AT_MOST = 0.6
LEVELS = ("easy", "medium", "hard")
_CHUNK = 500  # draws of the bootstrap at a time

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Start:
    """One independently trained checkpoint, judged by thresholds of its own.

    Attributes:
        name: Of its checkpoint.
        test: Its run on the test questions that count.
        judged: Rules on those, in the same order for all starts.
        best: K, its best fixed number of steps on validation questions.
        weights: Fingerprint of its weights.
    """

    name: str
    test: Prefixes
    judged: tuple[Judged, ...]
    best: int
    weights: str = ""


def best_fixed(validation: Prefixes) -> int:
    """The fixed number of steps, from 1, with the most right answers; the fewest among equals."""
    return int(validation.right[:, 1:].mean(0).argmax()) + 1


def _together(starts: Sequence[Start]) -> list[tuple[Judged, list[Steps]]]:
    """Each rule that all starts have, as the first judged it, with every start's stops."""
    known = [{(one.rule, one.aim): one.steps for one in start.judged} for start in starts]
    keys = {(one.rule, one.aim): one for one in starts[0].judged}
    return [(one, [steps[key] for steps in known]) for key, one in keys.items() if all(key in steps for steps in known)]


def _pooled(starts: Sequence[Start], values: Array) -> Result:
    """Mean over starts and tasks of (S, n) values, with its two-level interval."""
    made = starts[0].test
    low, high = two_levels(values, made.task, made.scene)
    mean = float(mean_by_start(values, made.task).mean())
    scenes = len(set(made.scene.tolist()))
    return Result("two-level bootstrap", mean, low, high, values.size, scenes, note="over starts and scenes")


def pays_table(starts: Sequence[Start]) -> Table:
    """Every rule against each start's best fixed number of steps.

    Args:
        starts: S, on the same questions.
    """
    rows = []
    for one, stops in _together(starts):
        if one.threshold is None:
            continue
        right = np.array([at_stop(s.test.right, t) for s, t in zip(starts, stops, strict=True)], float)
        fixed = np.array([s.test.right[:, s.best] for s in starts], float)
        dealt = np.array([shuffled_right(s.test, t) for s, t in zip(starts, stops, strict=True)])
        gap, over = _pooled(starts, right - fixed), _pooled(starts, right - dealt)
        share = float(np.mean([t.mean() / s.best for s, t in zip(starts, stops, strict=True)]))
        pays = gap.low >= -MAY_LOSE and share <= AT_MOST and over.low > 0
        rows.append(
            {
                "rule": rule_label(one.rule),
                "aim": one.aim,
                "steps": float(np.mean([t.mean() for t in stops])),
                "share": 100 * share,
                **cells("gap", gap, 100),
                **cells("shuffled", over, 100),
                "each": ", ".join(f"{100 * value:+.1f}" for value in mean_by_start(right - fixed, starts[0].test.task)),
                "pays": "yes" if pays else "no",
            }
        )
    numbers = ", ".join(str(start.best) for start in starts)
    columns = (
        Column("rule", "Rule"),
        Column("aim", "Threshold chosen for"),
        Column("steps", "Mean steps", "number", 2),
        Column("share", "Of the best fixed, %", "number", 0, f"of its steps: {numbers}"),
        *with_interval("gap", "To the best fixed", 1, "points, paired"),
        *with_interval("shuffled", "To shuffled", 1, "points, to the same stops dealt at random"),
        Column("each", "To the best fixed, each start"),
        Column("pays", "Pays", help=f"loses at most {100 * MAY_LOSE:g} point (lower end), takes at most "
                                    f"{100 * AT_MOST:g} % of the steps, and beats its shuffled stops"),
    )  # fmt: skip
    note = f"Starts: {', '.join(start.name for start in starts)}. Mean over tasks; intervals are 95 %, " + (
        "two-level over starts and scenes." if len(starts) > 1 else "over scenes: one start shows nothing of others."
    )
    caption = f"Does a rule pay? Against the best fixed number of steps, {len(starts)} start{'s'[: len(starts) - 1]}"
    return Table("pays", caption, columns, tuple(rows), note)


def hops_table(starts: Sequence[Start]) -> Table:
    """Mean steps by hops and by difficulty, with rank correlations; empty where questions tell neither."""
    made = starts[0].test
    hops = [int(one) for one in np.unique(made.hops[made.hops > 0])]
    levels = [one for one in LEVELS if (made.difficulty == one).any()]
    order = np.array([LEVELS.index(one) if one in LEVELS else -1 for one in made.difficulty])
    rows = []
    for one, stops in _together(starts):
        steps = np.array(stops, float)
        line: dict[str, Any] = {"rule": rule_label(one.rule), "aim": one.aim}
        line |= {f"h{hop}": steps[:, made.hops == hop].mean() for hop in hops}
        line |= {f"d{level}": steps[:, made.difficulty == level].mean() for level in levels}
        for name, values, known in (("hops", made.hops, made.hops > 0), ("level", order, order >= 0)):
            found = rank_correlation(steps[:, known], values[known].astype(float), made.scene[known])
            if found is not None:
                line |= cells(name, found)
        rows.append(line)
    columns = [Column("rule", "Rule"), Column("aim", "Threshold chosen for")]
    columns += [Column(f"h{hop}", f"{hop} hop{'s' if hop > 1 else ''}", "number", 2, "mean steps") for hop in hops]
    if len(hops) > 1:
        columns += with_interval("hops", "Rank correlation with hops", 3, "Spearman; above 0: more hops, more steps")
    columns += [Column(f"d{level}", level, "number", 2, "mean steps") for level in levels]
    if len(levels) > 1:
        columns += with_interval("level", "With difficulty", 3, "Spearman")
    note = "Questions that say neither are left out. 95 % intervals, bootstrap over scenes (and starts)."
    return Table("hops", "Steps by hops and by difficulty", tuple(columns), tuple(rows), note)


def rank_correlation(steps: Array, values: Array, scene: npt.NDArray[np.str_], draws: int = DRAWS) -> Result | None:
    """Spearman's correlation of steps with something, mean over starts; None where either never varies.

    The interval is a bootstrap over whole scenes and over starts. Ranks stay those of all questions.

    Args:
        steps: (S, n).
        values: (n,).
        scene: (n,) clusters.
        draws: Of the bootstrap.
    """
    if steps.shape[1] < 3 or np.ptp(values) == 0 or not (np.ptp(steps, axis=1) > 0).all():
        return None
    names, codes = np.unique(scene, return_inverse=True)
    y = scipy_stats.rankdata(values)
    y = (y - y.mean()) / y.std()
    x = scipy_stats.rankdata(steps, axis=1)
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    sums = {
        name: np.stack([np.bincount(codes, weights=row, minlength=len(names)) for row in rows])
        for name, rows in (("n", np.ones((1, len(y)))), ("y", y[None]), ("yy", y[None] ** 2), ("x", x), ("xx", x**2),
                           ("xy", x * y))
    }  # fmt: skip
    rng, count, drawn = np.random.default_rng(0), len(steps), []
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size).astype(float)
        part = {name: weights @ one.T for name, one in sums.items()}
        means = {name: one / part["n"] for name, one in part.items()}
        spread = (means["xx"] - means["x"] ** 2) * (means["yy"] - means["y"] ** 2)
        each = (means["xy"] - means["x"] * means["y"]) / np.sqrt(np.maximum(spread, 1e-12))
        shares = rng.multinomial(count, np.full(count, 1 / count), size) / count
        drawn.append((each * shares).sum(1))
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return Result("Spearman", float((x * y).mean()), float(low), float(high), steps.size, len(names))
