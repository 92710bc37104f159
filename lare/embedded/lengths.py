"""Mean lengths of the embedded world's questions in tokens, for `lare.cost`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from lare.embedded.ship import build_processor
from lare.embedded.tokenizer import build_tokenizer
from lare.embedded.world.items import STYLES, ItemSampler
from lare.embedded.world.versions import world
from lare.embedded.world_data import WorldData
from lare.model.processing_lare import IMAGE_PLACEHOLDER

__all__ = ["world_lengths"]


@lru_cache
def world_lengths(data: WorldData, questions: int = 240) -> tuple[int, int, int]:
    """Mean tokens of question, rationale and answer, by the embedded decoder's tokenizer (others are near)."""
    tokenizer, processor = build_tokenizer(), build_processor(128, 1)
    made = world(data.version)
    families = dict(data.families) or dict.fromkeys(made.families, 1.0)
    sampler = ItemSampler(families, dict(data.styles) or dict.fromkeys(STYLES, 1.0), 0, data.version)
    items = [item for scene in range(questions // 4) for item in sampler.sample(made.sample_scene("train", scene), 4)]

    def mean(texts: Sequence[str]) -> int:
        return round(sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]) / len(texts))

    prompts = processor.build_prompts([item.prompt for item in items], latent=False)
    thoughts = [" ".join(item.question.rationale) for item in items]
    return (
        mean([str(prompt).replace(IMAGE_PLACEHOLDER, "") for prompt in prompts]),
        mean([f" {thought}" if thought else "" for thought in thoughts]),
        mean([f" Answer: {item.final}{tokenizer.eos_token}" for item in items]),
    )
