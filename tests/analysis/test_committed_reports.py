"""The reports that are shipped with the repository, each in headless Chromium."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from analysis.shared.report.document import Document
from analysis.shared.report.render import render
from tests.analysis.browser import asked, chromium, emulate, errors, needs_chromium, thin, violations, visit

FOLDER = Path(__file__).parents[2] / "reports"
REPORTS = sorted(path for path in FOLDER.glob("*.html") if path.with_suffix(".json").exists())

pytestmark = pytest.mark.skipif(not REPORTS, reason="reports/ holds no report yet; make demo writes them")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


def document_of(page: Path) -> Document:
    return Document.from_json(page.with_suffix(".json").read_text(encoding="utf-8"), page.name)


@pytest.mark.parametrize("page", REPORTS, ids=lambda page: page.stem)
def test_is_small_and_what_its_json_says(page: Path) -> None:
    assert page.stat().st_size <= 5e6
    made = document_of(page)
    text = page.read_text(encoding="utf-8")
    assert made.stand_in == ("are not results on the benchmarks" in " ".join(text.split()))
    if made.reproduce.versions.get("matplotlib") == metadata.version("matplotlib"):  # others draw other bytes
        assert render(made) == text


HIDDEN = """
    document.querySelectorAll("details").forEach((one) => { one.open = true; });
    return [...document.querySelectorAll(".scroll")].filter((one) => one.scrollWidth > one.clientWidth + 1)
        .map((one) => `${one.getAttribute("aria-labelledby")}: ${one.scrollWidth} px of ${one.clientWidth}`);
"""


@needs_chromium
@pytest.mark.parametrize("page", REPORTS, ids=lambda page: page.stem)
def test_no_table_hides_columns_at_1280_pixels(browser: Any, page: Path) -> None:
    visit(browser, page)
    emulate(browser, "light", 1280)
    assert browser.execute_script(HIDDEN) == []
    emulate(browser, "light", 600)
    assert browser.execute_script(HIDDEN) or page.stem == "reconstruct", "a table that is too wide would be seen"


@needs_chromium
@pytest.mark.parametrize("name", ["heatmaps", "reconstruct"])
def test_pictures_stand_on_the_first_screen_and_are_large(browser: Any, name: str) -> None:
    visit(browser, FOLDER / f"{name}.html")
    emulate(browser, "light", 1280)
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.viewer .stage, .viewer .step-picture img')]"
        ".map((one) => one.getBoundingClientRect()).map((box) => [box.top, box.width, box.height])"
    )
    assert len(boxes) >= 5 and all(width >= 320 and height >= 320 for _, width, height in boxes)
    assert min(top for top, _, _ in boxes) < (600 if name == "heatmaps" else 900)
    tops = [round(top) for top, _, _ in boxes[:3]]
    assert name != "heatmaps" or max(tops) - min(tops) < 60, "steps stand side by side"


@needs_chromium
def test_a_steps_text_has_its_maps_colour(browser: Any) -> None:
    visit(browser, FOLDER / "heatmaps.html")
    hues = browser.execute_script(
        "return [...document.querySelectorAll('.strip > li:not(.whole)')]"
        ".map((one) => one.style.getPropertyValue('--hue'))"
    )
    assert len(hues) == len(set(hues)) == 4
    script = """
        const cell = document.querySelectorAll('.strip > li:not(.whole)')[arguments[0]];
        const canvas = cell.querySelector('canvas');
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const rgb = [1, 3, 5].map((at) => parseInt(arguments[1].slice(at, at + 2), 16));
        let found = 0;
        for (let i = 0; i < data.length; i += 4)
            if (data[i + 3] > 40 && rgb.every((value, k) => Math.abs(data[i + k] - value) <= 6)) found += 1;
        const said = document.querySelector(`.whole .said[title^='step ${arguments[0] + 1} ']`);
        return [found, said ? getComputedStyle(said).borderBottomColor : null, `rgb(${rgb.join(', ')})`];
    """
    coloured = 0
    for i, hue in enumerate(hues):
        painted, text, wanted = browser.execute_script(script, i, hue)
        assert painted > 500
        assert text in (None, wanted)
        coloured += text is not None
    assert coloured


@needs_chromium
def test_the_index_shows_a_picture_an_answer_and_the_papers_claim_a_card(browser: Any) -> None:
    visit(browser, FOLDER / "index.html")
    emulate(browser, "light", 1280)
    cards = browser.execute_script(
        "return [...document.querySelectorAll('.reports > li')].map((card) => [card.querySelector('img').naturalWidth,"
        " card.querySelector('img').getBoundingClientRect().width, card.querySelector('.words').textContent,"
        " card.querySelector('.claim .seen').textContent])"
    )
    assert len(cards) == len(REPORTS)
    for natural, width, answer, seen in cards:
        assert natural >= 600 and width >= 300 and answer.endswith(".") and "here" in seen
    assert violations(browser) == [] and errors(browser) == []
    emulate(browser, "dark")
    assert violations(browser, "color-contrast") == []


@needs_chromium
@pytest.mark.parametrize("page", REPORTS, ids=lambda page: page.stem)
def test_opens_clean(browser: Any, page: Path) -> None:
    assert visit(browser, page) == []
    for slider in browser.find_elements(By.ID, "step"):
        slider.send_keys(Keys.ARROW_RIGHT)
        assert "Step 2 of" in browser.find_element(By.ID, "live").text or slider.get_attribute("max") == "1"
    assert asked(browser, page) == [] and errors(browser) == []
    emulate(browser, "light", 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert base64.b64decode(printed).startswith(b"%PDF")
    emulate(browser)
    assert 0 < thin(browser) < 200
    assert violations(browser) == []
    emulate(browser, "dark")
    assert violations(browser, "color-contrast") == []
