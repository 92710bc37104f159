"""Numbers of README and docs/ are those of the files under reports/."""

import importlib.util
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / "docs" / "tables.py").exists(), reason="runs in a checkout only")


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stale(tables):
    """Pages that filling again would change."""
    pages = {page: page.read_text(encoding="utf-8") for page in tables.pages()}
    return [page.name for page, text in pages.items() if tables.fill(text, page.name) != text]


def once(function):
    """A block that is written once for each folder of reports: some draw thousands of samples."""
    written = {}

    def write(reports):
        if reports.folder not in written:
            written[reports.folder] = function(reports)
        return written[reports.folder]

    return write


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The pages' figures; where `make demo` has written its own reports since, those of the last commit count."""
    module = load("tables")
    module.BLOCKS = {name: once(function) for name, function in module.BLOCKS.items()}
    if stale(module) and (ROOT / ".git").exists():
        archive = subprocess.run(
            ["git", "archive", "HEAD", "reports"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        folder = tmp_path_factory.mktemp("committed")
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            packed.extractall(folder, filter="data")
        module.REPORTS = folder / "reports"
    return module


def test_filling_again_changes_nothing(tables):
    assert not stale(tables), "out of date; run make tables"


def test_a_changed_figure_is_put_right(tables):
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    wrong = page.replace("87.7 %", "97.7 %")
    assert wrong != page and tables.fill(wrong) == page


def test_every_block_is_used_and_closed(tables):
    text = "".join(page.read_text(encoding="utf-8") for page in tables.pages())
    starts = re.findall(r"<!-- (?:table|text) ([a-z0-9-]+) -->", text)
    assert set(starts) == set(tables.BLOCKS) and text.count("<!-- end -->") == len(starts)


def test_no_sentence_begins_a_line_with_its_mark(tables):
    """Markdown takes such a line for HTML and ends the paragraph or list that it stands in."""
    for page in tables.pages():
        assert not re.search(r"^ *<!-- (?:text|end)[^>]*-->[^\n]", page.read_text(encoding="utf-8"), re.MULTILINE), page


def test_an_unknown_block_is_refused(tables):
    with pytest.raises(SystemExit, match="nothing writes the block 'no-such'"):
        tables.fill("<!-- table no-such -->\n<!-- end -->", "page.md")


def test_the_demo_table_is_the_summary(tables):
    cells = json.loads((ROOT / "reports" / "demo" / "summary.json").read_text())["cells"]
    lines = tables.BLOCKS["demo-full"](tables.Reports(tables.REPORTS)).splitlines()
    row = next(line for line in lines if line.startswith("| `lare_mini_pope`"))
    want = {cell["setting"]: f"{100 * cell['accuracy']:.1f} %" for cell in cells if cell["task"] == "lare_mini_pope"}
    assert [cell.strip() for cell in row.split("|")[3:-1]] == [want[one] for one in tables.demo.SETTINGS]


def test_check_tells_and_changes_nothing(tables, monkeypatch, tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text("<!-- text demo-facts -->old<!-- end -->\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "BLOCKS", {"demo-facts": lambda reports: "new"})
    assert tables.main(["--check"]) == 1 and "old" in page.read_text()
    assert tables.main([]) == 0 and "new" in page.read_text()
    assert tables.main(["--check"]) == 0
    assert "README.md" in capsys.readouterr().out


def test_pictures_of_reports_are_small_and_all_there():
    screenshots = load("screenshots")
    for name in screenshots.REPORTS:
        assert 0 < (screenshots.SHOTS / f"{name}.png").stat().st_size <= screenshots.LIMIT


def test_pages_load_the_sites_own_script():
    from types import SimpleNamespace

    hook = load("offline")
    page = '<script src="https://unpkg.com/iframe-worker/shim"></script>'
    at = {url: hook.on_post_page(page, SimpleNamespace(url=url), None) for url in ("index.html", "api/model.html")}
    assert at["index.html"] == '<script src="assets/vendor/iframe-worker-shim.js"></script>'
    assert at["api/model.html"] == '<script src="../assets/vendor/iframe-worker-shim.js"></script>'
    assert hook.on_post_template(page, "404.html", None) == at["index.html"]
    assert (ROOT / "docs" / "assets" / "vendor" / "iframe-worker-shim.js").is_file()


@pytest.mark.slow
def test_the_site_builds_and_asks_for_nothing(tmp_path):
    pytest.importorskip("mkdocs")
    import subprocess
    import sys

    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={"PATH": "", "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe|source)\b[^>]*src="(?:https?:)?//', text), page
        assert not re.findall(r'<link\b[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*href="(?:https?:)?//', text), page
