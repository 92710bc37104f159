"""From a document to one HTML file that needs nothing beside it."""

from __future__ import annotations

from html import escape

from analysis.report.document import Document

__all__ = ["render"]


def render(document: Document) -> str:
    """Render a report.

    Args:
        document: What it says.

    Returns:
        HTML; the same document gives the same text, also after a way through JSON.
    """
    document = Document.from_json(document.to_json())
    return f"<!doctype html><html lang=en><title>{escape(document.title)}</title><p>{escape(document.verdict)}</html>\n"
