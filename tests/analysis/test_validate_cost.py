"""FLOPs of the suite against those of its answers one by one, on the shipped model's shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.validate.cost import main, suite_flops
from lare.cost.flops import answer_work
from tests.methods.tiny_checkpoint import tiny_parts


def test_the_suite_costs_what_its_settings_do_with_prefixes_once() -> None:
    model = tiny_parts()[0]
    flops = suite_flops(model, 20, 8, 30, 2)
    prompt = 20 + model.config.lm_grid**2

    def work(written: int, steps: int, marks: bool = True) -> float:
        return 2 * sum(answer_work(model, prompt, written, steps, marks).values())

    assert flops["answer"] == work(8, 2)
    # 22 settings: one half as long, one twice, one without latents, two without marks.
    whole = 17 * work(8, 2) + work(8, 1) + work(8, 4) + work(8, 0) + 2 * work(8, 0, False) + work(30, 0, False)
    assert flops["unshared"] == pytest.approx(whole)
    assert flops["unshared"] - flops["suite"] == pytest.approx((14 - 1 + 2 - 1) * work(0, 0)), "14 and 2 share a prefix"


@pytest.mark.slow  # imports what training a run file takes
def test_the_command_writes_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lare.cost.skeleton.skeleton", lambda model: tiny_parts()[0])
    out = tmp_path / "cost.json"
    assert main(["lare/configs/embedded.yaml", "--questions", "10", "--out", str(out)]) == 0
    found = json.loads(out.read_text("utf-8"))
    assert found["whole"] == 10 * found["flops"]["suite"] and len(found["hours"]) == 4
    assert "answers" in capsys.readouterr().out
    assert main(["lare/configs/embedded.yaml", "--questions", "0"]) == 2
