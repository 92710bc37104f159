"""Contents of chat messages: plain text with ``<image>``, or lists of image and text parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers.image_utils import load_image

__all__ = ["IMAGE_PLACEHOLDER", "flatten", "parts_of", "text_part"]

IMAGE_PLACEHOLDER = "<image>"


def parts_of(content: Any) -> Any:
    """A message's text as the parts that chat templates of vision-language models loop over."""
    if not isinstance(content, str):
        return content
    before, image, after = content.partition(IMAGE_PLACEHOLDER)
    if not image:
        return text_part(content)
    parts = [*text_part(before), {"type": "image"}, *text_part(after.removeprefix("\n"))]
    return [part for part in parts if part.get("text", "?")]


def text_part(text: str) -> list[dict[str, str]]:
    """A text as the only part of a message's content."""
    return [{"type": "text", "text": text}]


def flatten(content: Any, images: list[Any], escape: Callable[[str], str]) -> str:
    """Write a message's parts as one text with `<image>` in place of images, which are collected in `images`."""
    if isinstance(content, str):
        return IMAGE_PLACEHOLDER.join(map(escape, content.split(IMAGE_PLACEHOLDER)))
    pieces = []
    for part in content or []:
        if part.get("type") == "image":
            source = next((part[key] for key in ("image", "url", "path") if part.get(key) is not None), None)
            if source is not None:
                images.append(load_image(source) if isinstance(source, str) else source)
            pieces.append(IMAGE_PLACEHOLDER)
        else:
            pieces.append(escape(str(part.get("text", ""))))
    return "\n".join(pieces)
