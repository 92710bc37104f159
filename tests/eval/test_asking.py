"""Asking for experiments: how looks are counted, what an answer costs, and what a whole pass leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lare.checkpoints import default_checkpoint
from lare.errors import LareError
from lare.methods import load_method
from lare.trace import AnswerRecord, TraceReader, TraceWriter
from lare_eval import asking
from lare_eval.asking import ask, hit_rates, main, multiply_adds

CONFIG = {"grid": 8, "image_size": 128, "window": 4, "use_window": True}


def _traces(folder, windows, boxes, config=CONFIG, arguments=None):
    with TraceWriter(folder, {"config": config, "arguments": arguments or {}}) as writer:
        for number, (places, needed) in enumerate(zip(windows, boxes, strict=True)):
            writer.append(
                AnswerRecord(
                    method="lare", checkpoint="c", task="t", doc_id=number, question="q", text="a", answer="a",
                    input_tokens=8, output_tokens=2, latent_steps=len(places), stop_reason="fixed",
                    windows=np.array(places).reshape(-1, 2), meta={"boxes": json.dumps(needed)},
                )
            )  # fmt: skip
    return TraceReader(folder)


def test_hits_need_the_whole_thing_inside(tmp_path):
    # Cells are 16 pixels wide; the window at row 2, column 4 shows pixels 64..128 across and 32..96 down.
    inside, over_the_edge = [64, 32, 96, 64], [60, 32, 92, 64]
    traces = _traces(tmp_path, [[(2, 4), (2, 4)], [(0, 0)]], [[inside, over_the_edge], [[0, 0, 32, 32]]])
    rates = hit_rates(traces)
    assert rates["hit_rate"] == pytest.approx(2 / 3)
    assert (rates["hit_rate_1"], rates["hit_rate_2"]) == (1.0, 0.0)


def test_chance_is_the_share_of_places(tmp_path):
    corner = [0, 0, 32, 32]  # only a window at row 0, column 0 holds it; there are 5 x 5 places
    rates = hit_rates(_traces(tmp_path, [[(3, 3)]], [[corner]]))
    assert rates == {"hit_rate": 0.0, "hit_chance": pytest.approx(1 / 25), "hit_rate_1": 0.0}


def test_a_window_that_was_asked_for_counts_in_place_of_the_checkpoint_s(tmp_path):
    box = [[[0, 0, 32, 32]]]
    assert hit_rates(_traces(tmp_path / "a", [[(0, 0)]], box, arguments={"window": 1}))["hit_rate"] == 0.0
    assert hit_rates(_traces(tmp_path / "b", [[(0, 0)]], box, arguments={"window": None}))["hit_rate"] == 1.0


def test_steps_beyond_the_boxes_do_not_count(tmp_path):
    rates = hit_rates(_traces(tmp_path, [[(0, 0), (4, 4), (4, 4), (4, 4)]], [[[0, 0, 32, 32]]]))
    assert rates["hit_rate"] == 1.0


def test_no_window_no_rate(tmp_path):
    assert hit_rates(_traces(tmp_path, [[(0, 0)]], [[[0, 0, 32, 32]]], CONFIG | {"use_window": False})) == {}


def test_an_answer_costs_more_with_a_longer_prompt_and_with_latents():
    embedded_method = load_method("lare")
    short, long = (multiply_adds(embedded_method, prompt, 20, 0)["multiply_adds"] for prompt in (30, 90))
    both = multiply_adds(embedded_method, 30, 20, 4)
    thinking, whole = both["multiply_adds"], both["multiply_adds_whole"]
    text = embedded_method.model.config.text_config
    layer = 4 * text.hidden_size**2 + 3 * text.hidden_size * text.intermediate_size
    assert long - short > 60 * text.num_hidden_layers * layer  # the layers' weights alone, attention comes on top
    assert thinking > short
    encoder = counted(embedded_method.model)
    assert whole - thinking == encoder > thinking  # leaving it out would flatter whoever saves tokens


def counted(model):
    """Multiply-adds of the encoder's convolutions and linear layers, from the shapes that pass through them."""
    total = []

    def note(module, given, output):
        weight = module.weight
        positions = output[0].numel() // weight.shape[0]
        total.append(positions * weight.numel())

    layers = [m for m in model.vision_tower.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    model.vision_tower(torch.zeros(1, 3, 128, 128))
    for hook in hooks:
        hook.remove()
    return sum(total)


def request(folder, **changes):
    made = {"checkpoint": str(default_checkpoint()), "method": "lare", "options": {"iterations": 2}, "batch": 8}
    return made | {"group": "lare_mini_val", "limit": 4, "out": str(folder)} | changes


def test_what_a_pass_leaves(few_rows, tmp_path):
    found = ask(request(tmp_path))
    assert json.loads((tmp_path / "answers.json").read_text()) == found
    assert found["fingerprint"] == load_method("lare").fingerprint() and found["time"].endswith("Z")
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    traces = TraceReader(tmp_path / "traces" / "answers")
    assert len(samples) == len(traces) == 20 and set(found["questions"]) == set(found["answers"])
    for task, one in found["questions"].items():
        chosen = traces.select(task=task)
        assert one["doc"] == sorted(chosen.column("doc_id")) and len(one["scene"]) == 4
        by_number = dict(zip(chosen.column("doc_id"), chosen.column("output_tokens"), strict=True))
        assert found["answers"][task]["text_tokens"] == [by_number[number] for number in one["doc"]]
        assert [s["score"] for s in samples if s["task"] == task] == found["answers"][task]["score"]
        assert found["answers"][task]["latent_steps"] == [2] * 4 and min(one["hops"]) >= 1
    costs = found["costs"]
    assert costs["decoder_passes"] == pytest.approx(1 + 2 + costs["text_tokens"])
    assert costs["tokens"] == pytest.approx(2 + costs["text_tokens"]) and costs["extra_visual_tokens"] == 0
    told = found["measures"]["lare_mini_val_pope"]
    scored = found["answers"]["lare_mini_val_pope"]["score"]
    assert told["pope_accuracy"] == pytest.approx(np.mean(scored)) and "pope_f1_score" in told
    assert not any("stderr" in name for one in found["measures"].values() for name in one)


def test_the_precision_of_an_ask_is_one_of_its_options(few_rows, tmp_path):
    ask(request(tmp_path, options={"iterations": 2, "dtype": "bfloat16"}, limit=2))
    assert TraceReader(tmp_path / "traces" / "answers").infos[0]["arguments"]["dtype"] == "bfloat16"
    with pytest.raises(LareError, match="dtype is 'half'; choose from"):
        ask(request(tmp_path, options={"dtype": "half"}))


def test_scores_between_right_and_wrong_are_refused(tmp_path, monkeypatch):
    from lare_eval.summary import Pass

    traces = _traces(tmp_path / "traces" / "answers", [[(0, 0)]], [[[0, 0, 32, 32]]])
    assert len(traces) == 1
    passed = Pass("answers", {"t": {0: 0.5}}, {}, {})
    monkeypatch.setattr(asking, "evaluate_pass", lambda *given: passed)
    with pytest.raises(LareError, match="t has scores between 0 and 1"):
        ask(request(tmp_path))
    assert not (tmp_path / "answers.json").exists()


def test_mistakes_are_one_line(tmp_path, capsys):
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request(tmp_path, method="nonsense")))
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert "there is no method 'nonsense'" in error and error.count("\n") == 1
    assert main([]) == 2 and main(["--help"]) == 0
