"""What a report says, apart from how it looks: typed blocks that are written as JSON and rendered to HTML from it.

An analysis computes a `Document` and nothing else; `analysis.shared.report.render` turns it into one HTML file. The
same document rendered twice is the same file, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from lare.errors import LareError

__all__ = [
    "KINDS",
    "SEEN",
    "VERSION",
    "Claim",
    "Column",
    "Document",
    "Figure",
    "Picture",
    "Reproduce",
    "Sample",
    "Series",
    "Step",
    "Table",
    "View",
]

VERSION = 2
"""Version 1 had no answer, claim, details and lead; it is still read."""

SEEN = ("yes", "no", "undecided")
"""Whether a claim of the paper is seen here."""

LEADS = ("figure", "samples")

KINDS = ("text", "number", "percent", "count", "p", "interval", "mark")
"""How a column's values are shown: text; a number; a share in percent with its sign; a whole number; a p-value
(``p < 1e-300`` below what floats hold); an interval ``[low, high]``, given as two numbers; right or wrong, a truth
value shown by sign and word."""

FIGURES = ("lines", "bars", "stacked", "histogram", "grid", "intervals")


@dataclass(frozen=True)
class Column:
    """A table's column.

    Attributes:
        key: Name of its values in a row.
        label: What stands at its head.
        kind: One of `KINDS`.
        digits: Digits after the point.
        help: What it means, shown as its description.
    """

    key: str
    label: str
    kind: str = "text"
    digits: int = 2
    help: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise LareError(f"column {self.key!r}: kind {self.kind!r} is unknown; choose from {', '.join(KINDS)}")


@dataclass(frozen=True)
class Table:
    """A table. A missing value is None and shown as a dash.

    Attributes:
        id: Its anchor; letters, digits and dashes.
        caption: One sentence.
        columns: Its columns.
        rows: Values by the columns' keys.
        note: What to know when reading it; may be empty.
        main: Whether it stands right under the verdict.
    """

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    note: str = ""
    main: bool = False


@dataclass(frozen=True)
class Series:
    """A named run of values in a figure.

    Attributes:
        name: Its name in the legend.
        x: Places: numbers, or labels for bars.
        y: Values; for a histogram counts between the edges `x` (one value fewer than edges).
        low: Lower ends of intervals; empty for none.
        high: Upper ends.
    """

    name: str
    x: tuple[float | str, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A chart, drawn from its numbers when the report is rendered; the numbers also stand below it as a table.

    Attributes:
        id: Its anchor.
        title: One line.
        description: What it shows, for those who can't see it, and how to read it.
        kind: ``lines`` (with bands), ``bars`` (grouped, with whiskers), ``stacked`` (bars adding up), ``histogram``,
            ``grid`` (a matrix: one series a row, `x` the column names), ``intervals`` (estimates with whiskers, one
            line each; `x` the labels).
        series: Its values.
        x_label: Label of the x axis, with unit.
        y_label: Label of the y axis, with unit.
        reference: A line that means "nothing" (0, chance); None for none.
        diverging: A grid whose colours part at 0.
    """

    id: str
    title: str
    description: str
    kind: str
    series: tuple[Series, ...]
    x_label: str = ""
    y_label: str = ""
    reference: float | None = None
    diverging: bool = False

    def __post_init__(self) -> None:
        if self.kind not in FIGURES:
            raise LareError(f"figure {self.id!r}: kind {self.kind!r} is unknown; choose from {', '.join(FIGURES)}")


@dataclass(frozen=True)
class Picture:
    """An image beside a sample.

    Attributes:
        alt: What it shows, in words.
        data: JPEG or PNG, base64.
        media: ``image/jpeg`` or ``image/png``.
    """

    alt: str
    data: str
    media: str = "image/jpeg"


@dataclass(frozen=True)
class Step:
    """One latent iteration of a view: what the slider goes through.

    Attributes:
        label: Such as "step 2 of 4".
        map: Base64 of g * g uint8 numbers, row by row: a map over the image, 255 its scale's top. Empty for none.
        scale: What 255 stands for (share of attention), so that steps can be drawn on one scale or on their own.
        inside: Base64 of g * g uint8: 1 where the map has a value (the window), else left clear. Empty: everywhere.
        window: Top row, left column, rows, columns of the window in cells; empty for none.
        boxes: Boxes of what the step needs (left, top, right, bottom), as shares of the image.
        text: What is said at this step.
        numbers: Named numbers (entropy in bits, travel in cells, ...).
        picture: A picture of the step (a reconstruction), if any.
    """

    label: str
    map: str = ""
    scale: float = 1.0
    inside: str = ""
    window: tuple[int, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    text: str = ""
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    picture: Picture | None = None


@dataclass(frozen=True)
class View:
    """One model's (or setting's) way through a sample.

    Attributes:
        name: Name of the model or setting.
        answer: What was handed to the scorer.
        right: Whether it was right; None if nobody knows.
        text: Everything written.
        steps: Its latent iterations; empty for none.
        grid: Side g of the steps' maps.
        facts: Small named facts (tokens, steps, stop reason).
    """

    name: str
    answer: str
    right: bool | None = None
    text: str = ""
    steps: tuple[Step, ...] = ()
    grid: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """A question with its picture and one view per model.

    Attributes:
        id: Its anchor, such as "s0123".
        task: Its task.
        question: What was asked.
        target: The right answer.
        views: One per model or setting; with two, the first filter is which of the two was right.
        picture: The very picture that the encoder saw.
        facts: What the table can be sorted by (hops, sort of question, ...).
        chosen: Why it is shown ("discordant", "random").
    """

    id: str
    task: str
    question: str
    target: str
    views: tuple[View, ...]
    picture: Picture | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    chosen: str = ""


@dataclass(frozen=True)
class Reproduce:
    """How to get the report again.

    Attributes:
        command: What was typed.
        commit: Commit of the code; with "-dirty" where files differed.
        seeds: Seeds used.
        versions: Versions of the libraries.
        hashes: Fingerprints of models and data.
        time: When it was computed, in UTC; empty where determinism is asked for.
    """

    command: str
    commit: str = ""
    seeds: tuple[int, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    time: str = ""


@dataclass(frozen=True)
class Claim:
    """What the paper says on a report's question, and whether it is seen here.

    Attributes:
        text: The paper's claim, with its number and where it stands.
        seen: One of `SEEN`.
        reason: Why, in one sentence.
    """

    text: str
    seen: str
    reason: str

    def __post_init__(self) -> None:
        if self.seen not in SEEN:
            raise LareError(f"a claim's seen is {self.seen!r}; choose from {', '.join(SEEN)}")


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        name: Name of the analysis ("probe"), and of its files.
        title: Headline.
        verdict: At most 40 words and 3 numbers: the estimate, its interval, and what it does not say.
        reproduce: How to get it again.
        question: What is asked, in common words.
        answer: The answer in one plain sentence.
        claim: The paper's claim; None where the paper has none.
        details: What the verdict leaves out: further estimates, sample sizes, effect sizes, p-values.
        lead: What stands first after the answer: the first figure ("figure"), or the pictures ("samples").
        warnings: Leaks, few clusters, missing samples, parse failures; linked beside the verdict.
        tables: The tables, the main one first.
        figures: Charts.
        samples: For the sample table and the viewer.
        sampling: How the shown samples were chosen, and out of how many.
        methods: Paragraphs on what was computed and which departures were made.
        stand_in: Whether its numbers come from the embedded world; then the report says so beside them.
        elsewhere: Which of them come from somewhere else all the same, in a sentence.
    """

    name: str
    title: str
    verdict: str
    reproduce: Reproduce
    warnings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    samples: tuple[Sample, ...] = ()
    sampling: str = ""
    methods: tuple[str, ...] = ()
    stand_in: bool = True
    elsewhere: str = ""
    question: str = ""
    answer: str = ""
    claim: Claim | None = None
    details: tuple[str, ...] = ()
    lead: str = "figure"

    def __post_init__(self) -> None:
        if self.lead not in LEADS:
            raise LareError(f"report {self.name!r}: lead {self.lead!r} is unknown; choose from {', '.join(LEADS)}")

    def to_json(self) -> str:
        """JSON text; equal documents give equal text. NaN and infinity become null."""
        content = {"format": "lare-report", "version": VERSION, **_plain(asdict(self))}
        return json.dumps(content, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, name: str = "the file") -> Document:
        """Read what `to_json` wrote.

        Args:
            text: The JSON.
            name: Name of the file, for messages.

        Raises:
            LareError: If it is no report or of another version.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            raise LareError(f"{name} is no JSON (cut off?); run the analysis again") from None
        if not isinstance(content, dict) or content.pop("format", None) != "lare-report":
            raise LareError(f"{name} is no report of an analysis; give the .json beside its .html")
        version = content.pop("version", None)
        if version not in range(1, VERSION + 1):
            raise LareError(f"{name} is of report version {version}, read are 1 to {VERSION}; run the analysis again")
        try:
            return _build(cls, content)
        except (TypeError, AttributeError, KeyError) as error:
            raise LareError(f"{name} is damaged ({error}); run the analysis again") from None


T = TypeVar("T")

_PARTS: Mapping[tuple[str, str], Any] = {
    ("Document", "reproduce"): Reproduce,
    ("Document", "claim"): Claim,
    ("Document", "tables"): Table,
    ("Document", "figures"): Figure,
    ("Document", "samples"): Sample,
    ("Table", "columns"): Column,
    ("Figure", "series"): Series,
    ("Sample", "views"): View,
    ("Sample", "picture"): Picture,
    ("View", "steps"): Step,
    ("Step", "picture"): Picture,
}
"""Which class the values of a field have."""


def _build(cls: type[T], content: Mapping[str, Any]) -> T:
    assert is_dataclass(cls)
    known = {one.name for one in fields(cls)}
    unknown = sorted(set(content) - known)
    if unknown:
        raise TypeError(f"unknown {unknown[0]}")
    values = {}
    for name, value in content.items():
        part = _PARTS.get((cls.__name__, name))
        if part is not None and value is not None:
            value = _build(part, value) if isinstance(value, dict) else tuple(_build(part, one) for one in value)
        elif isinstance(value, list):
            value = tuple(tuple(one) if isinstance(one, list) else one for one in value)
        values[name] = value
    return cls(**values)


def _plain(value: Any) -> Any:
    """Lists, dictionaries and scalars; numpy's scalars become Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if hasattr(value, "item") and not isinstance(value, Sequence):
        return _plain(value.item())
    if isinstance(value, Sequence):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value
