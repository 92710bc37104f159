"""How much of the machine's matrix-multiplication speed a training step reaches.

Left: operations of the step's matrix products (forward and backward, as torch counts them) per second of the whole
step. Right: those of one large matrix product, measured in the same rounds. A stage-III step: K = 4, text-prefix
reconstruction and alignment, a prompt of 256 + 64, targets of 64 tokens; fp32 and bf16 (autocast). Beside it the same
trainer without latents, transformers' plain LLaVA step, which trains the same parameters, and the embedded model's
sizes. As it is, LLaVA runs the LM head at every position: 13 % more operations at 36 M parameters, in large products,
which flatter its rate. "Head at the target" is the same step with the head where a label is, as in LaRe: equal work, so
the two are also timed against each other. Targets: at least 0.60 in fp32 and 0.42 in bf16 at 36 M parameters, and with
equal work LLaVA's rate.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.against_llava import llava_twin
from benchmarks.common import Options, Result, Side, compare, main
from benchmarks.models import BASE, EMBEDDED, Size, lare_model, make_batch
from lare.training.feeding.batch import Draws, MicroBatch
from lare.training.model import TrainingModel
from lare.training.step import run_step

TARGET_TOKENS, PREFIX_TOKENS = 64, 32
WEIGHTS = {"alignment": 0.1, "image": 0.0, "text": 0.5, "look": 0.0}
TARGETS = {"fp32": 0.60, "bf16": 0.42}
SIDE = 2048
"""Side of the matrix product that stands for the machine's speed."""

Step = Callable[[], object]


def _flops(step: Step) -> float:
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def _optimiser(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)


def lare_step(size: Size, batch: int, precision: str, latents: bool = True, **changes: Any) -> Step:
    """A whole stage-III update of a model of this size; without latents the same work as LLaVA's."""
    lare = lare_model(size, **changes)
    model = TrainingModel(lare, 256, None, precision).train()
    config = lare.config
    prompts = make_batch(config, batch).ending_in(config.latent_start_id)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(8, size.vocabulary - 8, (batch, TARGET_TOKENS), generator=generator)
    ones = torch.ones_like(ids)
    with torch.no_grad():
        features = lare.vision_tower(prompts.pixel_values)
    inputs: dict[str, Any] = {
        "input_ids": prompts.input_ids,
        "attention_mask": prompts.attention_mask,
        "visual_features": features,
        "target_ids": ids,
        "target_mask": ones,
        "prefix_ids": ids[:, :PREFIX_TOKENS],
        "prefix_mask": ones[:, :PREFIX_TOKENS],
        "iterations": 4,
        "delimiters": True,
    }
    if not latents:
        prompts = make_batch(config, batch)
        inputs |= {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask}
        inputs |= {"iterations": 0, "delimiters": False, "prefix_ids": None, "prefix_mask": None}
        # LLaVA has neither; trained here, they would get gradients of zero and an optimiser's step.
        for part in (lare.extractor, model.alignment):
            if part is not None:
                part.requires_grad_(False)
    weights = WEIGHTS if latents else dict.fromkeys(WEIGHTS, 0.0)
    micro = MicroBatch(inputs, ids, ones)
    draws = Draws(torch.zeros(batch, dtype=torch.bool), torch.zeros(batch))
    optimiser = _optimiser(model)

    def step() -> None:
        run_step(model, [micro], weights, [draws], 0.07)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def llava_step(size: Size, batch: int, precision: str, everywhere: bool = True) -> Step:
    """A plain update of transformers' LLaVA with the same decoder.

    Args:
        size: The decoder's.
        batch: Rows.
        precision: ``fp32`` or ``bf16`` (autocast).
        everywhere: The LM head at all text positions, as LLaVA has it; False is at the target's alone.
    """
    lare = lare_model(size)
    twin = llava_twin(lare).train()
    twin.model.vision_tower.requires_grad_(False)
    prompts = make_batch(lare.config, batch)
    ids = torch.randint(8, size.vocabulary - 8, (batch, TARGET_TOKENS), generator=torch.Generator().manual_seed(1))
    whole = torch.cat((prompts.input_ids, ids), 1)
    labels = whole.clone()
    labels[:, : prompts.input_ids.shape[1]] = -100
    optimiser = _optimiser(twin)

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            out = twin(
                input_ids=whole,
                attention_mask=torch.ones_like(whole),
                pixel_values=prompts.pixel_values,
                labels=labels if everywhere else None,
                logits_to_keep=0 if everywhere else TARGET_TOKENS + 1,
            )
        logits = out.logits[:, -TARGET_TOKENS - 1 : -1].float()
        loss: Tensor = out.loss if everywhere else cross_entropy(logits.flatten(0, 1), ids.flatten())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def _product(precision: str) -> Side:
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(SIDE, SIDE).to(kind), torch.randn(SIDE, SIDE).to(kind)
    return Side(f"matrix product {precision}", lambda: left @ right, 2.0 * SIDE**3)


def measure(options: Options) -> list[Result]:
    """Compare every step with the machine's speed."""
    results = []
    for precision, target in TARGETS.items():
        product = _product(precision)
        cases = {
            "LaRe 36M b4": (lare_step(BASE, 4, precision), target),
            "LaRe 36M b4, no latents": (lare_step(BASE, 4, precision, latents=False), 0.0),
            "LLaVA 36M b4": (llava_step(BASE, 4, precision), 0.0),
            "LLaVA 36M b4, head at the target": (llava_step(BASE, 4, precision, everywhere=False), 0.0),
            "LaRe embedded size b64": (
                lare_step(EMBEDDED, 64, precision, refocus_source="fine", lm_grid=4, window=8),
                0.0,
            ),
        }
        for name, (step, least) in cases.items():
            side = Side(f"{name} {precision}", step, _flops(step))
            results.append(compare(f"flop_rate {name} {precision}", side, product, options, at_least=least, speed=True))
        results.append(_equal_work(precision, options))
    return results


def _equal_work(precision: str, options: Options) -> Result:
    """The trainer without latents against LLaVA, operation for operation."""
    ours, theirs = lare_step(BASE, 4, precision, latents=False), llava_step(BASE, 4, precision, everywhere=False)
    left = Side(f"LaRe 36M b4, no latents {precision}", ours, _flops(ours))
    right = Side(f"LLaVA 36M b4, head at the target {precision}", theirs, _flops(theirs))
    return compare(f"flop_rate equal work {precision}", left, right, options, at_least=1.0, speed=True)


if __name__ == "__main__":
    sys.exit(main("flop_rate", __doc__ or "", measure))
