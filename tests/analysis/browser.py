"""Headless Chromium for tests of reports: what a page asks for, what it says to the console, what axe objects to."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="Chromium or its driver is missing (apt-get install chromium chromium-driver)"
)


@functools.lru_cache(maxsize=1)
def axe() -> str:
    """The checker's source; read from its package without importing it, which would need a browser of its own."""
    files = metadata.files("axe-playwright-python") or []
    found = [file for file in files if file.name == "axe.min.js"]
    return Path(str(found[0].locate())).read_text(encoding="utf-8")


@contextmanager
def chromium() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in ("--headless=new", "--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1300,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(110)  # axe takes half a minute for the longest page, and more beside other tests
    try:
        yield driver
    finally:
        driver.quit()


def emulate(browser: Any, scheme: str = "light", width: int = 1300) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def visit(browser: Any, page: Path, anchor: str = "") -> list[str]:
    """Open a page; return every address that it asked for beside itself."""
    browser.get("about:blank")
    emulate(browser)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri() + anchor)
    return asked(browser, page, least=1)


def asked(browser: Any, page: Path, least: int = 0) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert len(sent) >= least, "the network is not recorded, so the test would see nothing"
    known = (page.as_uri(), "about:", "data:")
    return [address for address in sent if not address.startswith(known)]


def errors(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def violations(browser: Any, *rules: str) -> list[str]:
    """What axe objects to, by all its rules or by some."""
    browser.execute_script(axe())
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = list(rules)
    script = "const [options, done] = arguments; axe.run(options).then(done);"
    found = browser.execute_async_script(script, options)
    assert len(found["passes"]) >= (len(rules) or 16), "the rules were not run"
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


_THIN = """
    const shapes = new Map();
    for (const row of document.querySelectorAll("tbody > tr")) {
        const shape = row.outerHTML.replace(/>[^<]+</g, (text) => text.slice(1, -1).trim() ? ">x<" : "><");
        const seen = shapes.get(row.parentNode) ?? shapes.set(row.parentNode, {}).get(row.parentNode);
        seen[shape] = (seen[shape] ?? 0) + 1;
        if (seen[shape] > 2) row.remove();
    }
    return document.querySelectorAll("tbody > tr").length;
"""


def thin(browser: Any) -> int:
    """Leave two rows of each shape in every table; returns how many there are.

    Rows of a shape differ in their text alone, so axe says the same of all of them; its time grows with their square.
    """
    return int(browser.execute_script(_THIN))
