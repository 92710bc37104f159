"""A small local datasets cache with the ids, configurations, splits and columns that lmms-eval's task files ask for.

The rows are made up; only their schema is the benchmarks'. The layout is what an online run leaves behind, so the
unmodified task files of mmbench, pope, mmstar, mmvp and scienceqa_img run on it offline.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetInfo, Features, Sequence, SplitDict, SplitInfo, Value
from datasets import Image as ImageColumn
from datasets.arrow_writer import ArrowWriter
from datasets.naming import camelcase_to_snakecase
from PIL import Image

Row = dict[str, Any]
TEXT, PICTURE = Value("string"), ImageColumn()


def picture(seed: int, side: int = 40) -> Image.Image:
    """A coloured square with a block in it."""
    rng = np.random.default_rng(seed)
    pixels = np.tile(rng.integers(0, 255, 3, dtype=np.uint8), (side, side, 1))
    top, left = rng.integers(0, side // 2, 2)
    pixels[top : top + side // 2, left : left + side // 2] = rng.integers(0, 255, 3)
    return Image.fromarray(pixels)


def texts(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, TEXT)


POPE = Features({**texts("id", "question_id", "question", "answer", "image_source", "category"), "image": PICTURE})


def pope(count: int, category: str = "") -> Iterator[Row]:
    for n in range(count):
        thing = ("dog", "cup", "car")[n % 3]
        yield {
            "id": str(n),
            "question_id": str(n),
            "question": f"Is there a {thing} in the image?",
            "category": category or ("random", "popular", "adversarial")[n % 3],
            "answer": ("yes", "no")[n % 2],
            "image_source": f"val_{n:06d}",
            "image": picture(n),
        }


def mmbench_features(level: str) -> Features:
    columns = texts("question", "hint", "answer", "A", "B", "C", "D", "category", "source", level, "comment", "split")
    return Features({"index": Value("int32"), **columns, "image": PICTURE})


def mmbench(count: int, split: str, level: str = "L2-category") -> Iterator[Row]:
    for n in range(count):
        yield {
            "index": n,
            "question": f"What colour is block {n}?",
            "hint": ("nan", "Look at its middle.")[n % 2],
            "answer": "nan" if split == "test" else "ABCD"[n % 4],
            "A": "red",
            "B": "green",
            "C": "blue",
            "D": "grey",
            "category": "attribute_recognition",
            level: "attribute_reasoning",
            "source": "made up",
            "comment": "nan",
            "split": split,
            "image": picture(100 + n),
        }


CC = Features(
    {"index": Value("int32"), **texts("question", "answer", "A", "B", "C", "D", "category", "source"), "image": PICTURE}
)


def mmbench_cc(count: int) -> Iterator[Row]:
    for row in mmbench(count, "dev"):
        yield {name: row[name] for name in CC}


MMSTAR = Features(
    {
        "index": Value("int64"),
        **texts("question", "answer", "category", "l2_category"),
        "image": PICTURE,
        "meta_info": texts("source", "split", "image_path"),
    }
)
ABILITIES = (
    "coarse perception",
    "fine-grained perception",
    "instance reasoning",
    "logical reasoning",
    "science & technology",
    "math",
)


def mmstar(count: int) -> Iterator[Row]:
    for n in range(count):
        yield {
            "index": n,
            "question": f"How many blocks are in picture {n}?\nOptions: A: 1, B: 2, C: 3, D: 4",
            "answer": "ABCD"[n % 4],
            "category": ABILITIES[n % 6],
            "l2_category": f"skill {n % 6}",
            "image": picture(200 + n),
            "meta_info": {"source": "made up", "split": "val", "image_path": f"{n}.jpg"},
        }


MMVP = Features({"Index": Value("int64"), **texts("Question", "Options", "Correct Answer"), "image": PICTURE})


def mmvp(count: int) -> Iterator[Row]:
    for n in range(count):
        yield {
            "Index": n + 1,
            "Question": "Where is the block?",
            "Options": "(a) Left (b) Right",
            "Correct Answer": ("(a)", "(b)")[n % 2],
            "image": picture(300 + n),
        }


SCIENCEQA = Features(
    {
        "image": PICTURE,
        "choices": Sequence(TEXT),
        "answer": Value("int8"),
        **texts("question", "hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution"),
    }
)


def scienceqa(count: int) -> Iterator[Row]:
    for n in range(count):
        yield {
            **dict.fromkeys(SCIENCEQA, ""),
            "image": picture(400 + n),
            "question": f"Which one is solid? ({n})",
            "choices": ["ice", "water", "steam"][: 2 + n % 2],
            "answer": n % 2,
            "hint": ("A solid keeps its shape.", "")[n % 2],
            "subject": ("natural science", "language science", "social science")[n % 3],
            "topic": ("physics", "vocabulary", "geography")[n % 3],
            "grade": f"grade{2 + n % 3}",
        }


def tables(count: int) -> dict[str, dict[str, tuple[Features, dict[str, Iterator[Row]]]]]:
    """Hub id -> configuration -> columns, and rows by split."""
    english = mmbench_features("L2-category")
    both = {split: mmbench(count, split) for split in ("dev", "test")}
    also = {split: mmbench(count, split) for split in ("dev", "test")}
    russian = mmbench_features("l2-category")
    return {
        "lmms-lab-encoder/POPE": {"default": (POPE, {"test": pope(count)})},
        "lmms-lab-encoder/MMBench": {
            "en": (english, both),
            "cn": (english, also),
            "cc": (CC, {"test": mmbench_cc(count)}),
        },
        "deepvk/MMBench-ru": {"default": (russian, {"dev": mmbench(count, "dev", "l2-category")})},
        "Lin-Chen/MMStar": {"default": (MMSTAR, {"val": mmstar(count)})},
        "lmms-lab-eval/MMVP": {"default": (MMVP, {"train": mmvp(count)})},
        "lmms-lab-encoder/ScienceQA": {"ScienceQA-IMG": (SCIENCEQA, {"test": scienceqa(count)})},
    }


def write_cache(root: Path, count: int = 4) -> Path:
    """Write the cache under `root` and return the folder to name in LMMS_EVAL_DATASETS_CACHE (or HF_HOME/datasets)."""
    for hub_id, configurations in tables(count).items():
        owner, name = hub_id.split("/")
        name = camelcase_to_snakecase(name)
        for configuration, (features, splits) in configurations.items():
            # A hash of its own for each configuration: datasets refuses to choose between two that share one.
            digest = hashlib.sha1(f"{hub_id} {configuration}".encode()).hexdigest()
            folder = root / f"{owner}___{name}" / configuration / "0.0.0" / digest
            folder.mkdir(parents=True)
            written = SplitDict(dataset_name=name)
            for split, rows in splits.items():
                with ArrowWriter(features=features, path=str(folder / f"{name}-{split}.arrow")) as writer:
                    for row in rows:
                        writer.write(features.encode_example(row))
                    number, size = writer.finalize()
                written.add(SplitInfo(split, num_bytes=size, num_examples=number, dataset_name=name))
            info = DatasetInfo(
                features=features,
                builder_name="parquet",
                dataset_name=name,
                version="0.0.0",
                config_name=configuration,
                splits=written,
            )
            info.write_to_directory(str(folder))
    return root


def environment(cache: Path, home: Path) -> dict[str, str]:
    """Environment of an offline process that finds its data in this cache and nothing else."""
    return {
        **os.environ,
        "HF_HOME": str(home),
        "LMMS_EVAL_DATASETS_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OPENAI_API_KEY": "none",
        "OMP_NUM_THREADS": "1",
    }
