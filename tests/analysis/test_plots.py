"""Charts: valid SVG that takes the page's colours, says what it shows, and carries its numbers as a table."""

from __future__ import annotations

import re
import xml.etree.ElementTree as Tree
from dataclasses import replace

import pytest

from analysis.plots import draw, numbers_of
from analysis.report.document import Figure, Series
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
