"""Renders a document as one HTML file that needs nothing beside it and asks for nothing.

Everything a document says is untrusted (questions, answers and file names come from data and models): jinja2 escapes
it, data stand in script elements of type JSON with every ``<`` escaped, and the page's own script sets text by
``textContent`` alone. The only markup that is passed through is what this package made: its style sheet, its scripts,
and the drawings of `analysis.shared.plots`, whose texts matplotlib escapes.
"""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from analysis.shared.plots import draw, numbers_of
from analysis.shared.report.document import Document, Sample
from analysis.shared.report.values import shown

__all__ = ["asset", "environment", "render"]

_HERE = Path(__file__).parent

STYLES = ("report.css", "maps.css")
"""The second is for the sample viewer alone."""

SCRIPTS = ("colours.js", "list.js", "outline.js", "stage.js", "maps.js", "viewer.js")


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """The templates' environment: everything is escaped, nothing undefined passes."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "sort_keys": True, "separators": (",", ":")}
    made.globals["shown"] = shown
    made.filters["breakable"] = _breakable
    return made


def _breakable(words: str) -> Markup:
    """Escaped text whose long words, such as paths, may go on in another line after a slash or an underscore."""
    return Markup(_LONG.sub(lambda found: re.sub("([/_])", r"\1<wbr>", found[0]), str(escape(words))))


_LONG = re.compile(r"[^\s<>]{25,}")


def asset(name: str) -> Markup:
    """A style sheet or script of this package, as it is."""
    return Markup((_HERE / "assets" / name).read_text(encoding="utf-8"))


def render(document: Document) -> str:
    """Render a report.

    Args:
        document: What it says.

    Returns:
        One HTML file; the same document gives the same bytes, also after a way through JSON.
    """
    document = _apart(Document.from_json(document.to_json()))
    mains = [table for table in document.tables if table.main] or list(document.tables[:1])
    drawn = [(figure, Markup(draw(figure)), numbers_of(figure)) for figure in document.figures]
    template = environment().get_template("report.html.j2")
    text = template.render(
        document=document,
        title=document.title,
        styles=Markup("").join(asset(name) for name in STYLES[: 2 if document.samples else 1]),
        scripts=Markup("\n").join(asset(name) for name in SCRIPTS),
        main_tables=mains,
        more_tables=[table for table in document.tables if table not in mains],
        first_figures=drawn[:1],
        more_figures=drawn[1:],
        index=[_row(sample) for sample in document.samples],
        details=[asdict(sample) for sample in document.samples],
    )
    return text if text.endswith("\n") else text + "\n"


@lru_cache(maxsize=1)
def _page_ids() -> frozenset[str]:
    """Ids that every page has by itself."""
    return frozenset(re.findall(r'\bid="([a-z-]+)"', (_HERE / "templates" / "report.html.j2").read_text("utf-8")))


def _apart(document: Document) -> Document:
    """The document with ids of tables and figures that occur once on the page; most stay as they are."""
    taken = set(_page_ids())

    def fresh(name: str, kind: str) -> str:
        ids = {f"{name}{end}" for end in ("", "-caption", "-title", "-desc", "-numbers", "-numbers-caption")}
        if ids & taken:
            return fresh(f"{name}-{kind}", kind)
        taken.update(ids)
        return name

    tables = tuple(replace(one, id=fresh(one.id, "table")) for one in document.tables)
    figures = tuple(replace(one, id=fresh(one.id, "figure")) for one in document.figures)
    return replace(document, tables=tables, figures=figures)


def _row(sample: Sample) -> dict[str, Any]:
    """What the table of samples shows; the rest is read when a sample is opened."""
    return {
        "id": sample.id,
        "task": sample.task,
        "question": sample.question,
        "target": sample.target,
        "chosen": sample.chosen,
        "facts": dict(sample.facts),
        "views": [{"name": view.name, "answer": view.answer, "right": view.right} for view in sample.views],
    }
