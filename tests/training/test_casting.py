"""Frozen layers under adapters that are cast once give the very losses and gradients that autocast gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lare.backbones.assemble import assemble
from lare.backbones.published import EFFICIENTNET
from lare.training.casting import cast_once
from lare.training.model import TrainingModel
from lare.training.plan.stages import STAGES, freeze_all_but

pytest.importorskip("gguf")
from tests.model.gguf_files import write_qwen2_gguf  # noqa: E402
from tests.model.test_gguf import TINY, _pictures, needs_encoder  # noqa: E402


@needs_encoder
def test_losses_and_gradients_are_the_same_bit_by_bit(tmp_path: Path) -> None:
    write_qwen2_gguf(tmp_path / "tiny.gguf")
    model, processor = assemble(f"{tmp_path}::tiny.gguf", EFFICIENTNET, TINY)
    whole = TrainingModel(model, 8, precision="bf16").train()
    freeze_all_but(whole, STAGES["IV"].parts)
    batch = dict(processor(text=processor.build_prompts(["A?", "B?"]), images=_pictures(2)))
    ids = torch.tensor([[5, 6, 7], [7, 8, 9]])

    def step() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        whole.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = model(**batch, iterations=2, target_ids=ids, prefix_ids=ids[:, :2])
        loss = out.lm_loss[0] + out.prefix_loss[0]
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in whole.named_parameters() if p.grad is not None}

    before, slow = step()
    names = set(whole.state_dict())
    with cast_once(whole, "bf16") as count:
        assert count > 10 and set(whole.state_dict()) == names
        after, fast = step()
        plain = model.get_output_embeddings()(torch.ones(1, int(model.config.text_config.hidden_size)))
        assert plain.dtype == torch.float32  # without autocast nothing is cast
    assert torch.equal(before, after) and slow.keys() == fast.keys()
    assert not [name for name, value in slow.items() if not torch.equal(value, fast[name])]
    assert not [module for module in whole.modules() if "forward" in vars(module)]
    with cast_once(whole, "fp32") as count:
        assert count == 0


def test_layers_that_train_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    with cast_once(model, "bf16") as count:
        assert count == 1 and "forward" not in vars(model[0])
