"""The refocusing comparison: its rows, how looks are counted, and what an answer costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lare.errors import LareError
from lare.methods import load_method
from lare.trace import AnswerRecord, TraceReader, TraceWriter
from lare.training.plan.run_file import load_run_config
from lare_eval import refocus, refocus_time
from lare_eval.refocus import BASE, ROWS, hit_rates, load_rows, main, multiply_adds

ROOT = Path(__file__).parents[2]
CONFIG = {"grid": 8, "image_size": 128, "window": 4, "use_window": True}


def _traces(folder, windows, boxes, config=CONFIG):
    with TraceWriter(folder, {"config": config}) as writer:
        for number, (places, needed) in enumerate(zip(windows, boxes, strict=True)):
            writer.append(
                AnswerRecord(
                    method="lare", checkpoint="c", task="t", doc_id=number, question="q", text="a", answer="a",
                    input_tokens=8, output_tokens=2, latent_steps=len(places), stop_reason="fixed",
                    windows=np.array(places).reshape(-1, 2), meta={"boxes": json.dumps(needed)},
                )
            )  # fmt: skip
    return TraceReader(folder)


def test_every_row_is_a_run_that_can_be_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = load_rows()
    samples = {sum(stage.samples for stage in load_run_config(BASE, row.train).stages) for row in rows}
    assert len(samples) == 1, "all rows see the same number of samples"
    assert {row.name for row in rows} >= {"fine", "random", "latents_pooled", "latents_all", "text_pooled", "text_all"}


def test_hits_need_the_whole_thing_inside(tmp_path):
    # Cells are 16 pixels wide; the window at row 2, column 4 shows pixels 64..128 across and 32..96 down.
    inside, over_the_edge = [64, 32, 96, 64], [60, 32, 92, 64]
    traces = _traces(tmp_path, [[(2, 4), (2, 4)], [(0, 0)]], [[inside, over_the_edge], [[0, 0, 32, 32]]])
    rates = hit_rates(traces)
    assert rates["hit_rate"] == pytest.approx(2 / 3)


def test_chance_is_the_share_of_places(tmp_path):
    corner = [0, 0, 32, 32]  # only a window at row 0, column 0 holds it; there are 5 x 5 places
    rates = hit_rates(_traces(tmp_path, [[(3, 3)]], [[corner]]))
    assert rates == {"hit_rate": 0.0, "hit_chance": pytest.approx(1 / 25)}


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


def test_unknown_rows_and_missing_files(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["--rows", "nonsense"]) == 2
    assert "no row 'nonsense'" in capsys.readouterr().err
    with pytest.raises(LareError, match="can't be read"):
        load_rows(tmp_path / ROWS.name)
    (tmp_path / "rows.yaml").write_text("fine: {titel: x}")
    with pytest.raises(LareError, match="no file of rows"):
        load_rows(tmp_path / "rows.yaml")


def test_a_timed_model_has_its_row_s_shape_and_writes_its_row_s_tokens(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = {row.name: row for row in load_rows()}
    shape = refocus_time.shape_of(load_run_config(BASE, rows["lm"].train)).config
    assert (shape.lm_grid, shape.refocus_source, shape.shared_projector) == (8, "lm", False)
    written = []
    generate = refocus_time.LareForConditionalGeneration.generate

    def watched(self, **options):
        out = generate(self, **options)
        written.append((tuple(out.sequences.shape), int(out.steps.max())))
        return out

    monkeypatch.setattr(refocus_time.LareForConditionalGeneration, "generate", watched)
    row = rows["direct_all"]
    timed = refocus_time.TimedRow(row.name, load_run_config(BASE, row.train), 0, row.delimiters, 3)
    found = refocus_time.milliseconds([timed], rounds=1, questions=4)[row.name]
    assert set(found) == {"ms_batch1", "ms_batch16"}
    assert min(found.values()) > 0
    assert written[:2] == [((1, 3), 0), ((4, 3), 0)]


def test_times_are_written_beside_the_other_costs_and_stay_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    costs = {"text_tokens": 9.3, "multiply_adds": 1e6}
    rows = [{"name": "fine", "seed": seed, "scores": {}, "scenes": {}, "costs": dict(costs)} for seed in (0, 1)]
    (tmp_path / "rows.json").write_text(json.dumps({"rows": rows}))
    asked = []

    def clock(timed):
        asked.extend((row.name, row.text_tokens) for row in timed)
        return {row.name: {"ms_batch1": 10.0, "ms_batch16": 2.0} for row in timed}

    monkeypatch.setattr(refocus_time, "milliseconds", clock)
    assert main(["--time", "--out", str(tmp_path)]) == 0
    assert asked == [("fine", 10)]  # the end token is a step of the decoder too
    found = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["costs"] for row in found] == [costs | {"ms_batch1": 10.0, "ms_batch16": 2.0}] * 2
    assert main(["--time", "--out", str(tmp_path / "empty")]) == 2
    assert "no rows to time" in capsys.readouterr().err


def test_rows_of_other_first_weights_are_not_mixed_and_not_lost(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    old = {
        "scores": {"lare_mini_val_pope": {"0": 1.0}},
        "scenes": {},
        "costs": {"multiply_adds": 1e6, "ms_batch1": 9.0},
    }
    rows = [{"name": "lm", "seed": seed, "start": "one", **old} for seed in (1, 0)]
    target = tmp_path / "rows.json"
    target.write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(refocus, "_first_weights", lambda: "another")
    before = target.read_bytes()
    assert main(["--rows", "fine", "--out", str(tmp_path)]) == 2  # said before anything is trained
    assert "began with other weights (lm) can't be compared" in capsys.readouterr().err
    assert target.read_bytes() == before

    monkeypatch.setattr(refocus, "_first_weights", lambda: "one")
    monkeypatch.setattr(refocus, "_begun_with", lambda row, seed: "one")
    monkeypatch.setattr(refocus, "_ask", lambda row, seed, *_: {"name": row.name, "seed": seed, "title": "", **old})
    monkeypatch.setattr(refocus, "RUNS", tmp_path)
    for name in ("fine-0", "lm-0"):
        (tmp_path / name / "IV" / "final").mkdir(parents=True)
        (tmp_path / name / "IV" / "final" / "meta.json").write_text("{}")
    assert main(["--rows", "fine", "lm", "--no-train", "--out", str(tmp_path)]) == 0
    found = json.loads(target.read_text())["rows"]
    assert [(row["name"], row["seed"], row["start"]) for row in found] == [
        ("fine", 0, "one"),
        ("lm", 0, "one"),
        ("lm", 1, "one"),
    ]
    monkeypatch.setattr(refocus, "_begun_with", lambda row, seed: {"fine": "one", "lm": "two"}[row.name])
    assert main(["--rows", "fine", "lm", "--no-train", "--out", str(tmp_path)]) == 2
    assert "that began with other weights (lm)" in capsys.readouterr().err


def test_a_row_knows_the_weights_that_it_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr(refocus, "RUNS", tmp_path)
    for number, (stage, parent) in enumerate((("II", "first"), ("IV", "second"))):
        (tmp_path / "fine-3" / stage / "final").mkdir(parents=True)
        meta = {"number": number, "parent": parent}
        (tmp_path / "fine-3" / stage / "final" / "meta.json").write_text(json.dumps(meta))
    assert refocus._begun_with(refocus.RefocusRow("fine", ""), 3) == "first"


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Two trained rows (the shipped checkpoint under their names), and what was asked of whom."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(refocus, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(refocus, "_first_weights", lambda: "one")
    monkeypatch.setattr(refocus, "_begun_with", lambda row, seed: "one")
    shipped = load_method("lare")
    monkeypatch.setattr(refocus, "method_of", lambda row, checkpoint: shipped)
    asked = []
    whole = refocus.evaluate_pass

    def watched(setting, method, tasks, *given, **options):
        asked.extend(tasks)
        return whole(setting, method, tasks, *given, **options)

    monkeypatch.setattr(refocus, "evaluate_pass", watched)
    for name in ("fine_16-0", "lm-0"):
        (tmp_path / "runs" / name / "IV" / "final").mkdir(parents=True)
        (tmp_path / "runs" / name / "IV" / "final" / "meta.json").write_text("{}")
    return asked


@pytest.fixture
def few_rows(monkeypatch):
    from lare.embedded.world import benchmark
    from lare_eval import mini

    whole = benchmark.make_task
    monkeypatch.setattr(benchmark, "make_task", lambda name, split="test", **k: whole(name, split, n=4))
    mini.mini_rows.cache_clear()
    yield
    mini.mini_rows.cache_clear()


def test_rows_are_compared_on_validation_and_test_is_asked_once(trained, few_rows, tmp_path, capsys):
    from analysis.ablation import page as ablation

    out = tmp_path / "out"
    words = ["--seeds", "0", "--out", str(out)]
    assert main([*words, "--rows", "fine_16", "lm", "--no-train"]) == 0
    assert trained == ["lare_mini_val"] * 2
    assert main([*words, "--test", "--rows", "fine_16"]) == 0
    assert trained[2:] == ["lare_mini"]
    (row,) = json.loads((out / "test.json").read_text())["rows"]
    (look,) = row["asked"]
    assert look["weights"] == row["fingerprint"] and look["time"].endswith("Z")
    assert "validation questions" in capsys.readouterr().out

    before = (out / "test.json").read_bytes()
    assert main([*words, "--test", "--rows", "fine_16", "lm"]) == 2  # nothing of it, the new row neither
    assert f"asked already (fine_16 seed 0: {look['time']})" in capsys.readouterr().err
    assert trained[3:] == [] and (out / "test.json").read_bytes() == before
    assert main([*words, "--test", "--rows", "fine_16", "--again"]) == 0
    (row,) = json.loads((out / "test.json").read_text())["rows"]
    assert len(row["asked"]) == 2 and row["asked"][0] == look and trained[3:] == ["lare_mini"]
    assert "test questions, asked 2 times" in capsys.readouterr().out

    for name, told in (("rows", "validation questions"), ("test", "test questions, each row asked once")):
        options = ablation.parser().parse_args(["--rows", str(out / f"{name}.json"), "--now", "never"])
        document, _ = ablation.compute(options)
        assert document.title.endswith(told)
    assert any("more than once: fine_16 seed 0 (2)" in warning for warning in document.warnings)


def test_an_answer_that_a_kill_kept_from_the_file_is_no_second_look(trained, few_rows, tmp_path):
    words = ["--seeds", "0", "--out", str(tmp_path / "out"), "--test", "--rows", "lm"]
    assert main(words) == 0
    first = json.loads((tmp_path / "out" / "test.json").read_text())
    (tmp_path / "out" / "test.json").unlink()
    assert main(words) == 0 and trained == ["lare_mini"]
    assert json.loads((tmp_path / "out" / "test.json").read_text()) == first


def test_rows_that_were_compared_on_test_questions(trained, tmp_path, monkeypatch, capsys):
    """The committed rows: not mixed with validation rows, a look counts, and their report says what was chosen."""
    from analysis.ablation import page as ablation

    monkeypatch.setattr(refocus, "OUT", ROOT / "reports" / "refocus")
    committed = ["--out", str(ROOT / "reports" / "refocus"), "--seeds", "0", "--rows", "fine_16"]
    assert main([*committed, "--no-train"]) == 2
    assert "asked test questions; rows are compared on" in capsys.readouterr().err
    assert main([*committed, "--test"]) == 2
    assert "asked already (fine_16 seed 0: unknown)" in capsys.readouterr().err and trained == []
    for name in ("", "slim/"):
        said = ablation._questions(ablation.read_rows([ROOT / "reports" / "refocus" / f"{name}rows.json"]))
        assert said == ": test questions; the shipped design was chosen on them"
        assert said in (ROOT / "reports" / f"ablation{'_slim' if name else ''}.html").read_text()


@pytest.mark.parametrize("words", [["--again"], ["--test"], ["--test", "--time", "--rows", "lm"]])
def test_options_of_the_test_that_make_no_sense(words):
    with pytest.raises(SystemExit):
        main(words)
