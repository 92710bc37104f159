"""Latents that stand for steps of the rationale: what the text leaves out, and which step each latent tells."""

from __future__ import annotations

import torch

from tests.training.loading import config, kept, processor, world


def test_latents_stand_for_the_first_steps_of_the_rationale() -> None:
    """With K in a mixture, each K leaves out as many steps as it has latents; rows with fewer keep the answer alone."""
    methods = {f"lare{k}": {"method": "lare", "share": 0.5, "iterations": k, "replaced_steps": True} for k in (1, 2)}
    batches = world(kind="IV", methods=methods, batch=16)
    tokenizer, seen = processor().tokenizer, set()
    for step in range(6):
        _, items, entry = batches.drawn(step)
        (batch,) = batches.micro_batches(step)
        steps = int(batch.inputs["iterations"])
        seen.add(steps)
        assert steps == entry.training.layout(batches.stage, config()).iterations
        for ids, item in zip(kept(batch.inputs["target_ids"], batch.inputs["target_mask"]), items, strict=True):
            rest = "".join(f" {one}" for one in item.question.rationale[steps:])
            assert tokenizer.decode(ids) == f"{rest} Answer: {item.final}{tokenizer.eos_token}"
    assert seen == {1, 2}


def test_several_latents_stand_for_a_step_and_tell_it() -> None:
    """Four latents, two a step: the text leaves out two steps; latents 1 and 2 tell the first, 3 and 4 what is left."""
    methods = {"lare": {"share": 1.0, "iterations": 4, "per_step": 2, "by_step": True, "replaced_steps": True}}
    batches = world(kind="IV", methods=methods, batch=16)
    tokenizer = processor().tokenizer
    _, items, _ = batches.drawn(0)
    (batch,) = batches.micro_batches(0)
    for ids, item in zip(kept(batch.inputs["target_ids"], batch.inputs["target_mask"]), items, strict=True):
        rest = "".join(f" {one}" for one in item.question.rationale[2:])
        assert tokenizer.decode(ids) == f"{rest} Answer: {item.final}{tokenizer.eos_token}"
    ids, mask = batch.inputs["prefix_ids"], batch.inputs["prefix_mask"].bool()
    assert ids.shape[:2] == (16, 4)
    for first in (0, 2):
        assert torch.equal(ids[:, first], ids[:, first + 1]) and torch.equal(mask[:, first], mask[:, first + 1])
    for row, item in enumerate(items):
        steps = list(item.question.rationale) or [f"Answer: {item.final}{tokenizer.eos_token}"]
        told = tokenizer.decode(ids[row, 0][mask[row, 0]]).removeprefix(" ")
        assert steps[0].startswith(told) and told and bool(mask[row, 2].any()) == (len(steps) > 1)
