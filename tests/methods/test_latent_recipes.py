"""The recipes of Coconut, LVR and MCOUT: targets, losses and modules against plain references, and a tiny run each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lare import LareError
from lare.embedded.world_data import WorldData
from lare.losses.base import Run
from lare.losses.batch import MicroBatch
from lare.methods import get_method, load_method
from lare.methods.base import Sampling
from lare.methods.layout import Row, Text
from lare.methods.lvr import Lvr, Regression
from lare.methods.mcout import Intermediate, Mcout
from lare.model import LareForConditionalGeneration
from lare.training.plan.config import StageConfig
from tests.methods.test_latent_rivals import CLOSE, KINDS, QUESTIONS, answers, layout, lm_loss, losses_of, trained
from tests.methods.tiny_checkpoint import pictures, tiny_parts
from tests.model import reference
from tests.model.test_loop import assert_gradients, gradients
from tests.model.tiny import END, GRID, IMAGE, START, Sample, collate, make_samples, pad, tiny_model

SHORT = Sampling(max_new_tokens=4)


def loss_of(loss: Any, model: LareForConditionalGeneration, inputs: dict[str, Any]) -> tuple[Tensor, int, Any]:
    """A loss's sum, its count, and the model's output."""
    out, batch = model(**inputs), MicroBatch(inputs)
    value = loss.value(Run(SimpleNamespace(lare=model), batch, out, None))  # type: ignore[arg-type]
    return value, loss.count(batch, None), out


# Coconut ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "steps", "kept"),
    [({"stage": 0}, 0, [1, 2, 3, 4]), ({"stage": 1}, 1, [3, 4]), ({"stage": 2, "per_step": 2}, 4, [4]),
     ({"stage": 7}, 7, []), ({"stage": 2, "text": False}, 2, [])],
)  # fmt: skip
def test_coconuts_latents_stand_for_the_first_steps(options: dict[str, Any], steps: int, kept: list[int]) -> None:
    made = layout("coconut", **options)
    assert (made.iterations, made.delimiters, made.refocus, made.prefix) == (steps, True, False, 0)
    training = get_method("coconut").training
    own = training(training.options_type.read("coconut", options))  # type: ignore[misc]
    row = Row([], [1, 2, 3, 4], [9], ends=[2, 3, 4])
    assert own.segments(row, made) == [Text([*kept, 9])]


# LVR ----------------------------------------------------------------------------------------------------------------

REGIONS = [[5, 6, 9], [0], [], [2, 3, 7, 15]]
ANSWERS = [[13, 14], [16, 17, 18], [19, 20], [21]]


def lvr_inputs(samples: list[Sample]) -> dict[str, Any]:
    """Prompts, and targets with the regions' tokens between the delimiters."""
    rows = zip(REGIONS, ANSWERS, strict=True)
    ids = [[START, *[IMAGE] * len(cells), END, *answer] for cells, answer in rows]
    inputs: dict[str, Any] = collate(samples, targets=False, prefixes=False)
    inputs["target_ids"], inputs["target_mask"] = pad(ids, left=False)
    width = inputs["target_ids"].shape[1]
    numbers = [[-1, *(n * GRID**2 + cell for cell in cells)] for n, cells in enumerate(REGIONS)]
    inputs["target_visual"] = torch.tensor([row + [-1] * (width - len(row)) for row in numbers])
    inputs["label_mask"] = inputs["target_mask"] * (inputs["target_visual"] < 0)
    inputs["label_mask"][:, 0] = 0
    return inputs | {"iterations": 0, "delimiters": False}


@pytest.mark.parametrize("kind", KINDS)
def test_lvr_equals_a_recompute_row_by_row(kind: str) -> None:
    """Values and gradients of both losses, on rows of different lengths, one of them with an empty region."""
    model = tiny_model(kind, refocus_source="fine")
    samples = make_samples(model.config, lengths=(2, 5, 1, 3), seed=6, start=False)
    value, count, out = loss_of(Regression(), model, lvr_inputs(samples))
    decoder, embed, expected, text = reference.EagerDecoder(model), model.get_input_embeddings(), [], []
    for sample, cells, answer in zip(samples, REGIONS, ANSWERS, strict=True):
        visual = reference.visual_tokens(model, sample.features)
        parts = [embed(torch.tensor(ids)) for ids in (sample.before, [*sample.after, START], [END, *answer])]
        seen = visual.refocus[cells]
        run = decoder(torch.cat((parts[0], visual.lm, parts[1], seen, parts[2])))
        first = len(sample.prompt) + 1
        expected += [((run.final[first - 1 + n] - seen[n].detach()) ** 2).mean() for n in range(len(cells))]
        log_probs, start = run.logits.log_softmax(-1), first + len(cells) - 1
        text += [-log_probs[start + n, token] for n, token in enumerate([END, *answer])]
    assert count == sum(map(len, REGIONS))
    torch.testing.assert_close(value, torch.stack(expected).sum(), **CLOSE)
    torch.testing.assert_close(out.lm_loss[0], torch.stack(text).sum(), **CLOSE)
    both = torch.stack(expected).sum() + torch.stack(text).sum()
    assert_gradients(gradients(model, value + out.lm_loss[0]), gradients(model, both))


def test_lvrs_target_is_start_regions_end_and_answer() -> None:
    own = Lvr.training()  # type: ignore[misc]
    row = Row([], [1, 2], [9], [(0, 0, 0.5, 0.5), None, (0.5, 0, 1, 1)], special={"latent_start": 7, "latent_end": 8})
    start, *regions, end, answer = own.segments(row, layout("lvr"))
    assert (start, end, answer) == (Text([7], False), Text([8]), Text([9]))
    assert [one.box for one in regions] == [row.boxes[0], row.boxes[2]]
    assert {type(loss): weight for loss, weight in own.losses().items()} == {Regression: 0.1}


def test_lvr_feeds_states_back_as_they_are() -> None:
    model, processor = tiny_parts()
    answer = Lvr(model, processor).answer(pictures(1), QUESTIONS[:1], SHORT, trace=True)[0]
    assert answer.latent_steps == 8 and model.config.rms_scale, "the setting is given back"
    rms = answer.arrays["latents"].astype(float).__pow__(2).mean(-1) ** 0.5
    assert abs(rms - 1).max() < 1e-2, "the final norm's gain is one here; embeddings' are 0.5"


def test_lvr_refuses_data_without_boxes() -> None:
    class Boxless(WorldData):
        boxes = False

    with pytest.raises(LareError, match="the method 'lvr' needs the boxes of each reasoning step"):
        StageConfig("III", (Boxless(),), methods={"lvr": 1})


# MCOUT --------------------------------------------------------------------------------------------------------------


def thoughts(model: LareForConditionalGeneration, sample: Sample, steps: int, fine: bool) -> list[Tensor]:
    """The sequence (S, d) after 0, 1, ... thoughts, each written out from a pass over all before it."""
    decoder, embed, maker = reference.EagerDecoder(model), model.get_input_embeddings(), model.latent_maker
    visual = reference.visual_tokens(model, sample.features)
    before, after = (embed(torch.tensor(ids, dtype=torch.long)) for ids in (sample.before, sample.after))
    found = [torch.cat((before, visual.lm, after))]
    seen, layers = visual.refocus if fine else visual.lm, maker.layers  # type: ignore[union-attr]
    for _ in range(steps):
        thought = reference.linear(decoder(found[-1]).final[-1:], layers["project"])
        keys, values = (reference.linear(seen, layers[name]) for name in ("key", "value"))
        looked, _ = reference.attend(reference.linear(thought, layers["query"]), keys, values, 4)
        mixed = reference.layer_norm(reference.linear(looked, layers["output"]) + thought, maker.norm)  # type: ignore
        made = reference.linear(mixed, layers["project_back"])
        made = reference.rms_one(made) * embed.weight.detach().square().mean().sqrt()
        found.append(torch.cat((found[-1], made)))
    return found


@pytest.mark.parametrize(("kind", "tokens"), [("llama", "lm"), ("qwen2", "fine")])
def test_mcout_equals_a_recompute_row_by_row(kind: str, tokens: str) -> None:
    """Thoughts, the answer's loss and that of each thought before, with their gradients, on rows of all lengths."""
    own = {"latent_maker": "mcout", "use_window": False, "latent_maker_settings": {"tokens": tokens}}
    model = tiny_model(kind, refocus_source="fine", **own)
    samples = make_samples(model.config, lengths=(1, 6, 3), seed=7)
    value, count, out = loss_of(Intermediate(), model, collate(samples, prefixes=False) | {"iterations": 3})
    slow = [thoughts(model, sample, 3, tokens == "fine") for sample in samples]
    latents = torch.stack([sequences[-1][-3:] for sequences in slow])
    torch.testing.assert_close(out.thoughts.latents[:, :, 0], latents, **CLOSE)
    losses = [[lm_loss(model, e, s.target) for e in es[1:]] for es, s in zip(slow, samples, strict=True)]
    early, last = (torch.stack([sum(row[part]) for row in losses]).sum() for part in (slice(2), slice(2, 3)))
    torch.testing.assert_close(value, early, **CLOSE)
    torch.testing.assert_close(out.lm_loss[0], last, **CLOSE)
    assert count == sum(len(sample.target) for sample in samples)
    found = gradients(model, 0.3 * value + out.lm_loss[0])
    assert_gradients(found, gradients(model, 0.3 * early + last))
    assert all(found[name].abs().sum() > 0 for name in found if name.startswith("latent_maker"))


def test_questions_of_an_image_share_mcouts_keys() -> None:
    model = tiny_model("llama", latent_maker="mcout", use_window=False)
    first, second = make_samples(model.config, lengths=(2, 5), seed=3)
    second.features = first.features
    shared: dict[str, Any] = {"shared_ids": torch.tensor([first.shared]), "visual_features": first.features[None]}
    shared["input_ids"], shared["attention_mask"] = pad([first.after, second.after], left=True)
    together = model(**shared, questions_per_image=2).thoughts.latents
    apart = model(**collate([first, second], targets=False, prefixes=False)).thoughts.latents
    torch.testing.assert_close(together, apart, **CLOSE)


def test_mcout_refuses_models_without_its_module_and_impossible_settings() -> None:
    with pytest.raises(LareError, match="the model has none; start a run with model.settings"):
        Mcout(*tiny_parts())
    with pytest.raises(LareError, match="the model has none; start a run with model.settings"):
        plain = tiny_model("llama")
        loss_of(Intermediate(), plain, collate(make_samples(plain.config), prefixes=False))
    for settings, message in [
        ({"heads": 5}, "heads is 5; give a divisor of 32"),
        ({"tokens": "all"}, "give lm or fine"),
    ]:
        with pytest.raises(LareError, match=message):
            tiny_model("llama", latent_maker="mcout", latent_maker_settings=settings)
    training = get_method("mcout").training
    assert {loss.name: weight for loss, weight in training().losses().items()} == {"mcout": 0.3}  # type: ignore[misc]


# All ----------------------------------------------------------------------------------------------------------------

RUNS: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "coconut": ({"stage": 1}, {}, {"lm"}),
    "lvr": ({}, {}, {"lm", "lvr"}),
    "mcout": ({"iterations": 2}, {"latent_maker": "mcout", "use_window": False}, {"lm", "mcout"}),
}


@pytest.mark.parametrize(("name", "kind"), [("coconut", "llama"), ("lvr", "qwen2"), ("mcout", "qwen2")])
def test_a_run_of_each(name: str, kind: str, tmp_path: Path) -> None:
    """Trained by the command line from a start of its own, saved, loaded, and asked."""
    options, settings, losses = RUNS[name]
    folder = trained(tmp_path, {name: options}, kind, losses={"image": 0, "alignment": 0}, **settings)
    assert all(losses <= set(one) for one in losses_of(folder))
    before, after = (load_file(p / "model.safetensors") for p in (tmp_path / "start", folder / "final"))
    own = {key for key in after if key.startswith("latent_maker.")}
    assert bool(own) is (name == "mcout") and all(not torch.equal(before[key], after[key]) for key in own)
    method = load_method(name, str(folder / "final"), device="cpu", iterations=2)
    assert [one.latent_steps for one in method.answer(pictures(2), QUESTIONS[:2], SHORT)] == [2, 2]


@pytest.mark.parametrize(
    ("name", "kind"), [("coconut", "qwen2"), ("lvr", "llama"), ("mcout", "llama"), ("mcout", "qwen2")]
)
def test_answers_do_not_depend_on_the_batch(name: str, kind: str) -> None:
    together, alone = answers(name, kind, iterations=3)
    assert [(a.text, a.latent_steps) for a in together] == [(a.text, a.latent_steps) for a in alone]
    assert {a.latent_steps for a in together} == {3} and len({a.text for a in together}) > 1
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(*(torch.tensor(a.arrays["latents"]) for a in (one, other)), **CLOSE)


@pytest.mark.parametrize("name", ["coconut", "lvr", "mcout"])
def test_methods_are_models_of_lmms_eval(name: str) -> None:
    from lare_eval.manifest import manifests

    assert f"lare_{name}" in {manifest.model_id for manifest in manifests()}
