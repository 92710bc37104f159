"""Which precision a run computes in on this machine."""

from __future__ import annotations

from dataclasses import replace

import torch

from lare.training.config import RunConfig

__all__ = ["fast_bf16", "settled", "slow"]


def fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; without AVX512-BF16 it is 100 times slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def settled(config: RunConfig) -> RunConfig:
    """The run with ``precision: auto`` replaced by what this machine does well: bf16 in hardware, else fp32."""
    if config.precision != "auto":
        return config
    hardware = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else fast_bf16()
    return replace(config, precision="bf16" if hardware else "fp32")


def slow(config: RunConfig) -> bool:
    """Whether the run asks for a precision that this machine only imitates."""
    return config.precision == "bf16" and not torch.cuda.is_available() and not fast_bf16()
