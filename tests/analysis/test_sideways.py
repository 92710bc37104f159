"""No text, however wide, makes a page scroll sideways or pushes other text out of it: traces, reports, the index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from analysis.shared.report.index import write_index
from analysis.shared.report.render import render
from lare.cli.ask import Reply
from lare.cli.trace_html import render_page
from tests.analysis.browser import chromium, emulate, needs_chromium, visit
from tests.analysis.documents import document
from tests.analysis.hostile import HOSTILE, WIDE

pytestmark = needs_chromium

PLAIN = "A plain sentence that has to stay on the page whatever stands beside it, to its very last word, which is here."
WIDTHS = (1280, 390)

OUTSIDE = """
    const outside = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const parent = node.parentElement, start = node.textContent.indexOf(arguments[0]);
        if (start < 0 || parent.closest('.scroll, script, option, .unseen')) continue;
        const range = document.createRange();
        range.setStart(node, start);
        range.setEnd(node, start + arguments[0].length);
        for (const box of range.getClientRects())
            if (box.right > arguments[1] + 0.5 || box.left < -0.5) outside.push(box.right);
    }
    return outside;
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


def sideways(browser: Any, file: Path) -> list[str]:
    """What stands out of a page at any of the widths."""
    found = []
    visit(browser, file)
    for width in WIDTHS:
        emulate(browser, "light", width)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        if wide > width:
            found.append(f"{wide} px of {width}")
        found += [f"text up to {right} of {width}" for right in browser.execute_script(OUTSIDE, PLAIN, width)]
    return found


def trace(text: str) -> str:
    shown = Reply(PLAIN, f"{text} {PLAIN}", 3, "fixed", 6, {"think": 0.25}, text)
    return render_page(text, shown, [(Image.new("RGB", (336, 336)), text), (Image.new("RGB", (336, 336)), PLAIN)])


@pytest.mark.parametrize("name", WIDE)
def test_trace_pages(browser: Any, tmp_path: Path, name: str) -> None:
    page = tmp_path / "how.html"
    page.write_text(trace(WIDE[name]), encoding="utf-8")
    assert sideways(browser, page) == []


def test_trace_pages_of_markup(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "how.html"
    page.write_text(trace(" ".join(HOSTILE) + "".join(HOSTILE).replace(" ", "")), encoding="utf-8")
    assert sideways(browser, page) == []


@pytest.mark.parametrize("name", WIDE)
def test_reports_and_their_index(browser: Any, tmp_path: Path, name: str) -> None:
    made = document((WIDE[name], PLAIN, PLAIN), 3, charts=False)
    made = replace(made, methods=(WIDE[name], PLAIN), warnings=(PLAIN, WIDE[name]))
    (tmp_path / "made.json").write_text(made.to_json(), encoding="utf-8")
    (tmp_path / "made.html").write_text(render(made), encoding="utf-8")
    assert sideways(browser, tmp_path / "made.html") == []
    assert sideways(browser, write_index(tmp_path)) == []


def test_a_wide_text_would_be_noticed(browser: Any, tmp_path: Path) -> None:
    naive = tmp_path / "naive.html"
    naive.write_text(f"<p>{WIDE['one word']}</p><p style='width:3000px'>{PLAIN * 9}</p>", encoding="utf-8")
    found = sideways(browser, naive)
    assert any("px of" in one for one in found) and any("text up to" in one for one in found)
