"""Vision-language models in the plug-in: a trained folder and a publisher's own answer, alike in every batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lare.backbones.adopt import adopt
from lare.methods import load_method
from lare.trace import TraceReader
from tests.backbones.vlms import NATIVE, SETTINGS, SIZES, picture, write_vlm

from .conftest import make_rows, requests_for


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "smolvlm"])
def test_same_replies_at_every_batch_size(kind: str, adapter_of: Any, tmp_path: Path) -> None:
    """The plain answer, and latents with their traces, about pictures of several sizes."""
    plain = write_vlm(kind, tmp_path / "plain")
    model, processor = adopt(str(plain), SETTINGS)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "lare")
    tables = {"pope": make_rows(5)}
    for number, row in enumerate(tables["pope"]):
        row["image"] = picture(*SIZES[number % 3], seed=number)
    for name, place in (("llava", plain), ("lare", tmp_path / "lare")):
        replies = []
        for size in (1, 3):
            adapter = adapter_of(load_method(name, str(place), "cpu"), tables, batch_size=size, max_new_tokens=4)
            replies.append(adapter.generate_until(requests_for(tables)))
        assert replies[0] == replies[1]
    trace = tmp_path / "trace"
    adapter = adapter_of(load_method("lare", str(tmp_path / "lare"), "cpu"), tables, trace=str(trace), max_new_tokens=2)
    adapter.generate_until(requests_for(tables))
    shapes = TraceReader(trace).column("saliency").shapes
    assert (len(set(shapes)) > 1) == (kind in NATIVE) and all(shape[0] == SETTINGS["iterations"] for shape in shapes)
