"""Which precision a run computes in on this machine."""

from __future__ import annotations

from dataclasses import replace

import torch

from lare.training.plan.config import RunConfig

__all__ = ["AUTOCAST", "fast_bf16", "settled", "slow"]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Type of the forward pass's products by precision; weights, gradients and optimiser are float32 in each."""


def fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; without AVX512-BF16 it is 100 times slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def _best() -> str:
    """What this machine does well; a GPU before Ampere (V100, T4) only imitates bf16."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if fast_bf16() else "fp32"


def settled(config: RunConfig) -> RunConfig:
    """The run with ``precision: auto`` replaced by what this machine does well."""
    return replace(config, precision=_best()) if config.precision == "auto" else config


def slow(config: RunConfig) -> bool:
    """Whether the run asks for a precision that this machine only imitates."""
    if config.precision not in AUTOCAST:
        return False
    if torch.cuda.is_available():
        return config.precision == "bf16" and _best() != "bf16"
    return config.precision == "fp16" or not fast_bf16()
