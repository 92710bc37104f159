"""README, docs/ and the changelog say what is there: commands, settings, modules, files, links."""

import importlib
import re
from pathlib import Path

import pytest
import yaml

import lare

ROOT = Path(__file__).parents[2]
PAPERS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = PAPERS + sorted((ROOT / "docs").rglob("*.md"))

pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="runs in a checkout only")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def named(page: Path) -> str:
    """How a page is called in a test's name."""
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and Python-Markdown make them."""
    heads = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_readme_is_a_front_door():
    readme = text_of(ROOT / "README.md")
    assert len(readme.splitlines()) <= 150
    assert all(word in readme for word in ("docs/assets/loop.svg", "make demo", "make test", "lare ask", "lare train"))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist(page):
    from lare.cli import _COMMANDS

    text = text_of(page)
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    assert set(re.findall(r"(?:^|`)lare ([a-z-]+)", text, re.MULTILINE)) <= set(_COMMANDS)
    for module in re.findall(r"python -m ((?:lare|lare_eval|analysis|benchmarks)(?:\.\w+)*)", text):
        assert module.endswith(".NAME") or importlib.util.find_spec(module), module


def test_settings_exist():
    settings = re.findall(r"LareConfig\.(\w+) = ([^`,]+)`", text_of(ROOT / "docs" / "paper.md"))
    assert len(settings) > 8
    config = lare.LareConfig()
    for name, value in settings:
        if value != "false":  # another value than the default, for a row of Table 3
            assert str(getattr(config, name)).lower() == value.strip('"'), name


def resolved(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    words = name.split(".")
    for end in range(len(words), 0, -1):
        try:
            found = importlib.import_module(".".join(words[:end]))
        except ModuleNotFoundError:
            continue
        for word in words[end:]:
            if not hasattr(found, word):
                return False
            found = getattr(found, word)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_names_and_paths_exist(page):
    text = text_of(page)
    for name in re.findall(r"(?:`|^::: )((?:lare|lare_eval|analysis)(?:\.\w+)+)(?:`|$)", text, re.MULTILINE):
        assert resolved(name), name
    for path in re.findall(r"`((?:lare|lare_eval|analysis|reports|tests|benchmarks|docs)/[\w./-]*\w)/?`", text):
        assert "NAME" in path or (ROOT / path).exists(), path


def test_site_lists_every_page():
    listed = set(re.findall(r"(\S+\.md)$", text_of(ROOT / "mkdocs.yml"), re.MULTILINE))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}


@pytest.mark.parametrize("words", [
    "regressed onto", "encoder trained on the world's own labels", "mimetic start of the decoder",
    "mimetic start of the extractor", "muon", "bf16", "ffn", "normalised before the u-net", "image.prediction",
    "image.cells", "losses.look", "`fetch`",
])  # fmt: skip
def test_beyond_the_paper_lists_what_helped(words):
    assert words in text_of(ROOT / "docs" / "paper.md").partition("## Beyond the paper")[2].lower()


@pytest.mark.parametrize(
    "word",
    ["*look*", "*fetch*", "*way*", "**fine tokens", "**lift**", "*row*", "**start**", "**mimetic start**", "**spent**",
     "**backbone**", "**intervention**", "**bank**", "**mark**", "**preset, block, slot**"],
)  # fmt: skip
def test_glossary_defines_the_projects_own_words(word):
    assert word in text_of(ROOT / "docs" / "glossary.md").lower()


def test_changelog_knows_this_version():
    assert f"## [{lare.__version__}]" in text_of(ROOT / "CHANGELOG.md")


def test_hooks_run_what_make_check_runs():
    hooks = yaml.safe_load(text_of(ROOT / ".pre-commit-config.yaml"))["repos"][0]["hooks"]
    entries = " ".join(hook["entry"] for hook in hooks)
    plan = re.search(r"^check:.*\n((?:\t.*\n)+)", text_of(ROOT / "Makefile"), re.MULTILINE)
    for line in plan[1].strip().splitlines():
        command = line.strip().removeprefix("$(PY) -m ").removesuffix(" .")
        assert command in entries, command
