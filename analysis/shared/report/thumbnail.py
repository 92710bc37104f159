"""The small picture on a report's card in the index: its first figure, or its first sample's pictures."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import replace

import numpy as np
from PIL import Image, UnidentifiedImageError

from analysis.shared.plots import small
from analysis.shared.report.document import Document, Figure, Picture, Step, View

__all__ = ["STEP_COLOURS", "thumbnail"]

STEP_COLOURS = ("#e0a800", "#1f77d0", "#8c4b1f", "#8a3fb8", "#d0417a", "#2a9d5c", "#0d8a8a", "#d0602a")
"""A colour for each latent step, as in colours.js: yellow, blue, brown and purple are those of the paper's Fig. 3."""

SIDE, TILES, LINES, COLOURS = 300, 2, 5, 48


def thumbnail(document: Document) -> str:
    """A PNG, base64; empty for a report without figures and pictures."""
    picture = _pictures(document) if document.lead == "samples" else None
    if picture is None:
        if not document.figures:
            return ""
        picture = Image.open(io.BytesIO(small(_few(document.figures[0])))).convert("RGB")
    buffer = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _few(figure: Figure) -> Figure:
    """The first few lines of a figure with a line for each label, so that they can be read on a card."""
    if figure.kind != "intervals":
        return figure
    series = tuple(
        replace(one, x=one.x[:LINES], y=one.y[:LINES], low=one.low[:LINES], high=one.high[:LINES])
        for one in figure.series
    )
    return replace(figure, series=series)


def _pictures(document: Document) -> Image.Image | None:
    """The first sample's first steps side by side; None where it has no pictures."""
    for sample in document.samples:
        tiles = []
        for view, step in _steps(sample.views):
            image = _read(step.picture or sample.picture)
            if image is not None:
                tiles.append(image if step.picture else _mapped(image, view, step))
        if len(tiles) == TILES:
            made = Image.new("RGB", (TILES * SIDE + 10 * (TILES - 1), SIDE), "white")
            for place, tile in enumerate(tiles):
                made.paste(tile, (place * (SIDE + 10), 0))
            return made
    return None


def _steps(views: tuple[View, ...]) -> list[tuple[View, Step]]:
    """The first view's first two steps, or the first step of two views where a step has a picture of its own."""
    if views and views[0].steps and views[0].steps[0].picture:
        return [(view, view.steps[0]) for view in views if view.steps][:TILES]
    return [(view, step) for view in views[:1] for step in view.steps][:TILES]


def _read(picture: Picture | None) -> Image.Image | None:
    if picture is None:
        return None
    try:
        image = Image.open(io.BytesIO(base64.b64decode(picture.data)))
        return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError):
        return None


def _mapped(image: Image.Image, view: View, step: Step) -> Image.Image:
    """A picture under a step's map, in the step's colour, as strong as the attention."""
    raw = np.frombuffer(base64.b64decode(step.map), np.uint8) if step.map else np.zeros(0, np.uint8)
    if not view.grid or raw.size != view.grid**2:
        return image
    mask = Image.fromarray((0.82 * raw.reshape(view.grid, view.grid)).astype(np.uint8))
    colour = STEP_COLOURS[view.steps.index(step) % len(STEP_COLOURS)]
    shown = image.copy()
    shown.paste(Image.new("RGB", image.size, colour), (0, 0), mask.resize(image.size, Image.Resampling.NEAREST))
    return shown
