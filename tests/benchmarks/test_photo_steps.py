"""The costs of a run on photographs are measured stage by stage, on a tiny decoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.photo_steps import main

pytest.importorskip("gguf")
from tests.model.gguf_files import write_qwen2_gguf  # noqa: E402
from tests.model.test_gguf import CONFIGS, _pictures, needs_encoder, train_words  # noqa: E402


@needs_encoder
def test_stages_and_an_answer_are_measured(tmp_path: Path) -> None:
    write_qwen2_gguf(tmp_path / "tiny.gguf")
    words = train_words(tmp_path, f"{tmp_path}::tiny.gguf", samples=4, batch=2)
    out = tmp_path / "found.json"
    run = CONFIGS / "qwen2_5_coder_0_5b.yaml"
    options = ["--rows", "4", "--updates", "1", "--out", str(out), "--stages", "II", "IV"]
    assert main([str(run), *words, *options]) == 0
    stages = json.loads(out.read_text())["stages"]
    assert [row["stage"] for row in stages] == ["II", "IV"]
    assert all(min(row["forward"], row["update"], row["peak_gb"]) > 0 for row in stages)
    assert stages[1]["trained"] > stages[0]["trained"] > 0
    assert not (tmp_path / "run").exists()  # the run itself has not begun


@needs_encoder
@pytest.mark.slow
def test_an_answer_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    write_qwen2_gguf(tmp_path / "tiny.gguf")
    words = train_words(tmp_path, f"{tmp_path}::tiny.gguf", samples=4, batch=2)
    _pictures(1)[0].save(tmp_path / "photo.png")
    out = tmp_path / "found.json"
    options = ["--rows", "4", "--updates", "1", "--stages", "I", "--answer", str(tmp_path / "photo.png")]
    assert main([str(CONFIGS / "qwen2_5_coder_0_5b.yaml"), *words, *options, "--out", str(out)]) == 0
    found = json.loads(out.read_text())["answer"]
    assert found["code"] == 0 and found["peak_gb"] > 0 and found["seconds"] > 0
