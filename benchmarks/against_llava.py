"""LaRe's generation against transformers' LlavaForConditionalGeneration with the very same weights.

Without latents and delimiters LaRe is LLaVA, so both must write the same tokens, which is checked before anything is
timed. A second row gives LaRe its four latent steps. A prompt of 256 + 64, 32 new tokens. Target: at least as fast
(K = 0), for a batch of 1 and of 16.
"""

from __future__ import annotations

import copy
import sys

import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

from benchmarks.common import Options, Result, Side, compare, main
from benchmarks.generating import answer
from benchmarks.models import BASE, Batch, lare_model, make_batch
from lare.model import LareForConditionalGeneration

NEW_TOKENS = 32


def llava_twin(model: LareForConditionalGeneration) -> LlavaForConditionalGeneration:
    """A LLaVA model that holds copies of LaRe's weights.

    Raises:
        RuntimeError: If the two don't have the same parameters.
    """
    config = model.config
    twin = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=copy.deepcopy(config.vision_config),
            text_config=copy.deepcopy(config.text_config),
            image_token_id=config.image_token_id,
            image_token_index=config.image_token_id,
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy="default",
            image_seq_length=config.lm_grid**2,
        )
    ).eval()
    twin.set_attn_implementation("sdpa")
    twin.model.vision_tower.load_state_dict(model.vision_tower.encoder.state_dict())
    twin.model.multi_modal_projector.load_state_dict(model.projector.state_dict())
    twin.model.language_model.load_state_dict(model.decoder.state_dict())
    twin.lm_head.load_state_dict(model.get_output_embeddings().state_dict())
    return twin


def llava_answer(twin: LlavaForConditionalGeneration, prompts: Batch) -> Tensor:
    """Exactly `NEW_TOKENS` tokens a row, (B, NEW_TOKENS)."""
    with torch.inference_mode():
        sequences = twin.generate(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            pixel_values=prompts.pixel_values,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=None,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=2,
            use_cache=True,
        )
    return sequences[:, prompts.input_ids.shape[1] :]


def _check_equal(ours: Tensor, theirs: Tensor) -> None:
    agreement = (ours == theirs).float().mean().item()
    if ours.shape != theirs.shape or agreement < 0.9:
        raise RuntimeError(f"LaRe without latents and LLaVA agree on {agreement:.0%} of the tokens: not the same work")


def measure(options: Options) -> list[Result]:
    """Time whole answers, vision included."""
    model = lare_model(BASE)
    twin = llava_twin(model)
    results = []
    for batch in (1, 16):
        plain = make_batch(model.config, batch)
        thinking = plain.ending_in(model.config.latent_start_id)
        _check_equal(answer(model, plain, NEW_TOKENS, iterations=0, delimiters=False), llava_answer(twin, plain))
        theirs = Side("LLaVA", lambda b=plain: llava_answer(twin, b), batch)
        sides = {
            "K=0": Side(
                "LaRe K=0", lambda b=plain: answer(model, b, NEW_TOKENS, iterations=0, delimiters=False), batch
            ),
            "K=4": Side("LaRe K=4", lambda b=thinking: answer(model, b, NEW_TOKENS, iterations=4), batch),
        }
        for case, side in sides.items():
            results.append(
                compare(
                    f"against_llava b{batch} {case}",
                    side,
                    theirs,
                    options,
                    at_least=1.0 if case == "K=0" else 0.85,
                    speed=True,
                    details={"positions": plain.input_ids.shape[1], "new_tokens": NEW_TOKENS, "batch": batch},
                )
            )
    return results


if __name__ == "__main__":
    sys.exit(main("against_llava", __doc__ or "", measure))
