"""Tiny models and inputs that every test of the model shares: random weights, but large enough to be peaky.

Freshly initialised models are no use here: their attention is flat (any window would do), their Extractor starts at
zero, and their norms have gains of one, so half of the code could be left out without a number changing. So every
trainable weight is drawn anew, wide enough that each part of the model shows in its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig, Qwen2Config

from lare.embedded.vision_conv import LareVisionConfig
from lare.model import LareConfig, LareForConditionalGeneration

BACKBONES = ("llama", "qwen2")
VOCABULARY = 72
PAD, BOS, EOS = 0, 1, 2
IMAGE, START, END = VOCABULARY - 3, VOCABULARY - 2, VOCABULARY - 1
WORDS = range(3, IMAGE)
GRID, WINDOW, WIDTH, LAYERS = 4, 2, 32, 3


def text_config(kind: str = "llama", **changes: Any) -> PreTrainedConfig:
    """Three layers, four heads on two key heads."""
    values: dict[str, Any] = dict(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        attention_dropout=0.0,
        tie_word_embeddings=kind == "qwen2",
    )
    return {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](**(values | changes))


def conv_vision(**changes: Any) -> LareVisionConfig:
    """A 64-pixel convolutional encoder: a 4 x 4 grid of 16 + 8 channels."""
    return LareVisionConfig(**({"image_size": 64, "widths": (4, 4, 8, 16), "blocks": (0, 0, 1, 1)} | changes))


def clip_vision(**changes: Any) -> CLIPVisionConfig:
    """A CLIP tower of three layers on 4 x 4 patches of 8 pixels."""
    values: dict[str, Any] = dict(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=32,
        patch_size=8,
    )
    return CLIPVisionConfig(**(values | changes))


def tiny_config(kind: str = "llama", **changes: Any) -> LareConfig:
    """A configuration on a 4 x 4 grid; `refocus_source="fine"` brings a 2 x 2 grid for the decoder."""
    values: dict[str, Any] = dict(
        text_config=text_config(kind),
        vision_config=clip_vision(),
        image_size=32,
        grid=GRID,
        lm_grid=2 if changes.get("refocus_source") == "fine" else GRID,
        iterations=3,
        window=WINDOW,
        extractor_dim=24,
        extractor_heads=3,
        max_iterations=6,
        text_prefix=4,
        image_token_id=IMAGE,
        latent_start_id=START,
        latent_end_id=END,
    )
    return LareConfig(**(values | changes))


def tiny_model(
    kind: str = "llama", seed: int = 0, lively: bool = False, **changes: Any
) -> LareForConditionalGeneration:
    """A model in evaluation mode whose trainable weights are all drawn anew (see `randomise`)."""
    torch.manual_seed(seed)
    return randomise(LareForConditionalGeneration(tiny_config(kind, **changes)), seed, lively).eval()


@torch.no_grad()
def randomise(model: LareForConditionalGeneration, seed: int, lively: bool = False) -> LareForConditionalGeneration:
    """Draw all weights, gains and biases so that none is zero and attention is peaky.

    The sizes are a compromise: wider weights make rounding grow through the layers until float32 can no longer tell a
    right gradient from a wrong one at 1e-5. `lively` is for text alone: MLPs so wide, and a tied table so small
    beside them, that a decoder does not just echo its last token.
    """
    generator = torch.Generator().manual_seed(seed)
    tied = model.config.text_config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        if "embed_tokens" in name or "lm_head" in name:
            draw = draw * (0.15 if lively and tied else 0.4)
        elif parameter.dim() >= 2:
            draw = draw * (_gain(name, lively) / parameter[0].numel() ** 0.5)
        elif name.endswith("weight"):
            draw = 1.0 + 0.2 * draw
        else:
            draw = 0.05 * draw
        parameter.copy_(draw)
    return model


def _gain(name: str, lively: bool) -> float:
    """Queries and keys are wider than the rest."""
    if any(part in name for part in ("q_proj", "k_proj", "qkv", "query", "key_value")):
        return 1.6
    return 1.2 if lively and ".mlp." in name else 0.5


def trainable(model: LareForConditionalGeneration) -> dict[str, torch.nn.Parameter]:
    """Named parameters that take gradients."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@dataclass
class Sample:
    """One unpadded example.

    Attributes:
        before: Ids up to the image tokens.
        after: Ids behind them, with the closing <|latent_start|> (or without it, for `delimiters=False`).
        features: Frozen encoder features, (N_f, d_vis).
        target: Ids that follow <|latent_end|>.
        prefix: Ids that the latents alone must reconstruct.
        slots: N_v, image tokens between `before` and `after`.
    """

    before: list[int]
    after: list[int]
    features: Tensor
    target: list[int]
    prefix: list[int]
    slots: int

    @property
    def shared(self) -> list[int]:
        """Ids up to and including the image tokens."""
        return self.before + [IMAGE] * self.slots

    @property
    def prompt(self) -> list[int]:
        """All ids of the prompt."""
        return self.shared + self.after


def make_samples(
    config: LareConfig, lengths: Sequence[int] = (5, 3), seed: int = 0, start: bool = True
) -> list[Sample]:
    """Examples with questions of the given lengths, all with the same two tokens before the image."""
    generator = torch.Generator().manual_seed(seed)

    def words(count: int) -> list[int]:
        return torch.randint(WORDS.start, WORDS.stop, (count,), generator=generator).tolist()

    width = int(config.vision_config.hidden_size)
    before = [BOS, *words(1)]
    return [
        Sample(
            before=before,
            after=words(length) + ([START] if start else []),
            features=torch.randn(config.grid**2, width, generator=generator),
            target=words(length + 1),
            prefix=words(2 + length % 3),
            slots=config.lm_grid**2,
        )
        for length in lengths
    ]


def pad(rows: Sequence[Sequence[int]], left: bool) -> tuple[Tensor, Tensor]:
    """Pad id lists to (B, S) with their mask."""
    size = max(len(row) for row in rows)
    ids, mask = [], []
    for row in rows:
        gap = size - len(row)
        ids.append([PAD] * gap + list(row) if left else list(row) + [PAD] * gap)
        mask.append([0] * gap + [1] * len(row) if left else [1] * len(row) + [0] * gap)
    return torch.tensor(ids), torch.tensor(mask)


def collate(samples: Sequence[Sample], targets: bool = True, prefixes: bool = True) -> dict[str, Tensor]:
    """Arguments of the model's `forward` for whole prompts, left-padded."""
    ids, mask = pad([sample.prompt for sample in samples], left=True)
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "visual_features": torch.stack([sample.features for sample in samples]),
    }
    if targets:
        batch["target_ids"], batch["target_mask"] = pad([sample.target for sample in samples], left=False)
    if prefixes:
        batch["prefix_ids"], batch["prefix_mask"] = pad([sample.prefix for sample in samples], left=False)
    return batch
