"""Rivals that reason in latents: fed-back states against a slow reference, batches, training targets, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lare import LareError
from lare.methods import get_method
from lare.methods.base import Sampling
from lare.methods.layout import Layout
from lare.model import LareForConditionalGeneration, LareOutput
from tests.methods.tiny_checkpoint import pictures, tiny_parts
from tests.model import reference
from tests.model.test_loop import assert_gradients, gradients
from tests.model.tiny import Sample, collate, make_samples, tiny_model

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
QUESTIONS = [f"Is there a {thing}{' really' * n}?" for n, thing in enumerate(("dog", "cup", "cat"))]
KINDS = ("llama", "qwen2")


def fed_back(model: LareForConditionalGeneration, sample: Sample, steps: int) -> Tensor:
    """The whole sequence (S, d) after `steps` states, each from a pass over all before it, without a cache."""
    decoder, embed = reference.EagerDecoder(model), model.get_input_embeddings()
    visual = reference.visual_tokens(model, sample.features)
    before, after = (embed(torch.tensor(ids, dtype=torch.long)) for ids in (sample.before, sample.after))
    embeds = torch.cat((before, visual.lm, after))
    for _ in range(steps):
        state = decoder(embeds).final[-1]
        if model.config.rms_scale:
            rms = embed.weight.detach().square().mean().sqrt()
            state = state / (state.square().mean() + 1e-6).sqrt() * rms
        embeds = torch.cat((embeds, state[None]))
    return embeds


def lm_loss(model: LareForConditionalGeneration, embeds: Tensor, target: list[int]) -> Tensor:
    """Summed cross-entropy of a target after <|latent_end|>."""
    end = model.get_input_embeddings()(torch.tensor([model.config.latent_end_id]))
    return reference.teacher_forced(model, torch.cat((embeds, end)), target)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_fed_back_states_equal_a_recompute(kind: str, scaled: bool) -> None:
    """Values and gradients, in a batch of rows of different lengths; the model's Extractor and window take no part."""
    model = tiny_model(kind, refocus_source="fine", rms_scale=scaled)
    samples = make_samples(model.config, lengths=(1, 6, 3), seed=4)
    out: LareOutput = model(**collate(samples, prefixes=False), iterations=2, refocus=False)
    slow = [fed_back(model, sample, 2) for sample in samples]
    latents = torch.stack([embeds[-2:] for embeds in slow])
    torch.testing.assert_close(out.thoughts.latents[:, :, 0], latents, **CLOSE)
    expected = torch.stack([lm_loss(model, e, s.target) for e, s in zip(slow, samples, strict=True)]).sum()
    torch.testing.assert_close(out.lm_loss[0], expected, **CLOSE)
    found = gradients(model, out.lm_loss[0])
    assert_gradients(found, gradients(model, expected))
    assert not any(found[name].abs().any() for name in found if name.startswith(("extractor", "refocus_projector")))


def test_fed_back_states_are_those_of_a_model_without_extractor_and_window() -> None:
    model = tiny_model("llama", refocus_source="fine")
    bare = tiny_model("llama", refocus_source="fine", use_extractor=False, use_window=False)
    bare.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("extractor")})
    batch = collate(make_samples(model.config, lengths=(2, 5)))
    torch.testing.assert_close(model(**batch, refocus=False).logits, bare(**batch).logits, **CLOSE)
    assert not torch.allclose(model(**batch).logits, bare(**batch).logits, atol=1e-2)


def answers(name: str, kind: str, **options: Any) -> tuple[list[Any], list[Any]]:
    """Answers in one batch and one by one, with their traces."""
    own = get_method(name).latent_maker is not None
    settings = {"latent_maker": name, "use_window": False} if own else {}
    method = get_method(name)(*tiny_parts(family=kind, **settings), **options)
    images, sampling = pictures(3), Sampling(max_new_tokens=8)
    together = method.answer(images, QUESTIONS, sampling, trace=True)
    alone = [method.answer([i], [q], sampling, trace=True)[0] for i, q in zip(images, QUESTIONS, strict=True)]
    return together, alone


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "steps"), [("norefocus", 2), ("sft", 0)])
def test_answers_do_not_depend_on_the_batch(name: str, steps: int, kind: str) -> None:
    together, alone = answers(name, kind)
    assert [(a.text, a.output_tokens) for a in together] == [(a.text, a.output_tokens) for a in alone]
    assert {a.latent_steps for a in together} == {steps} and len({a.text for a in together}) > 1
    for one, other in zip(together, alone, strict=True):
        latents = (torch.tensor(answer.arrays["latents"]) for answer in (one, other))
        torch.testing.assert_close(*latents, **CLOSE)
        assert not one.arrays["cross_attention"].any(), "nothing is looked at"


def test_controls_reach_fed_back_states() -> None:
    parts = tiny_parts()
    method = get_method("norefocus")(*parts, iterations=3)
    images, sampling = pictures(3), Sampling(max_new_tokens=4)
    for latents in ("zeros", "noise"):
        for answer in method.changed(latents=latents).answer(images, QUESTIONS, sampling, trace=True):
            assert answer.latent_steps == 3 and bool(answer.arrays["latents"].any()) is (latents == "noise")
    assert method.arguments()["iterations"] == 3 and method.changed(hide_image=True).arguments()["hide_image"]


def settings(**changes: Any) -> Any:
    from tests.training.loading import stage

    return stage("IV", **changes)


def layout(name: str, **options: Any) -> Layout:
    """The layout of a method's update in a stage that leaves two tokens of the rationale out."""
    from lare.training.plan.mixture import entry_of
    from tests.training.loading import config

    return entry_of(name, options, "stage IV").training.layout(settings(), config())


def test_controls_have_lares_layout_without_its_looks_or_without_its_latents() -> None:
    lare, same, text = layout("lare"), layout("norefocus"), layout("sft")
    assert same == Layout(**vars(lare) | {"refocus": False})
    assert (text.iterations, text.delimiters, text.rationale, text.replaced) == (0, True, True, lare.replaced)
    assert layout("sft", replaced=0) == layout("cot", delimiters=True)
    with pytest.raises(LareError, match="'norefocus' looks nowhere; leave its window out"):
        layout("norefocus", window="random")


def test_the_whole_picture_is_rebuilt_from_latents_that_look_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    from lare.losses import image_loss
    from tests.training import plain

    monkeypatch.setattr("lare.embedded.batches.VARIANTS", 1)
    model = plain.tiny_model()
    stage = plain.run_config("unused").stages[3]
    (batch,) = plain.batches(stage, model).micro_batches(0)
    sides: list[int] = []
    cut = image_loss.crop_windows

    def noted(*given: Any) -> Tensor:
        sides.append(given[2])
        return cut(*given)

    monkeypatch.setattr(image_loss, "crop_windows", noted)
    from lare.training.trainer import make_draws

    draws = make_draws(plain.run_config("unused"), model, 3, 0, batch.rows)
    for refocus in (True, False):
        batch.inputs["refocus"] = refocus
        model(plain.to_double(batch), plain.WEIGHTS, draws)
    assert sides == [model.lare.config.window, model.lare.config.grid]


def trained(
    tmp_path: Path, method: dict[str, Any], kind: str = "llama", losses: dict[str, float] | None = None, **settings: Any
) -> Path:
    """A tiny checkpoint after a few updates by a method's training, through the command line; its folder."""
    import json

    from lare.cli import main

    model, processor = tiny_parts(family=kind, **settings)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "start")
    rows = []
    for number, picture in enumerate(pictures(12)):
        picture.save(tmp_path / f"{number}.png")
        reply = f"<think>It is dark. It is {number}.</think> <answer>{number}</answer>"
        turns = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": reply}]
        boxes = [None, [0.0, 0.25, 0.5, 0.75]]
        rows.append({"id": str(number), "image": f"{number}.png", "conversations": turns, "boxes": boxes})
    (tmp_path / "data.json").write_text(json.dumps(rows))
    stage = {"stage": "IV", "batch": 4, "samples": 16, "data": [{"path": str(tmp_path / "data.json")}]}
    run_file = {
        "out": str(tmp_path / "run"), "model": {"checkpoint": str(tmp_path / "start")}, "tensorboard": False,
        "log_every": 1, "losses": losses or {"image": 0}, "stages": [stage | {"methods": method}],
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(run_file))
    assert main(["train", str(tmp_path / "run.yaml")]) == 0
    return tmp_path / "run" / "IV"


def losses_of(folder: Path) -> list[dict[str, float]]:
    """The losses of each update."""
    import json

    return [json.loads(line)["losses"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_control_is_trained_from_lares_start(tmp_path: Path) -> None:
    """From LaRe's own start, with its losses and without changing the model's settings."""
    from lare.methods import load_method

    folder = trained(tmp_path, {"norefocus": 1})
    assert all({"lm", "alignment", "text"} <= set(one) for one in losses_of(folder))
    method = load_method("norefocus", str(folder / "final"), device="cpu")
    assert method.answer(pictures(1), QUESTIONS[:1], Sampling(max_new_tokens=4))[0].latent_steps == 2


@pytest.mark.parametrize("name", ["norefocus", "sft"])
def test_methods_are_models_of_lmms_eval(name: str) -> None:
    from lare_eval.manifest import manifests

    assert f"lare_{name}" in {manifest.model_id for manifest in manifests()}
