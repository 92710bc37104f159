"""The sample viewer's ways of showing maps, in headless Chromium: change since the step before, and outlines."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from analysis.shared.report.document import Sample, Step, View
from analysis.shared.report.render import render
from tests.analysis.browser import chromium, emulate, errors, needs_chromium, violations, visit
from tests.analysis.documents import bytes64, document, picture

pytestmark = needs_chromium

GRID, SIDE = 8, 384
WORDS = ("What?", "word", "white", "yes")


def planted(steps: int) -> Sample:
    """Step 1: 0.6 and 0.3 in two cells, 0.1 in a third; step 2: all of it in another window; step 3: a fifth moves."""
    first, second, third = (np.zeros((GRID, GRID)) for _ in range(3))
    first[1, 1], first[1, 2], first[2, 1] = 0.6, 0.3, 0.1
    second[4, 5] = 1.0
    third[4, 5], third[5, 5] = 0.8, 0.2
    made = []
    for i, (values, corner) in enumerate(((first, 0), (second, 4), (third, 4))):
        inside = np.zeros((GRID, GRID))
        inside[corner : corner + 4, corner : corner + 4] = 1
        scale = float(values.max())
        made.append(
            Step(
                label=f"step {i + 1} of 3",
                map=bytes64(np.rint(255 * values / scale)),
                scale=scale,
                inside=bytes64(inside),
                window=(corner, corner, 4, 4),
            )
        )
    view = View("thinking", "A", True, "", tuple(made[:steps]), GRID)
    return Sample(f"s{steps:04d}", "task", "question", "A", (view,), picture())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = replace(document(WORDS, 0, charts=False), samples=(planted(3), planted(1)))
    file = tmp_path_factory.mktemp("viewer") / "made.html"
    file.write_text(render(made), encoding="utf-8")
    return file


def pixels(browser: Any) -> np.ndarray:
    address = browser.execute_script("return document.querySelector('.view canvas').toDataURL()")
    image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA")
    return np.asarray(image, np.int64)


def cell(image: np.ndarray, row: int, column: int) -> list[int]:
    """The colour a quarter from the cell's corner, clear of its sign and of lines at its edges."""
    size = SIDE // GRID
    found: list[int] = image[row * size + size // 4, column * size + size // 4].tolist()
    return found


def live(browser: Any) -> str:
    return str(browser.find_element(By.ID, "live").text)


def label(browser: Any) -> str:
    return str(browser.find_element(By.CSS_SELECTOR, ".view canvas").get_attribute("aria-label"))


def choose(browser: Any, mode: str) -> None:
    """Go to a way of showing by the arrow keys, as one does with radio buttons."""
    for _ in range(3):
        chosen = browser.find_element(By.CSS_SELECTOR, ".show input:checked")
        if chosen.get_attribute("value") == mode:
            return
        chosen.send_keys(Keys.ARROW_RIGHT)
    raise AssertionError(f"{mode} can't be reached by keyboard")


def test_change_is_signed_centred_on_zero_and_clear_outside_both_windows(browser: Any, page: Path) -> None:
    visit(browser, page)
    choose(browser, "change")
    assert "The first step has no step before it" in live(browser) and "none" in label(browser)
    assert not browser.find_element(By.CSS_SELECTOR, ".bar").is_displayed()
    assert cell(pixels(browser), 1, 1)[3] == 0
    browser.find_element(By.ID, "step").send_keys(Keys.ARROW_RIGHT)
    image = pixels(browser)
    more, less, little, outside = (cell(image, *place) for place in ((4, 5), (1, 1), (2, 1), (3, 5)))
    assert more[:3] == [0xB2, 0x18, 0x2B] and more[3] == round(255 * 0.82)
    assert less[2] > less[0] and less[3] == pytest.approx(255 * 0.82 * 0.6, abs=2)
    assert little[3] == pytest.approx(255 * 0.82 * 0.1, abs=2) and outside[3] == 0
    assert live(browser).startswith("Step 2 of 3, change since the step before.")
    assert "from −60.0 points to +100 points" in live(browser) and "+100 points" in label(browser)
    words = browser.find_element(By.CSS_SELECTOR, ".bar").text
    assert "−100 points" in words and "+100 points of attention" in words
    assert "rgb(178, 24, 43)" in browser.execute_script("return document.querySelector('.ramp').style.background")
    # Signs stand in what changed much: a bar across, and one up where there is more.
    size = SIDE // GRID
    middle = {
        place: image[place[0] * size + size // 2, place[1] * size + size // 2, :3].max() for place in ((4, 5), (1, 1))
    }
    above = {
        place: image[place[0] * size + size // 2 - 5, place[1] * size + size // 2, :3].tolist()
        for place in ((4, 5), (1, 1))
    }
    assert max(middle.values()) < 40 and max(above[4, 5]) < 40 and max(above[1, 1]) > 80


def test_outlines_go_around_half_and_nine_tenths_of_the_attention(browser: Any, page: Path) -> None:
    visit(browser, page)
    choose(browser, "outline")
    assert "Step 1 of 3, outlines of 50 % and 90 %." in live(browser)
    assert "50 % lies in 1 cells, 90 % in 2" in live(browser) and "50 % lies in 1 cells" in label(browser)
    assert not browser.find_element(By.CSS_SELECTOR, ".bar").is_displayed()
    image = pixels(browser)
    size = SIDE // GRID
    dark = (image[..., :3].max(-1) < 60) & (image[..., 3] > 200)

    def share(rows: slice, columns: slice) -> float:
        return float(dark[rows, columns].any(0 if rows.stop - rows.start < columns.stop - columns.start else 1).mean())

    def edge(at: int) -> slice:
        return slice(at * size - 2, at * size + 2)

    one, two = slice(size + 4, 2 * size - 4), slice(2 * size + 4, 3 * size - 4)
    assert share(one, edge(2)) > 0.95, "a whole line between the cell with half and its neighbour"
    assert 0.1 < share(one, edge(3)) < 0.8, "a dotted line behind the second cell"
    assert 0.1 < share(edge(1), two) < 0.8 and share(edge(3), one) == 0, "none around the third"
    assert not image[size + 10 : 2 * size - 10, size + 10 : 2 * size - 10, 3].any(), "nothing hides the picture"


def test_changes_have_one_scale_or_each_its_own_and_smoothing_leaves_no_window(browser: Any, page: Path) -> None:
    visit(browser, page)
    choose(browser, "change")
    smooth, own = browser.find_elements(By.CSS_SELECTOR, ".controls input[type=checkbox]")
    browser.find_element(By.ID, "step").send_keys(Keys.ARROW_RIGHT)
    smooth.send_keys(Keys.SPACE)
    image, size = pixels(browser), SIDE // GRID
    assert image[4 * size + 8, 5 * size + size // 2 - 10, 3] > 50, "the strong cell at the window's edge"
    # The row above it is in neither window; nothing flows into it, the frame's line apart.
    assert not image[3 * size : 4 * size - 8, 5 * size : 6 * size, 3].any()
    smooth.send_keys(Keys.SPACE)
    browser.find_element(By.ID, "step").send_keys(Keys.END)
    assert cell(pixels(browser), 4, 5)[3] == pytest.approx(255 * 0.82 * 0.2, abs=2)
    assert "+100 points" in browser.find_element(By.CSS_SELECTOR, ".bar").text
    own.send_keys(Keys.SPACE)
    assert cell(pixels(browser), 4, 5)[3] == pytest.approx(255 * 0.82, abs=2)
    assert "+20" in browser.find_element(By.CSS_SELECTOR, ".bar").text


def test_smooth_and_own_scale_are_said_and_redrawn(browser: Any, page: Path) -> None:
    visit(browser, page)
    for mode in ("map", "change", "outline"):
        choose(browser, mode)
        browser.find_element(By.ID, "step").send_keys(Keys.END)
        before = pixels(browser)
        smooth, own = browser.find_elements(By.CSS_SELECTOR, ".controls input[type=checkbox]")
        smooth.send_keys(Keys.SPACE)
        assert ", smooth" in live(browser)
        assert (pixels(browser) != before).any(), mode
        smooth.send_keys(Keys.SPACE)
        assert (pixels(browser) == before).all() and ", smooth" not in live(browser)
        own.send_keys(Keys.SPACE)
        assert (", each step on its own scale" in live(browser)) == (mode != "outline")
        own.send_keys(Keys.SPACE)


def test_what_is_shown_stays_from_sample_to_sample_where_it_can(browser: Any, page: Path) -> None:
    visit(browser, page)
    choose(browser, "outline")
    browser.execute_script("location.hash = '#s0001'")
    values = [one.get_attribute("value") for one in browser.find_elements(By.CSS_SELECTOR, ".show input")]
    assert values == ["map", "outline"], "one step has no step before it"
    assert browser.find_element(By.CSS_SELECTOR, ".show input:checked").get_attribute("value") == "outline"
    browser.execute_script("location.hash = '#s0003'")
    choose(browser, "change")
    browser.execute_script("location.hash = '#s0001'")
    assert browser.find_element(By.CSS_SELECTOR, ".show input:checked").get_attribute("value") == "map"
    assert errors(browser) == []


def test_the_group_is_named_and_axe_finds_nothing(browser: Any, page: Path) -> None:
    visit(browser, page)
    for mode in ("change", "outline"):
        choose(browser, mode)
        for scheme in ("light", "dark"):
            emulate(browser, scheme)
            assert violations(browser) == []
    assert browser.find_element(By.CSS_SELECTOR, ".show legend").text == "Show"


def test_outlines_are_printed(browser: Any, page: Path) -> None:
    visit(browser, page)
    choose(browser, "outline")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    shown = browser.execute_script("return document.querySelector('.view canvas').getBoundingClientRect().width")
    legend = browser.find_element(By.CSS_SELECTOR, ".legend").text
    hidden = browser.execute_script("return getComputedStyle(document.querySelector('.controls')).display")
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert shown > 100 and "Heavy line" in legend and hidden == "none" and printed.startswith(b"%PDF")


def test_views_without_maps_offer_no_choice(browser: Any, page: Path, tmp_path: Path) -> None:
    view = View("plain", "A", True, "", (Step("step 1 of 2", text="a"), Step("step 2 of 2", text="b")))
    made = replace(document(WORDS, 0, charts=False), samples=(Sample("s0000", "t", "q", "A", (view,), picture()),))
    file = tmp_path / "plain.html"
    file.write_text(render(made), encoding="utf-8")
    visit(browser, file)
    assert browser.find_elements(By.CSS_SELECTOR, ".show") == [] and live(browser).startswith("Step 1 of 2. ")
    assert errors(browser) == []
