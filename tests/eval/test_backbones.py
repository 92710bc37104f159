"""Vision-language models in the plug-in and by ``lare ask``: a trained folder and a publisher's own answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lare.backbones.adopt import adopt
from lare.cli import main
from lare.methods import load_method
from lare.trace import TraceReader
from tests.backbones.vlms import FAMILIES, NATIVE, SETTINGS, SIZES, picture, write_vlm

from .conftest import make_rows, requests_for


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_folder_answers_everywhere(
    kind: str, adapter_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same replies at every batch size, plain and with latents and their traces; and one by the command line."""
    plain = write_vlm(kind, tmp_path / "plain")
    for part in adopt(str(plain), SETTINGS):
        part.save_pretrained(tmp_path / "lare")
    tables = {"pope": make_rows(3)}
    for number, row in enumerate(tables["pope"]):
        row["image"] = picture(*SIZES[number], seed=number)
    for name, place in (("llava", plain), ("lare", tmp_path / "lare")):
        method, replies = load_method(name, str(place), "cpu"), []
        for size in (1, 3):
            trace = {"trace": str(tmp_path / "trace")} if name == "lare" and size == 3 else {}
            adapter = adapter_of(method, tables, batch_size=size, max_new_tokens=3, **trace)
            replies.append(adapter.generate_until(requests_for(tables)))
        assert replies[0] == replies[1]
    shapes = TraceReader(tmp_path / "trace").column("saliency").shapes
    assert len(shapes) == 3 and all(shape[0] == SETTINGS["iterations"] for shape in shapes)
    assert (len(set(shapes)) > 1) == (kind in (*NATIVE, "llava_onevision"))
    picture(*SIZES[0]).save(tmp_path / "one.png")
    words = ["ask", str(tmp_path / "one.png"), "How many?", "--checkpoint", str(tmp_path / "lare")]
    words += ["--json", "--max-new-tokens", "2", "--option", "refocus_source=fine"]
    capsys.readouterr()
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["latent_steps"] == SETTINGS["iterations"]
