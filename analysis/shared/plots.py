"""Charts as SVG text: drawn by matplotlib from a document's numbers, fit for light, dark and print.

The drawing is transparent and its black is the text colour of the page around it. Text stays text. Two drawings of the
same numbers are the same bytes: no date, and ids from a fixed salt, prefixed by the figure's own id because several
drawings share a page.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from analysis.shared.report.document import Column, Figure, Series, Table

__all__ = ["COLOURS", "draw", "numbers_of", "small"]

COLOURS = ("#2a7f8e", "#d0782a", "#7a66b8", "#5a9a3c", "#c2517a", "#8a8f98", "#3f74c4", "#a8852b")
"""Told apart in light and dark and by those who see few colours; markers and order tell the same."""

_MARKERS = "osD^vPX*"
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 3)))
_INK = "#0f0f10"  # inside a coloured cell: stays dark when the page's text is light
_STYLE: Any = {
    "text.parse_math": False,  # dollars in a label are dollars
    "svg.fonttype": "none",
    "svg.hashsalt": "lare",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}
_WIDTH = 5.4  # inches: at a phone's width the letters are still read
_LETTERS = (60, 48, 38, 30, 24)
"""Letters of a legend's line, tried until the widest name fits: sixty narrow ones do, or twenty-four of the widest."""


def draw(figure: Figure) -> str:
    """Draw a chart.

    Args:
        figure: Its numbers and words.

    Returns:
        An ``<svg>`` element with title and description, ``role="img"``, and no other font than the page's.
    """
    with matplotlib.rc_context(_STYLE):
        canvas = _painted(figure)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _page_ready(buffer.getvalue(), figure)


def small(figure: Figure) -> bytes:
    """A chart as a PNG on white, 640 pixels wide, for an index card."""
    with matplotlib.rc_context(_STYLE):
        canvas = _painted(figure)
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="png", dpi=640 / _WIDTH, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _painted(figure: Figure) -> Canvas:
    canvas = Canvas(figsize=(_WIDTH, _height(figure)), dpi=72, layout="constrained")
    FigureCanvasSVG(canvas)
    axes = canvas.add_subplot()
    _PAINTERS[figure.kind](canvas, axes, figure)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    if len(figure.series) > 1 and figure.kind != "grid":
        _legend(canvas, axes)
    return canvas


def _legend(canvas: Any, axes: Any) -> None:
    """Above the drawing, in as many columns as fit; the canvas grows by its height, so that it takes nothing away."""
    handles, names = axes.get_legend_handles_labels()
    if not names:
        return
    wide, high = canvas.get_size_inches()
    room = (wide - 0.1) * canvas.dpi
    for letters in _LETTERS:
        wrapped = [textwrap.fill(name, letters, max_lines=3, placeholder=" …") for name in names]
        box = _drawn(canvas, handles, wrapped, 1)
        if box.width <= room:
            break
    for columns in range(min(len(names), int(room // box.width)), 1, -1):
        several = _drawn(canvas, handles, wrapped, columns)
        if several.width <= room:
            box = several
            break
    else:
        box = _drawn(canvas, handles, wrapped, 1)
    canvas.set_size_inches(wide, high + box.height / canvas.dpi)


def _drawn(canvas: Any, handles: Sequence[Any], names: Sequence[str], columns: int) -> Any:
    """Put the legend there instead of an earlier one; returns its measured box, in pixels."""
    for earlier in list(canvas.legends):
        earlier.remove()
    legend = canvas.legend(handles, names, loc="outside upper left", ncols=columns, fontsize=9)
    return legend.get_window_extent()


def _height(figure: Figure) -> float:
    if figure.kind == "intervals":
        rows = max(len(series.x) for series in figure.series) if figure.series else 1
        return 1.1 + rows * (0.25 + 0.13 * len(figure.series))
    if figure.kind == "grid":
        return 1.2 + 0.36 * len(figure.series)
    return 3.2


def _floats(values: Sequence[float | None]) -> Any:
    return np.array([math.nan if value is None else float(value) for value in values])


def _is_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _whiskers(series: Series) -> Any:
    """Distances from the values down and up, (2, n); None without intervals."""
    if not series.low or not series.high:
        return None
    y = _floats(series.y)
    return np.clip(np.stack([y - _floats(series.low), _floats(series.high) - y]), 0, None)


def _labels(figure: Figure) -> list[str]:
    """All series' places in the order of their first showing."""
    return list(dict.fromkeys(str(x) for series in figure.series for x in series.x))


def _place_labels(axes: Any, labels: Sequence[str]) -> None:
    wide = max((len(label) for label in labels), default=0)
    room = 50 // max(1, len(labels))
    words = [textwrap.fill(label, max(8, room)) for label in labels]
    slanted = wide > 2 * max(8, room)
    axes.set_xticks(range(len(labels)), words, rotation=30 if slanted else 0, ha="right" if slanted else "center")


def _lines(canvas: Any, axes: Any, figure: Figure) -> None:
    numbers = all(_is_numbers(series.x) for series in figure.series)
    labels = [] if numbers else _labels(figure)
    for i, series in enumerate(figure.series):
        x = _floats(series.x) if numbers else np.array([labels.index(str(x)) for x in series.x])  # type: ignore[arg-type]
        y = _floats(series.y)
        colour, marker = COLOURS[i % len(COLOURS)], _MARKERS[i % len(_MARKERS)]
        few = marker if len(x) <= 40 else ""
        dashes = _DASHES[i % len(_DASHES)]
        axes.plot(x, y, color=colour, marker=few, markersize=4.5, linestyle=dashes, label=series.name)
        if series.low and series.high:
            axes.fill_between(x, _floats(series.low), _floats(series.high), color=colour, alpha=0.18, linewidth=0)
    if labels:
        _place_labels(axes, labels)
    elif all(len(series.x) <= 12 for series in figure.series):
        ticks = sorted({float(x) for series in figure.series for x in series.x})
        if all(tick.is_integer() for tick in ticks):
            axes.set_xticks(ticks)
    _reference(axes, figure, horizontal=True)
    axes.grid(axis="y", color="#8a8f98", alpha=0.25, linewidth=0.6)


def _bars(canvas: Any, axes: Any, figure: Figure) -> None:
    labels = _labels(figure)
    width = 0.8 / max(1, len(figure.series))
    for i, series in enumerate(figure.series):
        at = np.array([labels.index(str(x)) for x in series.x]) + (i - (len(figure.series) - 1) / 2) * width
        axes.bar(at, _floats(series.y), width * 0.92, color=COLOURS[i % len(COLOURS)], label=series.name)
        spread = _whiskers(series)
        if spread is not None:
            axes.errorbar(at, _floats(series.y), spread, fmt="none", ecolor="#000000", elinewidth=1, capsize=2)
    _place_labels(axes, labels)
    _reference(axes, figure, horizontal=True)
    axes.grid(axis="y", color="#8a8f98", alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def _stacked(canvas: Any, axes: Any, figure: Figure) -> None:
    labels = _labels(figure)
    base = np.zeros(len(labels))
    for i, series in enumerate(figure.series):
        found = dict(zip((str(x) for x in series.x), series.y, strict=True))
        y = np.nan_to_num(_floats([found.get(label) for label in labels]))
        hatch = ("", "//", "..", "\\\\", "xx")[i % 5]
        colour = COLOURS[i % len(COLOURS)]
        axes.bar(range(len(labels)), y, 0.7, base, color=colour, hatch=hatch, edgecolor="#ffffff40", linewidth=0,
                 label=series.name)  # fmt: skip
        base = base + y
    _place_labels(axes, labels)
    _reference(axes, figure, horizontal=True)


def _histogram(canvas: Any, axes: Any, figure: Figure) -> None:
    for i, series in enumerate(figure.series):
        edges, counts = _floats(series.x), np.nan_to_num(_floats(series.y))  # type: ignore[arg-type]
        colour = COLOURS[i % len(COLOURS)]
        axes.stairs(counts, edges, fill=True, alpha=0.3, color=colour)
        axes.stairs(counts, edges, color=colour, linestyle=_DASHES[i % len(_DASHES)], linewidth=1.3, label=series.name)
    _reference(axes, figure, horizontal=False)


def _grid(canvas: Any, axes: Any, figure: Figure) -> None:
    values = np.stack([_floats(series.y) for series in figure.series])
    high = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    limits = {"vmin": -high, "vmax": high} if figure.diverging else {}
    mesh = axes.pcolormesh(values, cmap="PuOr" if figure.diverging else "viridis", **limits)
    axes.invert_yaxis()
    labels = [str(x) for x in figure.series[0].x]
    _place_labels(axes, labels)
    axes.set_xticks(np.arange(len(labels)) + 0.5, [text.get_text() for text in axes.get_xticklabels()])
    names = [textwrap.fill(series.name, 24) for series in figure.series]
    axes.set_yticks(np.arange(len(names)) + 0.5, names)
    canvas.colorbar(mesh, ax=axes).outline.set_visible(False)
    if values.size <= 80:
        for (row, column), value in np.ndenumerate(values):
            if math.isfinite(value):
                red, green, blue, _ = mesh.cmap(mesh.norm(value))
                light = 0.3 * red + 0.59 * green + 0.11 * blue > 0.5
                axes.text(column + 0.5, row + 0.5, f"{value:.3g}", ha="center", va="center", fontsize=8,
                          color=_INK if light else "#ffffff")  # fmt: skip


def _intervals(canvas: Any, axes: Any, figure: Figure) -> None:
    labels = _labels(figure)
    step = 0.7 / max(1, len(figure.series))
    for i, series in enumerate(figure.series):
        at = np.array([labels.index(str(x)) for x in series.x]) + (i - (len(figure.series) - 1) / 2) * step
        colour, marker = COLOURS[i % len(COLOURS)], _MARKERS[i % len(_MARKERS)]
        axes.errorbar(
            _floats(series.y), at, xerr=_whiskers(series), fmt=marker, color=colour, markersize=5, capsize=2.5,
            elinewidth=1.4, label=series.name,
        )  # fmt: skip
    axes.set_yticks(range(len(labels)), [textwrap.fill(label, 34) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    _reference(axes, figure, horizontal=False)
    axes.grid(axis="x", color="#8a8f98", alpha=0.25, linewidth=0.6)


def _reference(axes: Any, figure: Figure, horizontal: bool) -> None:
    if figure.reference is not None:
        line = axes.axhline if horizontal else axes.axvline
        line(figure.reference, color="#000000", alpha=0.55, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0.5)


_PAINTERS = {
    "lines": _lines,
    "bars": _bars,
    "stacked": _stacked,
    "histogram": _histogram,
    "grid": _grid,
    "intervals": _intervals,
}


def _page_ready(svg: str, figure: Figure) -> str:
    """Cut to the element, prefix its ids, let black be the page's text colour, add title and description."""
    start = svg.index("<svg")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[start:], flags=re.S)
    prefix = re.sub(r"[^A-Za-z0-9_-]", "-", figure.id)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{prefix}-\1"', svg)
    # Shapes without a fill are black by SVG's own rule; letters too.
    svg = svg.replace("#000000", "currentColor").replace("<svg ", '<svg fill="currentColor" ', 1)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif[^;\"]*", "inherit", svg)
    svg = re.sub(r"(font: [0-9.]+px) inherit", r"\1 system-ui, sans-serif", svg)
    head, _, rest = svg.partition(">")
    head = re.sub(r'\b(width|height)="[^"]*pt"\s*', "", head)
    names = f'role="img" aria-labelledby="{prefix}-title {prefix}-desc"'
    title = f'<title id="{prefix}-title">{escape(figure.title)}</title>'
    words = f'<desc id="{prefix}-desc">{escape(figure.description)}</desc>'
    return f"{head} {names}>{title}{words}{rest}".strip()


def numbers_of(figure: Figure) -> Table:
    """The chart's numbers as a table, for those who read it better so."""
    caption = f"Numbers of: {figure.title}"
    if figure.kind == "grid" and figure.series:
        columns = [Column("name", figure.y_label or "Row")]
        columns += [Column(f"c{i}", str(x)) for i, x in enumerate(figure.series[0].x)]
        cells: list[dict[str, str | None]] = []
        for series in figure.series:
            cells.append({"name": series.name, **{f"c{i}": _short(y) for i, y in enumerate(series.y)}})
        return Table(f"{figure.id}-numbers", caption, tuple(columns), tuple(cells))
    places = (
        "From" if figure.kind == "histogram" else (figure.y_label if figure.kind == "intervals" else figure.x_label)
    )
    names = [Column("series", "Series"), Column("x", places or "At"), Column("y", "Value")]
    ranged = any(series.low for series in figure.series)
    if ranged:
        names += [Column("low", "Low"), Column("high", "High")]
    rows = []
    for series in figure.series:
        for i, y in enumerate(series.y):
            row = {"series": series.name, "x": _short(series.x[i]), "y": _short(y)}
            if i < len(series.low) and i < len(series.high):
                row |= {"low": _short(series.low[i]), "high": _short(series.high[i])}
            rows.append(row)
    return Table(f"{figure.id}-numbers", caption, tuple(names), tuple(rows))


def _short(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return None if not math.isfinite(value) else f"{value:.4g}"
