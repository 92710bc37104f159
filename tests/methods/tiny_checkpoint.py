"""A whole LaRe checkpoint, tokenizer and all, with random weights: it answers a question in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel
from transformers import CLIPImageProcessor, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast, Qwen2Config

from lare.embedded.vision_conv import LareVisionConfig
from lare.model import LareConfig, LareForConditionalGeneration, LareProcessor

SIDE, GRID, LM_GRID = 64, 4, 2
SENTENCES = ["Is there a dog in the image? Answer yes or no.", "A. cup B. cat C. car D. dog Answer with the letter."]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few merges, so every text can be written."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=400
    )


def tiny_parts(
    seed: int = 0, family: str = "llama", vision: PreTrainedConfig | None = None, **changes
) -> tuple[LareForConditionalGeneration, LareProcessor]:
    """A model with wide random weights (so that texts differ) and its processor."""
    tokenizer = tiny_tokenizer()
    processor = LareProcessor(
        CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False, do_convert_rgb=True, resample=2),
        tokenizer,
        lm_grid=LM_GRID,
    )
    text = {"llama": LlamaConfig, "qwen2": Qwen2Config}[family](
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = LareConfig(
        text_config=text,
        vision_config=vision or LareVisionConfig(image_size=SIDE, widths=(4, 4, 8, 16)),
        image_size=SIDE,
        grid=GRID,
        lm_grid=LM_GRID,
        refocus_source="fine",
        iterations=2,
        window=2,
        extractor_dim=24,
        extractor_heads=3,
        extractor_output_init=0.25,
        image_token_id=processor.image_token_id,
        latent_start_id=processor.latent_start_id,
        latent_end_id=processor.latent_end_id,
        **changes,
    )
    torch.manual_seed(seed)
    model = LareForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.copy_(torch.randn_like(parameter) * (0.5 if "embed" in name or "head" in name else 0.25))
    return model, processor


def write_checkpoint(folder: Path, seed: int = 0, vision: PreTrainedConfig | None = None) -> Path:
    """Save a tiny checkpoint and return its folder."""
    model, processor = tiny_parts(seed, vision=vision)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def pictures(count: int, side: int = 48) -> list[Image.Image]:
    """Pictures of noise."""
    rng = np.random.default_rng(3)
    return [Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in range(count)]
