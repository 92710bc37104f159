"""A vision-language model whose frozen decoder is held in 8 or 4 bits, by bitsandbytes (Dettmers et al. 2022, 2023).

The decoder's linear layers are quantised as transformers loads them; low-rank adapters beside them train (QLoRA). The
encoder, what takes its features to the decoder, the embeddings and the LM head stay as they are. In 4 bits the type is
NF4 with quantised constants.

A checkpoint holds no quantised weights: what the layers compute with is written out, so it loads anywhere, without
bitsandbytes, and computes the same up to rounding. A run that is resumed quantises the published weights again, and
refuses a checkpoint whose base differs.
"""

from __future__ import annotations

import importlib.util
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from lare.errors import LareError
from lare.model.backbone import VisionLanguage

__all__ = ["BITS", "check_quantised", "keep_quantised", "quantisation"]

BITS = {"8bit": 8.0, "4bit": 4.0 + 8 / 64 + 32 / (64 * 256)}
"""Bits a weight by kind; in 4 bits with the constants of 64 weights in 8 bits, and of 256 constants in 32."""


def quantisation(kind: str, family: VisionLanguage, dtype: torch.dtype) -> BitsAndBytesConfig:
    """What transformers is told.

    Args:
        kind: One of `BITS`.
        family: Says which parts stay as they are.
        dtype: Type in which products are computed.
    """
    whole = ["lm_head", family.tower, *family.connector]
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=whole,
    )


def check_quantised(kind: str) -> None:
    """Refuse before anything is loaded.

    Raises:
        LareError: If the package or an accelerator is missing.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise LareError(
            f"model.quantise={kind} needs the package bitsandbytes; install it with pip install bitsandbytes"
        )
    if not _accelerated():
        raise LareError(
            f"model.quantise={kind} needs a GPU with CUDA, and there is none here; leave it out, or train there"
        )


def _accelerated() -> bool:
    return torch.cuda.is_available()


def keep_quantised(model: PreTrainedModel) -> int:
    """Let a quantised model give and take plain weights, and forget in its configuration that it is quantised.

    Returns:
        How many of its layers are quantised.
    """
    quantizer: Any = model.hf_quantizer
    quantizer.remove_quantization_config(model)
    layers = [one for one in model.modules() if type(one).__module__.startswith("bitsandbytes.")]
    for layer in layers:
        layer.register_state_dict_post_hook(_give)
        layer.register_load_state_dict_pre_hook(_take)
    return len(layers)


@torch.no_grad()
def plain_weight(layer: Any) -> Tensor:
    """What a quantised layer computes with, on the CPU."""
    from bitsandbytes import functional

    weight = layer.weight
    state = getattr(weight, "quant_state", None)
    if state is not None:
        return cast(Tensor, functional.dequantize_4bit(weight.data, state).cpu())
    scales = layer.state.SCB if getattr(weight, "SCB", None) is None else weight.SCB
    return cast(Tensor, functional.int8_vectorwise_dequant(weight.data, scales).cpu())


def _give(layer: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Put the plain weight in the place of the quantised one and its constants."""
    own = [name for name in state if name.startswith((f"{prefix}weight", f"{prefix}SCB"))]
    for name in own:
        del state[name]
    state[f"{prefix}weight"] = plain_weight(layer)


def _take(
    layer: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any, strict: bool, missing: list[str],
    unexpected: list[str], errors: list[str],
) -> None:  # fmt: skip
    """Leave the quantised weight as it is, if the plain one that is given is that."""
    name, own = f"{prefix}weight", plain_weight(layer)
    given = state.get(name)
    if given is not None:
        if given.shape != own.shape or not torch.equal(given.to(own), own):
            errors.append(f"{name} is of another base than the quantised one")
        state[name] = layer.weight.data  # type: ignore[assignment]
