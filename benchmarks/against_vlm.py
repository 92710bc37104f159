"""LaRe's batched generation against transformers' `generate` for the same vision-language model.

A Qwen2.5-VL of random weights, of 1 and of 100 million parameters, at native resolution: a picture of 16 x 16 visual
tokens (8 x 8 for the large one) and 64 tokens of text, 32 new tokens. Without latents and delimiters LaRe is the model,
so both must write the same tokens, which is checked before anything is timed. A second row gives LaRe its four latent
steps. Vision is included. Target: at least as fast (K = 0), for a batch of 1 and of 16. Batches of the large model get
`FEW` rounds at most.

    python -m benchmarks.against_vlm --rounds 7
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from benchmarks.common import Options, Result, Side, compare, main
from lare.backbones.adopt import adopted_config
from lare.model import LareForConditionalGeneration

__all__ = ["LARGE", "TINY", "VlmSize", "measure", "models_of", "prompts_of"]

NEW_TOKENS, TEXT = 32, 64
VOCABULARY, PAD, IMAGE, VIDEO, BEGIN, END = 8192, 0, 8180, 8181, 8182, 8183
BATCHES = (1, 16)
FEW = 3
"""Rounds of a batch of the large model, each run of which takes some ten seconds on a slow core."""
PLAIN: dict[str, Any] = {"iterations": 0, "delimiters": False}


@dataclass(frozen=True)
class VlmSize:
    """A vision-language model's sizes.

    Attributes:
        name: In the results.
        hidden: Width of the decoder.
        layers: Its layers.
        heads: Its attention heads, of equal width with the keys'.
        inner: Width of its feed-forward layers.
        vision: Width of the tower.
        depth: Its layers.
        side: Visual tokens along a side of the picture.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    inner: int
    vision: int
    depth: int
    side: int = 16


TINY = VlmSize("1M", 128, 4, 4, 384, 64, 2)
LARGE = VlmSize("100M", 768, 12, 12, 2048, 256, 4, side=8)


def config_of(size: VlmSize) -> PreTrainedConfig:
    """A Qwen2.5-VL configuration."""
    half = size.hidden // size.heads // 2
    section = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    text = dict(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=PAD,
    )
    vision = dict(
        depth=size.depth,
        hidden_size=size.vision,
        out_hidden_size=size.hidden,
        intermediate_size=2 * size.vision,
        num_heads=4,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
        window_size=112,
        fullatt_block_indexes=[size.depth - 1],
    )
    ids = dict(image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=BEGIN, vision_end_token_id=END)
    return AutoConfig.for_model("qwen2_5_vl", text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)


def models_of(size: VlmSize) -> tuple[LareForConditionalGeneration, PreTrainedModel]:
    """LaRe on a model of random weights, and transformers' model with copies of them."""
    torch.manual_seed(0)
    settings = {"iterations": 4, "window": size.side // 2, "extractor_dim": size.hidden, "extractor_heads": size.heads,
                "extractor_output_init": 0.25}  # fmt: skip
    made = adopted_config(config_of(size), settings)
    made.image_token_id = IMAGE
    model = LareForConditionalGeneration(made).eval()
    twin: PreTrainedModel = AutoModelForImageTextToText.from_config(config_of(size), attn_implementation="sdpa").eval()
    twin.load_state_dict(model.language_model.state_dict())
    return model, twin


def prompts_of(
    model: LareForConditionalGeneration, rows: int, latent: bool = False, side: int = 16
) -> dict[str, Tensor]:
    """Prompts of equal length: text, the picture between its marks, text."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(8, 8000, (rows, TEXT), generator=generator)
    marks = [torch.full((rows, count), token) for token, count in ((BEGIN, 1), (IMAGE, side**2), (END, 1))]
    ids = torch.cat([words[:, :8], *marks, words[:, 8:]], dim=1)
    if latent:
        ids[:, -1] = model.config.latent_start_id
    patches = torch.randn(rows * 4 * side**2, 3 * 2 * 14 * 14, generator=generator)
    grid = torch.tensor([[1, 2 * side, 2 * side]] * rows)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": patches, "image_grid_thw": grid}


def own_answer(twin: PreTrainedModel, prompts: dict[str, Tensor], new_tokens: int) -> Tensor:
    """Exactly `new_tokens` tokens a row, by transformers."""
    further: dict[str, Any] = {}
    if "mm_token_type_ids" in inspect.signature(twin.forward).parameters:  # newer ones tell pictures by it
        further["mm_token_type_ids"] = (prompts["input_ids"] == IMAGE).int()
    with torch.inference_mode():
        sequences: Tensor = twin.generate(  # type: ignore[operator]
            **prompts, **further, max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=PAD
        )
    return sequences[:, prompts["input_ids"].shape[1] :]


def answer(model: LareForConditionalGeneration, prompts: dict[str, Tensor], new_tokens: int, **options: Any) -> Tensor:
    """The same by LaRe."""
    return model.generate(**prompts, max_new_tokens=new_tokens, eos_token_ids=[], **options).sequences


def _check_equal(ours: Tensor, theirs: Tensor) -> None:
    agreement = (ours == theirs).float().mean().item() if ours.shape == theirs.shape else 0.0
    if agreement < 0.9:
        raise RuntimeError(f"LaRe without latents and transformers agree on {agreement:.0%} of the tokens")


def measure(
    options: Options,
    sizes: Sequence[VlmSize] = (TINY, LARGE),
    batches: Sequence[int] = BATCHES,
    new_tokens: int = NEW_TOKENS,
) -> list[Result]:
    """Time whole answers, vision included."""
    results = []
    for size in sizes:
        model, twin = models_of(size)
        count = sum(one.numel() for one in twin.parameters())
        for batch in batches:
            plain, latent = (prompts_of(model, batch, latents, size.side) for latents in (False, True))
            _check_equal(answer(model, plain, new_tokens, **PLAIN), own_answer(twin, plain, new_tokens))
            theirs = Side("transformers", lambda p=plain, t=twin: own_answer(t, p, new_tokens), batch)
            sides = {
                "K=0": Side("LaRe K=0", lambda p=plain, m=model: answer(m, p, new_tokens, **PLAIN), batch),
                "K=4": Side("LaRe K=4", lambda p=latent, m=model: answer(m, p, new_tokens, iterations=4), batch),
            }
            chosen = options
            if batch > 1 and size.hidden >= LARGE.hidden:
                chosen = replace(options, rounds=min(FEW, options.rounds), warmup=min(1, options.warmup))
            results += [
                compare(
                    f"against_vlm {size.name} b{batch} {case}",
                    side,
                    theirs,
                    chosen,
                    at_least=1.0 if case == "K=0" else 0.85,
                    speed=True,
                    details={
                        "parameters": count,
                        "positions": plain["input_ids"].shape[1],
                        "new_tokens": new_tokens,
                        "batch": batch,
                    },
                )
                for case, side in sides.items()
            ]
    return results


if __name__ == "__main__":
    sys.exit(main("against_vlm", __doc__ or "", measure))
