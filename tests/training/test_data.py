"""What the trainer feeds: prompts as the processor writes them, aligned words, dense labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lare.model import LareProcessor
from lare.training.alignment import WEIGHTS, cell_targets, word_ids
from lare.training.batches import Batcher, Mode, pad
from lare.training.encoder import labels
from lare.training.phases import BENCHMARK_STYLES, CAPTIONS, REASONING
from lare.training.ship import build_processor
from lare.training.tokenizer import build_tokenizer
from lare.world.concepts import COLOUR_NAMES, DIRECTIONS, KINDS, SIZES
from lare.world.items import ItemSampler
from lare.world.questions import FAMILIES, TRAINING_FAMILIES, place
from lare.world.scene import sample_scene

TOKENS = 16


@pytest.fixture(scope="module")
def processor() -> LareProcessor:
    return build_processor(128, 4)


def make_batcher(processor: LareProcessor) -> Batcher:
    features = np.zeros((8, 64, 5), np.float16)
    features += np.arange(8, dtype=np.float16)[:, None, None]
    return Batcher(features, "train", processor.tokenizer, TOKENS, REASONING, BENCHMARK_STYLES, (0, 1))


@pytest.mark.parametrize("iterations", [0, 4])
def test_training_prompts_are_the_processors(processor: LareProcessor, iterations: int) -> None:
    batcher = make_batcher(processor)
    batch, items = batcher.draw(2, 6, Mode(iterations, 32))
    prompts = processor.build_prompts([item.prompt for item in items], latent=bool(iterations))
    images = [np.zeros((128, 128, 3), np.uint8)] * len(items)
    served = processor(images=images, text=prompts)
    shared = batch["shared_ids"].repeat_interleave(6, 0)
    for row in range(len(items)):
        mine = [*shared[row].tolist(), *batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()]
        theirs = served["input_ids"][row][served["attention_mask"][row].bool()].tolist()
        assert mine == theirs


def test_rows_of_an_image_are_adjacent_and_carry_its_features(processor: LareProcessor) -> None:
    batch, items = make_batcher(processor).draw(3, 5, Mode(4, 32))
    assert batch["visual_features"].shape == (3, 64, 5) and batch["questions_per_image"] == 5
    assert len(items) == len(batch["input_ids"]) == 15


def test_what_the_latents_stand_for_is_left_out_of_the_text(processor: LareProcessor) -> None:
    batcher = make_batcher(processor)
    _, items = batcher.draw(2, 6, Mode(4, 32))
    short = batcher.encode(items, Mode(4, 3, replaced=3))
    long = batcher.encode(items, Mode(4, 3, reconstruct=False))
    assert "prefix_ids" not in long
    tokenizer = processor.tokenizer
    for row, item in enumerate(items):
        head = short["prefix_ids"][row][short["prefix_mask"][row].bool()]
        tail = short["target_ids"][row][short["target_mask"][row].bool()]
        text = tokenizer.decode(torch.cat([head, tail]), skip_special_tokens=True)
        whole = f" {' '.join(item.question.rationale)} Answer: {item.final}"
        assert text == whole
        assert len(head) == 3
        kept = long["target_ids"][row][long["target_mask"][row].bool()]
        assert tokenizer.decode(kept, skip_special_tokens=True) == whole


def test_pad_sides() -> None:
    left, mask = pad([[1], [2, 3]], 0, left=True)
    assert left.tolist() == [[0, 1], [2, 3]] and mask.tolist() == [[0, 1], [1, 1]]
    assert pad([[1], [2, 3]], 0, left=False)[0].tolist() == [[1, 0], [2, 3]]


def test_every_name_is_one_token(processor: LareProcessor) -> None:
    vocab = processor.tokenizer.get_vocab()
    names = [*KINDS, *COLOUR_NAMES, *SIZES, *DIRECTIONS, *"0123456789", *(place(c) for c in range(16))]
    assert not [name for name in names if "\u0120" + name not in vocab]


def test_tokenizer_is_deterministic_and_lossless() -> None:
    first, second = build_tokenizer(), build_tokenizer()
    assert first.get_vocab() == second.get_vocab()
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
    assert {*CAPTIONS, *REASONING} <= set(known)


def test_training_never_draws_test_scenes(processor: LareProcessor, tmp_path: Path) -> None:
    scenes = [sample_scene("train", i) for i in range(50)]
    tests = {sample_scene("test", i).kind for i in range(500)}
    assert not {s.kind for s in scenes} & tests
    assert {s.vendor for s in scenes}.isdisjoint({sample_scene("test", i).vendor for i in range(50)})
    assert ItemSampler(REASONING, BENCHMARK_STYLES, 1).sample(scenes[0], 3)
