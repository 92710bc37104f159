"""The claims ledger: each claim of the paper, with what is measured here and a verdict.

A verdict is holds, fails or undecided, of the embedded world alone and never of the benchmarks. A claim that compares
trained systems is decided only by test rows of independent starts (``lare experiments``): at least four, t over starts;
rows that share a start are undecided whatever their p, validation rows explore, missing rows are undecided and named
with the command that makes them. The contrast that a grid declared beforehand needs every start it declares. A claim on
what a checkpoint does is decided from the committed reports' own intervals, and says "one checkpoint".
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.claims.answer import answer
from analysis.claims.judge import ALPHA, LEAST_STARTS, SAME, SMALLEST
from analysis.claims.measure import ClaimsOptions, Entry, Ledger, measure
from analysis.claims.tables import figures, tables
from analysis.shared.cli import Computed, reproduce, run
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Document, Reproduce

__all__ = ["compute", "document", "main"]


def compute(options: ClaimsOptions) -> Computed:
    """The ledger; it has no arrays beside its tables.

    Raises:
        LareError: As `measure` does.
    """
    found = measure(options)
    return answered(document(found, reproduce(options, found.hashes)), answer), {}


def document(found: Ledger, again: Reproduce) -> Document:
    """The report."""
    return Document(
        name="claims",
        title="The paper's claims, held against what is measured here",
        verdict=_in_full(found.entries),
        reproduce=again,
        warnings=_warnings(found.entries),
        tables=tables(found.entries),
        figures=figures(found.entries),
        methods=_METHODS,
        elsewhere=_elsewhere(found.elsewhere),
    )


def _elsewhere(ids: Sequence[str]) -> str:
    if not ids:
        return ""
    named = " and ".join(part for part in (", ".join(ids[:-1]), ids[-1]) if part)
    return f"Those of {named} are of questions about photographs."


def _in_full(entries: Sequence[Entry]) -> str:
    """The declared contrasts, with their numbers where there are any."""
    said = []
    for one in entries:
        if not one.claim.id.startswith("primary-"):
            continue
        found = one.lead
        text = f"{found.part}: {one.verdict}, {found.reason}"
        if found.effect is not None:
            ends = "" if found.low is None or found.high is None else f" [{found.low:.1f}, {found.high:.1f}]"
            starts = f"{found.starts} of {found.declared} starts"
            text += f"; {found.kind} rows of {starts}: {found.effect:+.1f} points{ends}"
        said.append(f"{text}.")
    return " ".join(said)


def _warnings(entries: Sequence[Entry]) -> tuple[str, ...]:
    every = [one for entry in entries for one in entry.findings]
    explored = sum(one.kind == "validation" for one in every)
    missing = sum(one.effect is None for one in every)
    told = []
    if missing:
        told.append(f"{missing} of {len(every)} parts have no numbers yet; the table of files says what makes them.")
    if explored:
        told.append(f"{explored} parts have validation rows only: they are shown, and decide nothing.")
    return tuple(told)


_METHODS = (
    "Everything is measured in the embedded world, with models of a few million parameters, but for what is said above "
    "to be of photographs (a decoder of 135 M parameters). A verdict here is no "
    "verdict on the benchmarks, nor on models of the paper's size. Figures in a claim's text are the paper's; every "
    "other number is read from the file beside it, and a test recomputes every verdict.",
    "Claims on trained systems: rows of lare experiments under reports/experiments, one a start. At least "
    f"{LEAST_STARTS} independent starts, test questions, the same number of samples and updates in both arms; the mean "
    "over tasks, paired by start, a t interval and a two-sided p over starts, each start counted once. Rows that share "
    "a start, or begin with one checkpoint, are undecided whatever their p. Validation rows are shown as exploration "
    "and decide nothing.",
    "The contrast that a grid declared beforehand has an entry of its own, with the questions it declared; it needs "
    "every start that the grid declares, and its p stands alone. The p of all other comparisons that can be tested is "
    f"adjusted by Holm, and {ALPHA:g} decides.",
    "Claims on one checkpoint: numbers and intervals of the committed reports, over questions and scenes of the "
    "shipped checkpoint. They say what this checkpoint does; another training might do otherwise.",
    "Holds: the 95 % interval lies on the claimed side. Fails: it lies on the other side, or shows the effect to be "
    f"smaller than {SMALLEST['points']:g} point or {SMALLEST['tokens']:g} token, whatever its sign. Undecided: "
    f"anything else. Where a claim says that more changes nothing, it holds if the interval lies within {SAME:g} "
    "points of no change, and fails if it lies beyond. A claim of several parts holds where all do, and fails where "
    "one does.",
    "Tokens are text tokens plus latent steps of right answers, mean over tasks; text tokens alone where it is said. "
    "Windows that hold what is needed are compared with windows at random places.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(ClaimsOptions, compute, __doc__, arguments, answer)
