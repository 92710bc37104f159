"""Charts: valid SVG that takes the page's colours, says what it shows, and carries its numbers as a table."""

from __future__ import annotations

import re
import xml.etree.ElementTree as Tree
from dataclasses import replace
from typing import Any

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.shared import plots
from analysis.shared.plots import draw, numbers_of
from analysis.shared.report.document import Figure, Series
from lare.errors import LareError
from tests.analysis.documents import figures
from tests.analysis.hostile import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("figure", figures(), ids=lambda figure: figure.kind)
def test_every_kind_is_valid_and_follows_the_page(figure: Figure) -> None:
    text = draw(figure)
    root = Tree.fromstring(text)
    assert root.tag == f"{SVG}svg" and root.get("role") == "img" and "viewBox" in root.attrib
    assert root.find(f"{SVG}title").text == figure.title and root.find(f"{SVG}desc").text == figure.description
    assert root.get("aria-labelledby").split() == [root.find(f"{SVG}{name}").get("id") for name in ("title", "desc")]
    assert "#000000" not in text and "currentColor" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and all(name.startswith(f"{figure.id}-") for name in ids)
    used = re.findall(r'(?:url\(#|href="#)([^")]+)', text)
    assert used and set(used) <= set(ids)
    assert "<text" in text, "letters became paths"


def test_the_same_numbers_give_the_same_bytes_and_others_do_not() -> None:
    figure = figures()[0]
    assert draw(figure) == draw(figure)
    other = replace(figure, series=(replace(figure.series[0], y=(0.9, 0.3, 0.4, None)),))
    assert draw(other) != draw(figure)


def test_bars_are_as_high_as_their_numbers() -> None:
    series = Series("a", ("x", "y"), (1.0, 2.0))
    text = draw(Figure("bars", "t", "d", "bars", (series,)))
    heights = []
    for path in re.findall(r'<path d="([^"]+)"[^>]*style="fill: #2a7f8e', text):
        y = [float(value) for value in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)]
        heights.append(max(y) - min(y))
    assert len(heights) == 2 and heights[1] == pytest.approx(2 * heights[0], rel=1e-3)


@pytest.mark.parametrize("word", HOSTILE[::4])
def test_hostile_names_stay_text(word: str) -> None:
    word = re.sub(r"[\x00-\x08\x0b-\x1f]", "", word)
    figure = Figure(
        "f", word, word, "bars", (Series(word, (word, "b"), (1.0, 2.0)), Series("x", ("b",), (1.0,))), word, word
    )
    root = Tree.fromstring(draw(figure))
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert not tags & {"script", "image", "foreignObject", "a", "animate"}
    assert root.find(f"{SVG}title").text.split() == word.split()


def test_numbers_stand_in_a_table() -> None:
    line, *_, grid, _ = figures()
    table = numbers_of(line)
    assert [column.key for column in table.columns] == ["series", "x", "y", "low", "high"]
    assert table.rows[0] == {"series": "a name", "x": "1", "y": "0.2", "low": "0.1", "high": "0.3"}
    assert table.rows[3]["y"] is None
    table = numbers_of(grid)
    assert [column.label for column in table.columns] == ["layer", "h1", "h2", "h3"]
    assert table.rows[2] == {"name": "layer 2", "c0": "0.2", "c1": "-0.2", "c2": "0.3"}


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(LareError, match="pie"):
        Figure("f", "t", "d", "pie", ())


def _boxes(figure: Figure) -> tuple[Any, Any, Any, Any]:
    """The drawn canvas's boxes: all of it, the axes, the axes with their labels, the legend."""
    with matplotlib.rc_context(plots._STYLE):
        canvas = plots._painted(figure)
        canvas.draw_without_rendering()
        (legend,) = canvas.legends
        axes = canvas.axes[0]
        return canvas.bbox, axes.get_window_extent(), axes.get_tightbbox(), legend.get_window_extent()


def _named(kind: str, names: list[str]) -> Figure:
    edges: tuple[float | str, ...] = (1.0, 2.0, 3.0) if kind in ("lines", "histogram") else ("first", "second", "third")
    heights = (1.0, 2.0, 3.0)[: 2 if kind == "histogram" else 3]
    return Figure("f", "t", "d", kind, tuple(Series(name, edges, heights) for name in names), "x", "y")


NAMES = ("a", "qwen2-96, with Extractor, latent-vision matching, linear SVM", "W" * 90, "several words " * 9)


@settings(max_examples=16, deadline=None)
@given(
    kind=st.sampled_from(("lines", "bars", "stacked", "intervals", "histogram")),
    count=st.integers(2, 20),
    name=st.sampled_from(NAMES),
)
def test_a_legend_never_covers_the_plot_nor_takes_its_room(kind: str, count: int, name: str) -> None:
    names = [f"{i} {name}" for i in range(count)]
    whole, axes, labelled, legend = _boxes(_named(kind, names))
    assert legend.y0 >= labelled.y1 and legend.y1 <= whole.y1
    assert legend.x0 >= 0 and legend.x1 <= whole.x1
    with matplotlib.rc_context(plots._STYLE):
        bare = plots._height(_named(kind, names)) * 72
    assert axes.height > bare - 60  # what is left of the height without a legend goes to ticks and the axis's name


def test_a_canvas_grows_by_the_rows_of_its_legend() -> None:
    long = "a name that fills a row of its own, of which there is one for each"
    heights = [_boxes(_named("lines", [f"{long} {i}" for i in range(count)]))[0].height for count in (2, 3, 10, 20)]
    row = heights[1] - heights[0]
    assert row > 9 and heights[2] - heights[0] == pytest.approx(8 * row) and heights[3] > heights[2] + 9 * row
    short = [_boxes(_named("lines", list("abcdefgh")[:count]))[0].height for count in (2, 5)]
    assert short[0] == short[1], "short names stand beside one another"


def test_a_cut_name_shows_that_it_is_cut_and_whole_ones_stay() -> None:
    text = draw(_named("bars", ["first " * 60, "a name of some length that is wrapped but whole, all of it"]))
    words = "".join(Tree.fromstring(text).itertext())
    assert "…" in words and "all of it" in words
