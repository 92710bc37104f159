"""What the trainer feeds: prompts as the processor writes them, aligned words, dense labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import lare
from lare.embedded.batches import WorldBatches
from lare.embedded.encoder import labels
from lare.embedded.projector_warmup import WEIGHTS, cell_targets, word_ids
from lare.embedded.tokenizer import _trained, build_tokenizer
from lare.embedded.world.concepts import COLOUR_NAMES, DIRECTIONS, KINDS, SIZES
from lare.embedded.world.items import ItemSampler
from lare.embedded.world.questions import FAMILIES, TRAINING_FAMILIES
from lare.embedded.world.scene import sample_scene
from lare.embedded.world.wording import place
from lare.embedded.world_data import WorldData
from lare.model import LareConfig, LareProcessor
from lare.training.feeding.batch import pad
from lare.training.feeding.loader import Mode, Split
from lare.training.plan.config import StageConfig
from lare.training.plan.run_file import load_run_config

ROOT = Path(lare.__file__).parent
DATA = WorldData(per_image=6)
STAGE = StageConfig("III", (DATA,), batch=12)


@pytest.fixture(scope="module")
def processor() -> LareProcessor:
    return LareProcessor.from_pretrained(lare.default_checkpoint())


def make_batches(processor: LareProcessor) -> WorldBatches:
    config = LareConfig.from_pretrained(lare.default_checkpoint())
    features = np.zeros((8, 64, 5), np.float16)
    features += np.arange(8, dtype=np.float16)[:, None, None]
    return WorldBatches(DATA, STAGE, processor, config, Split(), 0, features)


@pytest.mark.parametrize("iterations", [0, 4])
def test_training_prompts_are_the_processors(processor: LareProcessor, iterations: int) -> None:
    batches = make_batches(processor)
    scenes, items, _ = batches.draw(0)
    inputs = batches.encode(scenes, items, 0, Mode(iterations, bool(iterations), True, 32)).inputs
    prompts = processor.build_prompts([item.prompt for item in items], latent=bool(iterations))
    images = [np.zeros((128, 128, 3), np.uint8)] * len(items)
    served = processor(images=images, text=prompts)
    shared = inputs["shared_ids"].repeat_interleave(6, 0)
    for row in range(len(items)):
        mine = [*shared[row].tolist(), *inputs["input_ids"][row][inputs["attention_mask"][row].bool()].tolist()]
        theirs = served["input_ids"][row][served["attention_mask"][row].bool()].tolist()
        assert mine == theirs


def test_rows_of_an_image_carry_its_features(processor: LareProcessor) -> None:
    batches = make_batches(processor)
    scenes, items, _ = batches.draw(3)
    inputs = batches.encode(scenes, items, 0, Mode()).inputs
    assert inputs["visual_features"].shape == (2, 64, 5) and inputs["questions_per_image"] == 6
    assert inputs["visual_features"][:, 0, 0].tolist() == scenes
    assert len(items) == len(inputs["input_ids"]) == 12


def test_what_the_latents_stand_for_is_left_out_of_the_text(processor: LareProcessor) -> None:
    batches = make_batches(processor)
    scenes, items, _ = batches.draw(0)
    short, long = (batches.encode(scenes, items, 0, Mode(4, True, True, 3, replaced)).inputs for replaced in (3, 0))
    tokenizer = processor.tokenizer
    for row, item in enumerate(items):
        whole = f" {' '.join(item.question.rationale)} Answer: {item.final}"
        parts = [
            short["prefix_ids"][row][short["prefix_mask"][row].bool()],
            short["target_ids"][row][short["target_mask"][row].bool()],
        ]
        assert tokenizer.decode(torch.cat(parts), skip_special_tokens=True) == whole
        kept = long["target_ids"][row][long["target_mask"][row].bool()]
        assert tokenizer.decode(kept, skip_special_tokens=True) == whole


def test_another_grid_has_its_own_image_tokens(processor: LareProcessor) -> None:
    batches = make_batches(processor)
    scenes, items, _ = batches.draw(0)
    image = processor.image_token_id
    for side in (None, 4, 8):
        ids = batches.encode(scenes, items, 0, Mode(lm_grid=side)).inputs["shared_ids"][0]
        assert int((ids == image).sum()) == (side or processor.lm_grid) ** 2
        assert tokenizer_text(processor, ids[ids != image]) == "<|begin|><|user|>"


def tokenizer_text(processor: LareProcessor, ids: torch.Tensor) -> str:
    return str(processor.tokenizer.decode(ids))


def test_pad_sides() -> None:
    left, mask = pad([[1], [2, 3]], 0, left=True)
    assert left.tolist() == [[0, 1], [2, 3]] and mask.tolist() == [[0, 1], [1, 1]]
    assert pad([[1], [2, 3]], 0, left=False)[0].tolist() == [[1, 0], [2, 3]]


def test_every_name_is_one_token(processor: LareProcessor) -> None:
    vocab = processor.tokenizer.get_vocab()
    names = [*KINDS, *COLOUR_NAMES, *SIZES, *DIRECTIONS, *"0123456789", *(place(c) for c in range(16))]
    assert not [name for name in names if "\u0120" + name not in vocab]


def test_tokenizer_is_deterministic_and_lossless() -> None:
    first = build_tokenizer()
    _trained.cache_clear()
    second = build_tokenizer()
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert build_tokenizer() is not second
    for text in ("What is at c2?\nA. cat\nB. dög 漢字 🙂\nAnswer with the letter.", "a1b2 x  y\t\n\n"):
        assert first.decode(first(text)["input_ids"]) == text


def test_cell_targets_are_sums_of_words(processor: LareProcessor) -> None:
    vocab = processor.tokenizer.get_vocab()
    table = torch.randn(len(vocab), 8)
    scene = sample_scene("train", 3)
    places = torch.randn(16, 8)
    target = cell_targets(table, word_ids(vocab), torch.from_numpy(labels(scene))[None], places)[0]
    cell = scene.things[0]
    words = [KINDS[scene.kind[cell]], COLOUR_NAMES[scene.colour[cell]], SIZES[scene.size[cell]]]
    words += [DIRECTIONS[scene.direction[cell]]] + ([str(scene.label[cell])] if scene.label[cell] >= 0 else [])
    expected = 2 * places[cell]
    for weight, word in zip(WEIGHTS, words, strict=False):
        expected = expected + weight * table[vocab["\u0120" + word]]
    torch.testing.assert_close(target[cell], expected)
    empty = next(c for c in range(16) if scene.kind[c] < 0)
    torch.testing.assert_close(target[empty], 2 * places[empty])


def test_no_training_question_is_unknown() -> None:
    known = {**FAMILIES, **TRAINING_FAMILIES}
    plan = load_run_config(ROOT / "configs" / "embedded.yaml")
    families = {name for stage in plan.stages for data in stage.data for name in data.families}
    assert families and families <= set(known)


def test_training_never_draws_test_scenes(processor: LareProcessor, tmp_path: Path) -> None:
    scenes = [sample_scene("train", i) for i in range(50)]
    tests = {sample_scene("test", i).kind for i in range(500)}
    assert not {s.kind for s in scenes} & tests
    assert {s.vendor for s in scenes}.isdisjoint({sample_scene("test", i).vendor for i in range(50)})
    assert ItemSampler(dict.fromkeys(FAMILIES, 1.0), {"open": 1.0}, 1).sample(scenes[0], 3)
