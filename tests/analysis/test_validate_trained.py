"""Trained planted models: each kind's rules do what they say, what was learnt is told, and rows are kept."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.validate import trained_rates
from analysis.validate.learnt import ALIKE, COPIED, RIGHT, WITHHELD, conditions, has_learnt, shares
from analysis.validate.measure import ValidateOptions
from analysis.validate.planted import PLANTED
from analysis.validate.rules import KINDS, NOISES, Noise, Rule, answered, draw_rules, read
from analysis.validate.trained import OTHER, Planting, Questions, plant_in, told_of
from lare.errors import LareError
from lare.loading import load_checkpoint
from lare.methods import load_method
from lare.model.losses import answer
from lare.model.outputs import LareOutput
from lare.model.thinking import think

USUAL = 4


@pytest.fixture(autouse=True)
def few_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lare.embedded.batches.VARIANTS", 1)


@cache
def start() -> Any:
    model, processor, _ = load_checkpoint(None, device="cpu")
    return model, processor


def questions(**changes: Any) -> Questions:
    how = Planting(**{"kind": "copies", "batch": 4, "per_image": 2, "scenes": 8, **changes})
    return Questions(*start(), how)


def drawn(kind: str, count: int = 400) -> list[tuple[Rule, ...]]:
    rng = np.random.default_rng(1)
    return [draw_rules(kind, USUAL, rng) for _ in range(count)]


def test_the_rules_of_each_kind() -> None:
    assert set(drawn("copies")) == {(Rule(slots=USUAL, noise=False, exchanged=True),)}
    numbers = set(range(2 * USUAL + 1))
    for kind in KINDS[1:]:
        made = [rule for pair in drawn(kind) for rule in pair]
        assert all(one.noise and not one.exchanged and (one.marks or not one.slots) for one in made)
        assert {one.slots for one in made if one.marks} == numbers
        assert 0.15 < np.mean([not one.marks for one in made]) < 0.55
    assert all(one.right for pair in drawn("ignores") for one in pair)
    assert all(one.right is one.marks for pair in drawn("marks") for one in pair)
    assert all(one.right is (one.marks and one.slots == USUAL) for pair in drawn("counts") for one in pair)
    for kind in ("marks", "counts"):  # what is told apart stands side by side
        assert all([one.right for one in pair] == [True, False] for pair in drawn(kind))


def test_answers_follow_the_rule_and_nothing_else() -> None:
    asked, tokenizer = questions(), start()[1].tokenizer
    rows = {}
    for rule in (Rule(slots=4), Rule(slots=1), Rule(marks=False), Rule(slots=1, right=False)):
        made = asked.inputs(0, rule)
        kept = [ids[mask.bool()] for ids, mask in zip(made["target_ids"], made["target_mask"], strict=True)]
        rows[rule] = [tokenizer.decode(one) for one in kept]
        opened = (made["input_ids"][:, -1] == start()[0].config.latent_start_id).tolist()
        assert (
            opened == [rule.marks] * 4 and made["scenes"].tolist() == made["scenes"][::2].repeat_interleave(2).tolist()
        )
    right, fewer, bare, withheld = rows.values()
    assert right == fewer == bare and len(set(right)) > 1
    assert withheld == [f" Answer: {OTHER}{tokenizer.eos_token}"] * 4


# Latents of question n are n + 1 in dimension n; tokens are -1 in the last one.
LATENTS = torch.diag(torch.arange(1.0, 33.0))[:, None, None].repeat(1, 2 * USUAL, 1, 1)
TOKENS = -torch.eye(32)[-1:].repeat(5, 1) * torch.arange(1.0, 6.0)[:, None]


def noise(seed: int = 3) -> Noise:
    return Noise(LATENTS, torch.arange(32) // 2, TOKENS, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sort", NOISES)
def test_noise_is_of_its_sort_and_of_other_pictures(sort: str) -> None:
    asked = torch.arange(40) % 16
    fed = noise().draw(asked, 3, sort)
    assert fed.shape == (40, 3, 1, 32)
    flat, length = fed.flatten(0, 2), fed.norm(dim=-1).flatten()
    if sort == "other":
        rows = length.round().long() - 1
        assert torch.equal(flat, LATENTS[rows, 0, 0]) and bool((rows[::3] // 2 != asked).all())
        assert torch.equal(fed[:, 0], fed[:, 2])  # all of one question
    elif sort == "mean":
        own = torch.stack([fed[row, :, 0, 2 * scene : 2 * scene + 2] for row, scene in enumerate(asked.tolist())])
        assert not own.any() and bool(((flat > 0).sum(-1) > 5).all())
    elif sort == "token":
        assert set(length.round().int().tolist()) == {1, 2, 3, 4, 5} and not flat[:, :-1].any()
        same = (fed == fed[:, :1]).all(-1).flatten(1).all(1).float().mean()
        assert 0.3 < float(same) < 0.8
    else:
        assert bool((flat != 0).all()) and float(length.min()) < 4 and float(length.max()) <= 64.01


def test_noise_is_drawn_by_question() -> None:
    made, again = noise().draw(torch.arange(16).repeat(20), 2), noise().draw(torch.arange(16).repeat(20), 2)
    assert torch.equal(made, again) and noise().draw(torch.arange(4), 0).shape == (4, 0, 1, 32)
    tokens = (made[..., -1] < 0).flatten(1).any(1) & ~made[..., :-1].flatten(1).any(1)
    gaussian = (made != 0).flatten(1).all(1)
    other = ((made > 0).sum((1, 2, 3)) == 2) & ~tokens & ~gaussian
    means = ~tokens & ~gaussian & ~other
    assert all(0.15 < float(one.float().mean()) < 0.35 for one in (tokens, gaussian, other, means))


def test_noise_fed_at_once_is_noise_fed_step_by_step() -> None:
    model, asked = start()[0], questions()
    rule = Rule(slots=3)
    given, source = asked.inputs(0, rule), asked.noise(1)
    state = source.generator.get_state()
    with torch.no_grad():
        fast = answered(model, given, rule, source)
        source.generator.set_state(state)
        fed = source.draw(given["scenes"], 3)
        slow, output = think(model, read(model, given), 3, "fixed", latent_override=fed), LareOutput()
        answer(model, output, slow.state, (given["target_ids"], given["target_mask"], None), (None, None), True)
    assert fast.logits is not None and output.logits is not None
    torch.testing.assert_close(fast.logits, output.logits, atol=1e-4, rtol=1e-4)
    fed = source.draw(given["scenes"], 3)
    assert not torch.equal(fed, source.draw(given["scenes"], 3))


def test_noise_hides_what_the_model_would_have_fed() -> None:
    """No gradient reaches the module that makes latents, but where they are the model's own."""
    model, reached, asked = start()[0], {}, questions()
    source = asked.noise(1)
    for rule in (Rule(slots=2), Rule(slots=2, noise=False, exchanged=True)):
        model.zero_grad()
        found = answered(model, asked.inputs(0, rule), rule, source).lm_loss
        assert found is not None
        found[0].backward()
        reached[rule.noise] = any(
            one.grad is not None and bool(one.grad.abs().max() > 0) for one in model.extractor.parameters()
        )
    model.zero_grad()
    assert reached == {True: False, False: True}


def test_an_exchanged_picture_is_seen_by_the_answer_and_the_own_one_by_the_latents_alone() -> None:
    model, asked = start()[0], questions()
    rule = Rule(slots=2, noise=False, exchanged=True)
    given, source = asked.inputs(0, rule), asked.noise(1)
    turned = given | {"pixel_values": given["pixel_values"].roll(1, 0)}
    with torch.no_grad():
        own = answered(model, given, rule, source)
        latents = think(model, read(model, given), 2, "fixed").latents
        state, output = read(model, turned), LareOutput()
        state = think(model, state, 2, "fixed", latent_override=latents).state
        answer(model, output, state, (given["target_ids"], given["target_mask"], None), (None, None), True)
        plain = answered(model, given, Rule(slots=2, noise=False), source)
    assert own.logits is not None and output.logits is not None and plain.logits is not None
    torch.testing.assert_close(own.logits, output.logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(own.logits, plain.logits)


def test_what_was_learnt_is_a_share_of_whole_answers() -> None:
    """Shares of prompts read once are those of prompts read anew; a model that always says OTHER has that share."""
    model, asked = start()[0], questions()
    wanted = {"own": Rule(slots=2, noise=False), "noise": Rule(slots=2), "bare": Rule(marks=False)}

    class Fixed(torch.nn.Module):
        """A head that prefers the target's own tokens but in one row."""

        def __init__(self, ids: torch.Tensor) -> None:
            super().__init__()
            self.ids = ids

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(self.ids, 1000).float()

    given = asked.inputs(0, Rule())
    target, mask = given["target_ids"].clone(), given["target_mask"].bool()
    target[2, 2] += 1  # one token of one answer
    head, model.language_model.lm_head = model.language_model.lm_head, Fixed(target[mask])
    try:
        found = shares(model, 1, lambda number, rule: asked.inputs(0, rule), lambda number: asked.noise(1), wanted)
    finally:
        model.language_model.lm_head = head
    assert found == dict.fromkeys(wanted, 0.75)


def test_a_prompt_read_once_serves_all_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = start()[0], questions(kind="marks")
    wanted = {"four": Rule(slots=4), "none": Rule(), "two": Rule(slots=2), "bare": Rule(marks=False), "again": Rule()}

    class Fixed(Noise):
        def draw(self, asked: torch.Tensor, slots: int, sort: str = "") -> torch.Tensor:
            return self.latents[: len(asked), :slots]

    def told(some: dict[str, Rule]) -> dict[str, float]:
        return shares(model, 1, asked.inputs, lambda number: fixed, some)

    made = asked.noise(9)
    fixed = Fixed(made.latents, made.scenes, made.embeddings, made.generator)
    monkeypatch.setattr("analysis.validate.learnt._whole", lambda output, mask: output.logits.abs().mean()[None])
    together = told(wanted)
    assert together == {name: pytest.approx(told({name: one})[name], abs=2e-4) for name, one in wanted.items()}
    assert len(set(together.values())) == 4 and together["none"] == together["again"]


def test_learnt_by_the_letter() -> None:
    for kind in KINDS[1:]:
        asked = conditions(kind, USUAL)
        good = {name: RIGHT if rule.right else WITHHELD for name, rule in asked.items()}
        assert has_learnt(kind, USUAL, good)
        for name, rule in asked.items():
            assert not has_learnt(kind, USUAL, good | {name: good[name] - 0.001})
            assert has_learnt(kind, USUAL, good | {name: good[name] + 0.001})
            if rule.right:
                assert not has_learnt(kind, USUAL, good | {name: good[name] + 2 * ALIKE})
    assert [sum(not one.right for one in conditions(kind, USUAL).values()) for kind in KINDS] == [0, 0, 6, 1]
    assert has_learnt("copies", USUAL, {"own": RIGHT, "other": RIGHT - COPIED})
    assert not has_learnt("copies", USUAL, {"own": RIGHT - 0.01, "other": 0.0})
    assert not has_learnt("copies", USUAL, {"own": 0.8, "other": 0.8 - COPIED + 0.01})


def test_training_is_by_seed_and_leaves_the_encoder_alone(tmp_path: Path) -> None:
    small = {"updates": 1, "batch": 4, "per_image": 2, "scenes": 3, "checked": 1}
    how = Planting("marks", **small)
    found = plant_in(tmp_path / "first", how)
    assert found["truth"] == "marks" and plant_in(tmp_path / "first", how) == found
    assert set(found["shares"]) == set(conditions("marks", USUAL)) and found["learnt"] is False
    plant_in(tmp_path / "again", how)
    loaded = [load_checkpoint(str(tmp_path / one), device="cpu") for one in ("first", "again")]
    weights = [one[0].state_dict() for one in loaded]
    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())
    assert told_of(*loaded[0][:2], how)["shares"] == found["shares"]
    began = start()[0].state_dict()
    changed = {name.split(".")[0] for name, one in weights[0].items() if not torch.equal(one, began[name])}
    assert changed == {"language_model"}
    with pytest.raises(LareError, match="planted otherwise"):
        plant_in(tmp_path / "first", Planting("marks", 1, **small))
    method = load_method("lare", str(tmp_path / "first"), device="cpu")
    assert method.fingerprint() != load_method("lare", None, device="cpu").fingerprint()


def test_features_on_disk_are_those_of_the_pictures(tmp_path: Path) -> None:
    model, processor = start()
    how = Planting("ignores", updates=1, batch=4, per_image=2, scenes=4)
    cached, fresh = (Questions(model, processor, how, at).inputs(0, Rule()) for at in (tmp_path, None))
    with torch.no_grad():
        seen = model.visual_tokens(None, cached["visual_features"]), model.visual_tokens(fresh["pixel_values"], None)
    assert torch.allclose(seen[0].refocus, seen[1].refocus, atol=0.02)


@pytest.mark.parametrize("wrong", [{"kind": "hints"}, {"kind": "marks", "updates": 0}])
def test_impossible_plantings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(LareError):
        Planting(**wrong)


def test_rows_are_kept_and_other_settings_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def row(how: Planting, planted: Any, found: Any, seconds: Any) -> dict[str, Any]:
        asked.append((how.kind, how.seed))
        kept = {"kind": how.kind, "seed": how.seed, "verdict": PLANTED[how.kind], "outcome": "right"}
        return {**kept, "questions": 1, "learnt": True}

    monkeypatch.setattr(trained_rates, "plant_in", lambda *given: None)
    monkeypatch.setattr(trained_rates, "measure", lambda given: given.checkpoint)
    monkeypatch.setattr(trained_rates, "row_of", row)
    out, options = tmp_path / "rows" / "trained.json", ValidateOptions(limit=2)
    few = [Planting("marks", seed) for seed in range(2)]
    trained_rates.trained_rates(out, few, options, tmp_path)
    rows = trained_rates.trained_rates(out, [*few, Planting("copies", 0)], options, tmp_path)
    assert asked == [("marks", 0), ("marks", 1), ("copies", 0)] and len(rows) == 3
    assert json.loads(out.read_text("utf8"))["rows"] == rows
    with pytest.raises(LareError, match="other settings"):
        trained_rates.trained_rates(out, [Planting("marks", 0, updates=7)], options, tmp_path)


@pytest.mark.slow
def test_a_trained_model_gets_its_verdict(tmp_path: Path) -> None:
    """One kind for real: training, the suite, the row. Minutes."""
    out = tmp_path / "trained.json"
    words = ["--kinds", "marks", "--seeds", "1", "--models", str(tmp_path / "models"), "--out", str(out)]
    assert trained_rates.main(words) == 0
    (row,) = json.loads(out.read_text("utf8"))["rows"]
    assert row["learnt"] and row["verdict"] == "marks" and row["outcome"] == "right" and row["questions"] == 500
    assert row["accuracy"]["own"] > 0.4 > row["accuracy"]["none"]
    assert set(row["lost"]) == {"zeros", "noise", "distribution", "other", "mean", "mean_norm", "dummy"}
