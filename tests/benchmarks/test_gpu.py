"""The accelerator's script runs on a processor at tiny sizes, and no code names a kind of device."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.fx.experimental._config

from benchmarks import gpu
from lare.model import LareForConditionalGeneration

ROOT = Path(__file__).parents[2]


def test_parts_run_small(tmp_path: Path) -> None:
    words = ["placement", "capture", "train", "resume", "--small", "--device", "cpu", "--out", str(tmp_path)]
    assert gpu.main(words) == 0
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    parts = content["parts"]
    assert list(parts) == words[:4] and content["small"]
    assert parts["placement"]["right"] and parts["placement"]["cache"] == ["cpu float32"]
    assert set(parts["placement"]["weights"]) <= {"cpu float32", "cpu int64"}
    assert parts["resume"]["bit by bit"] and parts["resume"]["largest difference"] == 0
    assert parts["train"]["adapters"]["trained"] < parts["train"]["all weights"]["trained"]


@pytest.mark.slow
def test_every_part_runs_small(tmp_path: Path) -> None:
    assert gpu.main(["--small", "--device", "cpu", "--out", str(tmp_path)]) == 0
    parts = json.loads(next(tmp_path.iterdir()).read_text())["parts"]
    assert list(parts) == list(gpu.PARTS)
    assert parts["generate"]["batch 2"]["LaRe K=4 tokens/s"] > 0 and parts["compiled"]["compiled"] > 0


def test_a_part_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: gpu.Setting) -> dict[str, object]:
        raise RuntimeError("no such kernel\nmore")

    monkeypatch.setitem(gpu.PARTS, "capture", broken)
    assert gpu.main(["capture", "placement", "--small", "--device", "cpu", "--out", str(tmp_path)]) == 1
    parts = json.loads(next(tmp_path.iterdir()).read_text())["parts"]
    assert parts["capture"]["failed"] == "RuntimeError: no such kernel" and parts["placement"]["right"]


def test_no_part_begins_after_its_time(tmp_path: Path) -> None:
    words = ["placement", "--small", "--device", "cpu", "--minutes", "-1", "--out", str(tmp_path)]
    assert gpu.main(words) == 0
    assert "left out" in json.loads(next(tmp_path.iterdir()).read_text())["parts"]["placement"]


@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_a_training_step_stays_on_whatever_device_it_is_put(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without numbers: those of `meta`, and fakes of a card that is not there, which refuse a mix of two.

    They can't say where image tokens stand, nor that nothing is padded, so the test does.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    from benchmarks.models import lare_config

    def slots(ids: torch.Tensor, _: int, count: int, __: object = None) -> torch.Tensor:
        return torch.arange(8, 8 + count, device=ids.device).expand(len(ids), -1)

    monkeypatch.setattr("lare.model.reading.image_slots", slots)
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: True)
    every: Any = torch.fx.experimental._config.patch(meta_nonzero_assume_all_nonzero=True)
    made: dict[str, torch.Tensor] = {}
    with every if device == "meta" else FakeTensorMode():
        with torch.device(device):
            model = LareForConditionalGeneration(lare_config(gpu._TINY, text_config=gpu.text_config(gpu._TINY))).train()
            ids, side = torch.ones(2, 6, dtype=torch.long), model.config.image_size
            pixels = torch.zeros(2, 3, side, side)
            prompt = torch.zeros(2, 16 + model.config.lm_grid**2, dtype=torch.long)
        # From here on nothing says where new tensors go. Numbers tell how many tokens are targets; a fake has none.
        targets = dict(target_ids=ids, prefix_ids=ids[:, :3]) if device == "meta" else {}
        out = model(prompt, pixel_values=pixels, iterations=2, **targets)
        assert out.thoughts is not None
        made |= {"latents": out.thoughts.latents, "windows": out.thoughts.windows, "saliency": out.thoughts.saliency}
        losses = [one[0] for one in (out.lm_loss, out.prefix_loss) if one is not None]
        assert len(losses) == len(targets)
        made |= {f"loss {number}": one for number, one in enumerate(losses)}
        if device == "meta":  # torch asks a card's driver for the way back
            sum(losses, out.thoughts.latents.sum()).backward()
            made["gradient"] = model.projector.linear_1.weight.grad
    assert {name: value.device.type for name, value in made.items()} == dict.fromkeys(made, device)


def hard_coded(path: Path) -> list[int]:
    """Lines that move something to a kind of device by its name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        given = [one for one in node.args if called in ("to", "device", "autocast", "Generator")]
        given += [word.value for word in node.keywords if word.arg in ("device", "map_location")]
        words = {str(one.value).partition(":")[0] for one in given if isinstance(one, ast.Constant)}
        if called == "cuda" or "cuda" in words:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("place", ["lare", "lare_eval", "analysis", "benchmarks"])
def test_no_kind_of_device_is_named(place: str) -> None:
    found = {str(path): lines for path in (ROOT / place).rglob("*.py") if (lines := hard_coded(path))}
    assert not found


def test_a_named_device_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text('model.to("cuda")\nx.cuda()\ntorch.zeros(2, device="cuda:0")\n')
    assert hard_coded(tmp_path / "x.py") == [1, 2, 3]
