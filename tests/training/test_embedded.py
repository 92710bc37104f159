"""The embedded trainer on a tiny model with random features: phases, parts that train, resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lare.model import LareForConditionalGeneration
from lare.model.vision_conv import LareVisionConfig, LareVisionModel
from lare.training.embedded import Recipe, Run, token_hits, train_phase, trainable
from lare.training.embedded_model import build_model
from lare.training.phases import CAPTIONS, Phase, phases
from lare.training.tokenizer import build_tokenizer


def make_run(seed: int = 0) -> Run:
    recipe = Recipe(hidden=32, layers=2, heads=2, ffn=48, projector=24, processes=1, seed=seed, report_every=2)
    torch.manual_seed(7)
    encoder = LareVisionModel(LareVisionConfig(widths=(4, 4, 8, 8)))
    tokenizer = build_tokenizer()
    width = encoder.config.hidden_size
    features = np.random.default_rng(0).normal(size=(6, 64, width)).astype(np.float16)
    model = build_model(recipe, encoder, tokenizer.get_vocab(), seed)
    return Run(recipe, model, tokenizer, {"train": features, "validation": features}, 0)


def tiny(name: str, steps: int) -> Phase:
    phase = next(p for p in phases() if p.name == name)
    return replace(phase, questions=steps * 8, images=2, per_image=4)


@pytest.mark.parametrize("name", [p.name for p in phases()])
def test_only_a_phases_parts_change(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, phase = make_run(), tiny(name, 2)
    monkeypatch.setattr(Run, "validate", lambda *args, **kwargs: {"all": 0.0})
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    chosen = {key for key, _ in trainable(run.model, phase.train)}
    train_phase(run, phase, tmp_path)
    after = run.model.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    tied = {"language_model.lm_head.weight"} & changed
    assert changed - tied <= chosen and changed
    assert not [key for key in changed if key.startswith("vision_tower.")]


def test_a_killed_phase_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "validate", lambda *args, **kwargs: {"all": 0.0})
    phase = tiny("captions", 4)
    run = make_run()
    calls = 0
    draw = run.batcher(phase, "train", 1).draw

    class KilledError(Exception):
        pass

    def stop_at_third(self: object, *args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KilledError
        return draw(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("lare.training.batches.Batcher.draw", stop_at_third)
        with pytest.raises(KilledError):
            train_phase(run, phase, tmp_path)
    assert json.loads((tmp_path / "state.json").read_text())["step"] == 2
    again = make_run(seed=1)
    train_phase(again, phase, tmp_path)
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["step"] == 4 and state["done"]
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]


def test_latents_take_over_a_growing_part() -> None:
    phase = next(p for p in phases(replaced=4) if p.name == "latents")
    last = [phase.mode(step, 100, (0.99, 0.0)) for step in range(100)]
    replaced = [mode.replaced for mode in last]
    assert replaced == sorted(replaced) and replaced[0] == 0 and replaced[-1] == 4
    assert {mode.prefix for mode in last} == {phase.prefix}
    assert all(mode.iterations == 4 and mode.delimiters for mode in last)
    direct, text = phase.mode(5, 100, (0.0, 0.0)), phase.mode(5, 100, (phase.direct_share, 0.0))
    assert (direct.iterations, direct.delimiters) == (0, False)
    assert (text.iterations, text.delimiters) == (0, True)


def test_captions_have_no_rationale() -> None:
    phase = next(p for p in phases() if p.families == CAPTIONS)
    assert not phase.mode(0, 10, (0.5, 0.5)).delimiters


def test_mimetic_start_looks_up_by_likeness() -> None:
    model: LareForConditionalGeneration = make_run().model
    first, second = model.decoder.layers[0].self_attn, model.decoder.layers[1].self_attn  # type: ignore[union-attr,index]
    for attention in (first, second):
        assert torch.equal(attention.q_proj.weight, attention.k_proj.weight)
        assert torch.equal(attention.o_proj.weight, attention.v_proj.weight.T)


def test_token_hits() -> None:
    class Out:
        labels = torch.tensor([3, 4, 5])
        logits = torch.nn.functional.one_hot(torch.tensor([3, 1, 5]), 8).float()

    assert token_hits(Out(), torch.tensor([[1, 1], [0, 1]])).tolist() == [0.5, 1.0]
