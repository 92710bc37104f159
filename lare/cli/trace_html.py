"""The page of ``lare ask --trace``: for each latent step, where the model's attention lay and which window it took.

One file that needs nothing else: pictures are inline PNG data, there is no script, and a content security policy
forbids the page everything but its own style (by hash) and its own pictures.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from lare.files import write_whole

if TYPE_CHECKING:
    from lare.cli.reply import Reply
    from lare.methods.base import Method
    from lare.model import LareConfig

__all__ = ["draw_step", "picture_of", "render_page", "seen_by", "write_trace"]

_SIDE = 336  # pixels of a drawn picture
_HEAT = np.array([255, 96, 0], np.float64)
_FRAME = (0, 120, 255)

# Text on the page comes from data and models. Any of it may break anywhere, no table's column follows its content,
# and what can't be broken at all (a letter with thousands of marks) is cut off where its own box ends.
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff;
overflow-wrap:anywhere}
h1{font-size:1.4rem}.steps{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;width:336px;max-width:100%;min-width:0}
img{width:100%;height:auto;image-rendering:pixelated}figcaption{font-size:.85rem;color:#444}
table{border-collapse:collapse;table-layout:fixed;width:100%;margin:1rem 0}
th,td{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}th{width:8.5rem}
pre{white-space:break-spaces;background:#f4f4f4;padding:.6rem}
td,figcaption,pre{overflow:clip;unicode-bidi:isolate}
@media(max-width:30rem){th{width:6.5rem}}
@media(prefers-color-scheme:dark){body{background:#161616;color:#eee}figcaption{color:#bbb}pre{background:#242424}}
"""


def seen_by(method: Method, image: Image.Image) -> Image.Image:
    """Return `image` as the method's processor hands it to the model: cropped and squeezed as that demands.

    Where the model cuts it into patches or tiles, it is the picture itself, with its proportions.
    """
    processor = method.processor.image_processor
    pixels = method.processor.family.pictures(method.processor, [image])[0]["pixel_values"]
    if pixels.dim() == 4:
        return picture_of(np.asarray(pixels)[0], processor)
    scale = _SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


def picture_of(pixels: npt.NDArray[np.floating[Any]], image_processor: Any) -> Image.Image:
    """Return the picture that the model saw: pixel values (3, H, W) with the processor's normalisation undone."""
    mean = np.asarray(getattr(image_processor, "image_mean", None) or [0.0] * 3).reshape(3, 1, 1)
    std = np.asarray(getattr(image_processor, "image_std", None) or [1.0] * 3).reshape(3, 1, 1)
    values = np.clip((pixels * std + mean) * 255.0, 0, 255).round().astype(np.uint8)
    return Image.fromarray(values.transpose(1, 2, 0)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)


def draw_step(
    seen: Image.Image,
    saliency: npt.NDArray[np.floating[Any]],
    corner: tuple[int, int],
    window: int,
    grid: int | tuple[int, int],
) -> Image.Image:
    """Lay the saliency over the picture as warmth and frame the window.

    Args:
        seen: The picture.
        saliency: Attention from the last position to each visual token on its grid; only proportions matter.
        corner: Row and column of the window's top left cell on the fine grid.
        window: The window's side in cells of the fine grid.
        grid: Cells a side of the fine grid, or its rows and columns.
    """
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    peak = float(saliency.max()) or 1.0
    heat = Image.fromarray((saliency / peak * 255).astype(np.uint8)).resize(seen.size, Image.Resampling.NEAREST)
    alpha = np.asarray(heat, np.float64)[..., None] / 255 * 0.65
    drawn = Image.fromarray(((1 - alpha) * np.asarray(seen, np.float64) + alpha * _HEAT).astype(np.uint8))
    tall, wide = seen.height / rows, seen.width / columns
    top, left = corner[0] * tall, corner[1] * wide
    bottom, right = (corner[0] + min(window, rows)) * tall, (corner[1] + min(window, columns)) * wide
    box = (left, top, right - 1, bottom - 1)
    ImageDraw.Draw(drawn).rectangle(box, outline=_FRAME, width=3)
    return drawn


def render_page(question: str, reply: Reply, figures: list[tuple[Image.Image, str]]) -> str:
    """Return the whole page; every text on it is escaped.

    Args:
        question: What was asked.
        reply: What was answered, with its token counts and times.
        figures: Pictures and their captions, in reading order.
    """
    seconds = ", ".join(f"{phase} {value:.3f}" for phase, value in reply.seconds.items())
    rows = {
        "Question": question,
        "Answer": reply.answer,
        "Latent steps": f"{reply.latent_steps} ({reply.stop_reason})",
        "Text tokens": str(reply.output_tokens),
        "Seconds": seconds,
        "Checkpoint": reply.checkpoint,
    }
    table = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items()
    )
    shown = "".join(_figure(picture, caption) for picture, caption in figures)
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(question)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>How this answer was reached</h1><table>{table}</table>"
        f'<div class="steps">{shown}</div><h2>What was written</h2><pre>{html.escape(reply.text)}</pre>'
        "</body></html>\n"
    )


def write_trace(
    path: Path,
    question: str,
    reply: Reply,
    seen: Image.Image,
    arrays: Mapping[str, npt.NDArray[Any]],
    config: LareConfig,
) -> None:
    """Write the page of one answer.

    Args:
        path: HTML file to write.
        question: What was asked.
        reply: What was answered.
        seen: The picture that the model saw.
        arrays: The answer's "saliency" (K, g, g), "windows" (K, 2) and "cross_attention" (K, n), as in a trace; a
            method without them gets no picture of its steps.
        config: The model's configuration.

    Raises:
        LareError: If the file can't be written.
    """
    figures = [(seen, "What the model saw")]
    looked_at = np.shape(arrays.get("cross_attention", ()))  # a method may have another window than its model
    window = math.isqrt(looked_at[-1]) if len(looked_at) == 2 else config.window if config.use_window else config.grid
    for step in range(min(reply.latent_steps, len(arrays.get("saliency", ())))):
        saliency = np.asarray(arrays["saliency"][step], np.float64)
        top, left = (int(value) for value in arrays["windows"][step])
        own = getattr(config, "backbone_config", None) is not None  # then each picture has a grid of its own size
        grid = saliency.shape if own else (config.grid, config.grid)
        rows, columns = (min(window, side) if own else window for side in grid)
        of = str(grid[0]) if grid[0] == grid[1] else f"{grid[0]} x {grid[1]}"
        caption = (
            f"Latent step {step + 1}: warm = attention to the image (its strongest token has "
            f"{saliency.max() / (saliency.sum() or 1.0):.0%} of it); frame = the {rows} x {columns} window looked at "
            f"again, rows {top} to {top + rows - 1} and columns {left} to {left + columns - 1} of {of}"
        )
        figures.append((draw_step(seen, saliency, (top, left), window, (grid[0], grid[1])), caption))
    write_whole(path, render_page(question, reply, figures), "give another path for --trace", make=False)


def _figure(picture: Image.Image, caption: str) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=4)
    data = base64.b64encode(file.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
