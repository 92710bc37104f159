"""The benchmark against transformers' own generation runs at a tiny size, and does equal work."""

import pytest
import torch

from benchmarks.against_vlm import LARGE, VlmSize, config_of, measure, models_of, own_answer, prompts_of
from benchmarks.common import Options

SMALLEST = VlmSize("smallest", 32, 2, 2, 48, 16, 1)


def test_both_sides_are_timed_alone_and_in_a_batch():
    results = measure(Options(rounds=1, warmup=0), [SMALLEST], batches=(1, 2), new_tokens=3)
    assert [one.name for one in results] == [f"against_vlm smallest b{b} {k}" for b in (1, 2) for k in ("K=0", "K=4")]
    assert all(one.left_seconds > 0 and one.right_seconds > 0 for one in results)


def test_other_weights_are_no_equal_work(monkeypatch):
    def broken(size):
        model, twin = models_of(size)
        torch.nn.init.normal_(twin.get_output_embeddings().weight)
        return model, twin

    monkeypatch.setattr("benchmarks.against_vlm.models_of", broken)
    with pytest.raises(RuntimeError, match="agree on"):
        measure(Options(rounds=1, warmup=0), [SMALLEST], batches=(1,), new_tokens=3)


def test_sizes_are_as_told():
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config_of(LARGE))
    assert sum(one.numel() for one in model.parameters()) == pytest.approx(100e6, rel=0.1)
    model, twin = models_of(SMALLEST)
    prompts = prompts_of(model, 2)
    assert own_answer(twin, prompts, 2).shape == (2, 2) and prompts["input_ids"].shape == (2, 16 * 16 + 64 + 2)
