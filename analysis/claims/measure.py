"""Verdicts on the paper's claims.

From Python::

    from analysis.claims.measure import ClaimsOptions, measure

    {one.claim.id: one.verdict for one in measure(ClaimsOptions()).entries}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lare
from analysis.claims.judge import Finding, combine, lead
from analysis.claims.ledger import CLAIMS, Claimed, Untested, primaries
from analysis.claims.reports import Read, Reports, read
from analysis.claims.rows import Compared, Grids, adjusted, compared
from analysis.shared.options import Options, option
from lare.errors import LareError
from lare.training.plan.run_file import read_yaml

__all__ = ["ClaimsOptions", "Entry", "Ledger", "grid_files", "measure"]

GRIDS = Path(lare.__file__).parent / "configs" / "experiments"
EXAMPLE = "example.yaml"
"""A grid that says itself that its numbers say nothing."""


@dataclass(frozen=True)
class ClaimsOptions(Options):
    """Options of the ledger.

    Attributes:
        grids: Declared grids; none takes every one under ``lare/configs/experiments`` but the example.
        experiments: Folder of all experiments' rows.
        reports: Folder of the committed reports.
    """

    name = "claims"
    example = "python analysis/claims.py"

    seeds: tuple[int, ...] = option((0,), "stand in the report; nothing here is drawn", metavar="N")
    grids: tuple[str, ...] = option((), "grids; all of lare/configs/experiments where left out", metavar="FILE")
    experiments: str = option("reports/experiments", "folder of all experiments' rows", metavar="DIR")
    reports: str = option("reports", "folder of the analyses' reports", metavar="DIR")

    def __post_init__(self) -> None:
        if self.traces:
            raise LareError("claims reads rows and reports, and no traces; leave --traces out")


@dataclass(frozen=True)
class Entry:
    """A claim and what came of it.

    Attributes:
        claim: The claim.
        findings: One a part.
    """

    claim: Claimed
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """``holds``, ``fails`` or ``undecided``."""
        return combine(self.findings)

    @property
    def lead(self) -> Finding:
        """The part on which the verdict rests."""
        return lead(self.findings)


@dataclass(frozen=True)
class Ledger:
    """All entries.

    Attributes:
        entries: Declared contrasts first, then the paper's claims in its order.
        hashes: Fingerprints of the models that the reports are of.
        elsewhere: Ids of the claims whose questions are not of the embedded world.
    """

    entries: tuple[Entry, ...]
    hashes: dict[str, str]
    elsewhere: tuple[str, ...] = ()


def grid_files() -> list[Path]:
    """Every YAML file of `GRIDS` that declares arms, but the example."""
    files = [one for one in sorted(GRIDS.rglob("*.yaml")) if one.name != EXAMPLE]
    return [one for one in files if {"arms", "like"} & read_yaml(one, "grid").keys()]


def measure(options: ClaimsOptions) -> Ledger:
    """Hold every claim against rows and reports.

    Raises:
        LareError: If a grid is impossible, or a row or a report is damaged.
    """
    files = [Path(one) for one in options.grids] or grid_files()
    grids, reports = Grids.read(files, Path(options.experiments)), Reports(Path(options.reports))
    claims = (*primaries(grids.plans), *CLAIMS)
    found = adjusted([_finding(part, grids, reports) for claim in claims for part in claim.parts])
    ends = iter(found)
    entries = tuple(Entry(claim, tuple(next(ends) for _ in claim.parts)) for claim in claims)
    drawn = {
        plan.grid.name for plan in grids.plans if all(one.startswith("lare_mini") for one in plan.grid.tasks.values())
    }
    elsewhere = tuple(
        claim.id
        for claim in claims
        if any(isinstance(part, Compared) and part.grid and part.grid not in drawn for part in claim.parts)
    )
    return Ledger(entries, reports.hashes, elsewhere)


def _finding(part: Compared | Read | Untested, grids: Grids, reports: Reports) -> Finding:
    if isinstance(part, Compared):
        return compared(part, grids)
    if isinstance(part, Read):
        return read(part, reports)
    return Finding(part.part, "more", reason=part.missing, command=part.command)
