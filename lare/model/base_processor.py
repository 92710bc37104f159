"""Processors of checkpoints that leave their tokenizer to their base (`lare.model.base_weights`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor

from lare.errors import LareError
from lare.model.base_weights import read_base, tokenizer_hash
from lare.registry import base_tokenizer_loader

__all__ = ["with_base_tokenizer"]

_SETTINGS = ("lm_grid", "backbone", "backbone_settings")


def with_base_tokenizer(kind: Any, given: Any) -> Any:
    """The processor of a checkpoint's folder, with the tokenizer of its base.

    Args:
        kind: Class of the processor.
        given: Folder or hub id.

    Returns:
        The processor; None where the checkpoint holds its tokenizer.

    Raises:
        LareError: If the base is missing or has another tokenizer.
    """
    place = os.fspath(given)
    base = read_base(place, {}) if os.path.isdir(place) else None
    if base is None or not base.tokenizer:
        return None
    settings, _ = kind.get_processor_dict(place)
    options = {name: settings[name] for name in _SETTINGS if settings.get(name) is not None}
    images = AutoImageProcessor.from_pretrained(place)
    template = Path(place, "chat_template.jinja").read_text(encoding="utf8")
    made = kind(images, base_tokenizer_loader()(base, place), template, **options)
    if tokenizer_hash(made.tokenizer) != base.tokenizer["sha256"]:
        raise LareError(f"the base of {place!r} is {base.name}, and its tokenizer is another one; {base.mend}")
    return made
