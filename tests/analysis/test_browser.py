"""Reports in headless Chromium: no request, nothing executed, nothing that axe objects to, all by keyboard."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from analysis.shared.report.document import Document
from analysis.shared.report.index import write_index
from analysis.shared.report.render import render
from tests.analysis.browser import asked, chromium, emulate, errors, needs_chromium, violations, visit
from tests.analysis.documents import document, picture, sample
from tests.analysis.hostile import HOSTILE

pytestmark = needs_chromium

PLAIN = ("What color is the paperclip?", "a1 red cup right.", "white", "b3 green jeans.", "yes")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    made = document(PLAIN, 60)
    (folder / "made.json").write_text(made.to_json(), encoding="utf-8")
    (folder / "made.html").write_text(render(made), encoding="utf-8")
    return folder / "made.html"


def text(browser: Any, selector: str) -> str:
    return str(browser.find_element(By.CSS_SELECTOR, selector).text)


def rows(browser: Any) -> list[str]:
    return [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#list tbody tr")]


def test_asks_for_nothing_and_says_nothing_to_the_console(browser: Any, page: Path) -> None:
    assert visit(browser, page) == []
    browser.find_element(By.ID, "step").send_keys(Keys.ARROW_RIGHT)
    assert asked(browser, page) == []
    assert errors(browser) == []
    entries = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in entries if not name.startswith("data:")] == []


def test_the_watch_on_requests_sees_one(browser: Any, page: Path, tmp_path: Path) -> None:
    leaking = tmp_path / "leaking.html"
    leaking.write_text('<img src="http://example.invalid/x.png" alt="">', encoding="utf-8")
    assert visit(browser, leaking) == ["http://example.invalid/x.png"]
    assert errors(browser)


def test_the_policy_forbids_requests(browser: Any, page: Path) -> None:
    visit(browser, page)
    script = """
        const done = arguments[arguments.length - 1];
        fetch("http://example.invalid/").then(() => done("sent"), () => done("refused"));
        document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
    """
    assert browser.execute_async_script(script) in ("connect-src", "refused")
    assert asked(browser, page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, page: Path, scheme: str) -> None:
    visit(browser, page)
    emulate(browser, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert violations(browser) == []


def test_axe_finds_nothing_on_the_index(browser: Any, page: Path) -> None:
    index = write_index(page.parent)
    visit(browser, index)
    assert violations(browser) == []
    link = browser.find_element(By.CSS_SELECTOR, ".reports a")
    assert link.get_attribute("href").endswith("made.html")
    assert "33.6 points" in text(browser, ".reports")


def test_slider_moves_map_text_and_numbers_by_keyboard(browser: Any, page: Path) -> None:
    visit(browser, page)
    canvas = "return document.querySelector('.view canvas').toDataURL()"
    slider = browser.find_element(By.ID, "step")
    first = (browser.execute_script(canvas), text(browser, "#live"), text(browser, ".written li[aria-current]"))
    assert "Step 1 of 4" in first[1] and "entropy 2" in first[1]
    slider.send_keys(Keys.ARROW_RIGHT)
    second = (browser.execute_script(canvas), text(browser, "#live"), text(browser, ".written li[aria-current]"))
    assert all(before != after for before, after in zip(first, second, strict=True))
    assert "Step 2 of 4" in second[1] and "entropy 3" in second[1] and "step 2 of 4" in second[2]
    slider.send_keys(Keys.HOME)
    assert browser.execute_script(canvas) == first[0]


def test_outside_the_window_nothing_is_painted_and_opacity_follows_weight(browser: Any, page: Path) -> None:
    visit(browser, page)
    shown = json.loads(browser.execute_script("return document.getElementById('sample-0').textContent"))
    step = shown["views"][0]["steps"][0]
    top, left, height, width = step["window"]
    pixels = browser.execute_script(
        "const canvas = document.querySelector('.view canvas');"
        "return Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)"
    )
    side = int((len(pixels) / 4) ** 0.5)

    def opacity(row: int, column: int) -> int:
        cell = side // 8
        return int(pixels[4 * ((row * cell + cell // 2) * side + column * cell + cell // 2) + 3])

    weights = base64.b64decode(step["map"])
    inside = [(row, column) for row in range(top, top + height) for column in range(left, left + width)]
    clear = [(r, c) for r in range(8) for c in range(8) if (r, c) not in inside and not (1 <= r <= 4 and 0 <= c <= 3)]
    assert {opacity(*place) for place in clear} == {0}
    # All steps share one scale: the highest value of any step is drawn strongest.
    most = max(s["scale"] * max(base64.b64decode(s["map"])) for s in shown["views"][0]["steps"])
    for row, column in inside[5:7]:
        share = weights[row * 8 + column] * step["scale"] / most
        if not (1 <= row <= 4 and 0 <= column <= 3):  # the dashed box is drawn there
            assert opacity(row, column) == pytest.approx(255 * 0.82 * share, abs=2)


def test_scale_smoothing_and_colours_change_the_picture(browser: Any, page: Path) -> None:
    visit(browser, page)
    canvas = "return document.querySelector('.view canvas').toDataURL()"
    seen = {browser.execute_script(canvas)}
    for box in browser.find_elements(By.CSS_SELECTOR, ".controls input[type=checkbox]"):
        box.send_keys(Keys.SPACE)
        seen.add(browser.execute_script(canvas))
    browser.find_element(By.CSS_SELECTOR, ".controls select").send_keys("cividis")
    seen.add(browser.execute_script(canvas))
    assert len(seen) == 4


def test_steps_are_shown_side_by_side_by_keyboard(browser: Any, page: Path) -> None:
    visit(browser, page)
    count = "return document.querySelectorAll('.strip canvas').length"
    assert browser.execute_script(count) == 0
    for shown in (4, 0):
        browser.find_element(By.CSS_SELECTOR, ".side-choice").send_keys(Keys.ENTER)
        assert browser.execute_script(count) == shown
        pressed = browser.execute_script("return document.activeElement.getAttribute('aria-pressed')")
        assert pressed == ("true" if shown else "false"), "the button that was pressed keeps the focus"
    browser.find_element(By.CSS_SELECTOR, ".side-choice").send_keys(Keys.ENTER)
    browser.find_element(By.ID, "step").send_keys(Keys.ARROW_RIGHT)
    current = browser.find_elements(By.CSS_SELECTOR, ".strip li[aria-current]")
    assert [one.find_element(By.CSS_SELECTOR, ".label").text for one in current] == ["step 2 of 4"]
    assert "Step 2 of 4" in text(browser, "#live") and violations(browser) == []
    emulate(browser, "light", 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390


def test_filters_sorting_and_pages_by_keyboard(browser: Any, page: Path) -> None:
    visit(browser, page)
    assert text(browser, "#count") == "60 of 60 samples" and len(rows(browser)) == 25
    browser.find_element(By.ID, "cell").send_keys("only thinking")
    expected = sum(i % 2 == 0 and i % 3 != 0 for i in range(60))
    assert text(browser, "#count") == f"{expected} of 60 samples"
    assert all("✓ right" in row and "✗ wrong" in row for row in rows(browser))
    browser.find_element(By.ID, "cell").send_keys(Keys.HOME)
    browser.find_element(By.ID, "search").send_keys("s0007")
    assert text(browser, "#count") == "1 of 60 samples"
    browser.find_element(By.ID, "search").send_keys(Keys.BACKSPACE * 5)
    browser.find_element(By.ID, "task").send_keys("task 2")
    assert text(browser, "#count") == "20 of 60 samples"
    browser.find_element(By.ID, "task").send_keys(Keys.HOME)
    browser.find_element(By.ID, "after").send_keys(Keys.ENTER)
    assert text(browser, "#page") == "page 2 of 3" and rows(browser)[0].startswith("s0025")
    head = browser.find_elements(By.CSS_SELECTOR, "#list thead button")
    names = [one.text for one in head]
    for way, first in (("ascending", 0), ("descending", 3)):
        button = browser.find_elements(By.CSS_SELECTOR, "#list thead button")[names.index("hops")]
        button.send_keys(Keys.ENTER)
        cell = browser.find_elements(By.CSS_SELECTOR, "#list thead th")[names.index("hops")]
        assert cell.get_attribute("aria-sort") == way
        shown = browser.find_elements(By.CSS_SELECTOR, "#list tbody tr:first-child > *")[names.index("hops")]
        assert shown.text == str(first)


def test_a_link_opens_its_sample(browser: Any, page: Path) -> None:
    visit(browser, page, "#s0042")
    assert text(browser, "#viewer-title") == "Sample s0042"
    assert text(browser, "#page") == "page 2 of 3"
    browser.find_element(By.LINK_TEXT, "s0044").send_keys(Keys.ENTER)
    wait = WebDriverWait(browser, 5, ignored_exceptions=[StaleElementReferenceException])
    wait.until(lambda _: text(browser, "#viewer-title") == "Sample s0044")
    assert browser.execute_script("return document.activeElement.id") == "viewer-title"
    assert browser.execute_script("return document.querySelectorAll('.stage img').length") == 2


def test_nothing_stands_out_sideways_on_a_phone(browser: Any, page: Path) -> None:
    visit(browser, page)
    emulate(browser, "light", 390)
    widths = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert widths == [390, 390]


def test_it_prints_in_light_without_clipped_tables(browser: Any, page: Path) -> None:
    visit(browser, page)
    emulate(browser, "dark")
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert printed.startswith(b"%PDF") and printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 2
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    size = {"width": 720, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    clipped = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > 721).length"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert paper == "rgb(255, 255, 255)"
    assert clipped == 0


def test_hostile_text_executes_nothing(browser: Any, tmp_path: Path) -> None:
    assert len(HOSTILE) >= 50
    hostile = tmp_path / "hostile.html"
    hostile.write_text(render(document(HOSTILE, len(HOSTILE))), encoding="utf-8")
    assert visit(browser, hostile) == []
    for i in range(len(HOSTILE)):
        browser.execute_script("location.hash = arguments[0]", f"#s{i:04d}")
    browser.find_element(By.ID, "step").send_keys(Keys.ARROW_RIGHT)
    browser.find_element(By.ID, "search").send_keys("<img")
    assert browser.execute_script("return window.__pwned") is None
    assert browser.execute_script("return document.title") == f"A made-up report {HOSTILE[0]}"
    assert "injected" not in browser.execute_script(
        "return [...document.querySelectorAll('[id]')].map((one) => one.id)"
    )
    assert HOSTILE[1] in browser.execute_script("return document.querySelector('#main-table').textContent")
    assert asked(browser, hostile) == [] and errors(browser) == []


def test_a_hostile_text_would_be_noticed(browser: Any, tmp_path: Path) -> None:
    naive = tmp_path / "naive.html"
    naive.write_text("\n".join(HOSTILE), encoding="utf-8")
    visit(browser, naive)
    assert browser.execute_script("return window.__pwned") == 1


def test_1500_samples_are_small_and_ready_soon(browser: Any, tmp_path: Path) -> None:
    image = picture()
    image = replace(image, data=image.data + "A" * (13_600 - len(image.data)))  # as a 224-pixel JPEG takes
    many: Document = replace(document(PLAIN, 1), samples=tuple(sample(i, PLAIN, image) for i in range(1500)))
    file = tmp_path / "many.html"
    file.write_text(render(many), encoding="utf-8")
    assert file.stat().st_size <= 25e6
    visit(browser, file)
    ready = int(browser.execute_script("return document.documentElement.dataset.ready"))
    assert ready <= 2000
    assert text(browser, "#count") == "1500 of 1500 samples" and len(rows(browser)) == 25
