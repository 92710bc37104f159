"""How much faster a batch of 16 answers than 16 single ones, per answer.

A decoder of 36 million parameters, a prompt of 256 + 64, 32 new tokens, K = 4. Target: at least 4 times the answers per
second. How much there is to gain depends on the machine: a single answer spends its time on reading weights, a batch on
arithmetic, and a prompt of 320 positions is arithmetic for both. So transformers' LLaVA with the same weights is timed
in the same run, and a last row tells how much any implementation could gain: a whole answer alone against nothing but
the prompt's share of a batch of 16. In fp32 and bf16.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from benchmarks.against_llava import llava_answer, llava_twin
from benchmarks.common import Options, Result, Side, compare, main
from benchmarks.generating import answer
from benchmarks.models import BASE, Batch, lare_model, make_batch
from lare.model import LareConfig, LareForConditionalGeneration

BATCH, NEW_TOKENS = 16, 32
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _gain(name: str, run: Callable[[Batch], object], prompts: Callable[[int], Batch], options: Options) -> Result:
    many, one = prompts(BATCH), prompts(1)
    return compare(
        f"batch_throughput 36M {name}",
        Side("batch 16", lambda: run(many), BATCH),
        Side("batch 1", lambda: run(one)),
        options,
        at_least=4.0,
        speed=True,
        details={"positions": one.input_ids.shape[1], "new_tokens": NEW_TOKENS},
    )


def _bound(
    label: str, model: LareForConditionalGeneration, prompts: Callable[[int], Batch], options: Options
) -> Result:
    many, one = prompts(BATCH), prompts(1)
    return compare(
        f"batch_throughput 36M bound {label}",
        Side("prompt alone, batch 16", lambda: answer(model, many, 1, iterations=0), BATCH),
        Side("batch 1", lambda: answer(model, one, NEW_TOKENS, iterations=4)),
        options,
        at_least=4.0,
        speed=True,
    )


def _prompts(config: LareConfig, kind: torch.dtype, latent: bool, rows: int) -> Batch:
    made = make_batch(config, rows)
    made = replace(made, pixel_values=made.pixel_values.to(kind))
    return made.ending_in(config.latent_start_id) if latent else made


def measure(options: Options) -> list[Result]:
    """Time answers in a batch of 16 against one alone, for LaRe and for its peer."""
    results = []
    for label, kind in KINDS.items():
        model = lare_model(BASE).to(kind)
        twin = llava_twin(model).to(kind)
        latent, plain = (partial(_prompts, model.config, kind, flag) for flag in (True, False))
        results += [
            _gain(f"LaRe K=4 {label}", lambda b, m=model: answer(m, b, NEW_TOKENS, iterations=4), latent, options),
            _gain(f"LLaVA {label}", lambda b, t=twin: llava_answer(t, b), plain, options),
            _bound(label, model, latent, options),
        ]
    return results


if __name__ == "__main__":
    sys.exit(main("batch_throughput", __doc__ or "", measure))
