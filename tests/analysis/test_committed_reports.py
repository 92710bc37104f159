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
from tests.analysis.browser import asked, chromium, emulate, errors, needs_chromium, violations, visit

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


@needs_chromium
@pytest.mark.parametrize("page", REPORTS, ids=lambda page: page.stem)
def test_opens_clean(browser: Any, page: Path) -> None:
    assert visit(browser, page) == []
    for slider in browser.find_elements(By.ID, "step"):
        slider.send_keys(Keys.ARROW_RIGHT)
        assert "Step 2 of" in browser.find_element(By.ID, "live").text or slider.get_attribute("max") == "1"
    assert asked(browser, page) == [] and errors(browser) == []
    assert violations(browser) == []
    emulate(browser, "dark")
    assert violations(browser, "color-contrast") == []
    emulate(browser, "light", 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert base64.b64decode(printed).startswith(b"%PDF")
