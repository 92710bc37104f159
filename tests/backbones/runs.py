"""Run files on tiny vision-language models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from lare.losses.image_codes import autoencoder

from .vlms import SETTINGS, SIZES, picture


def write_run(folder: Path, place: Path, **changes: Any) -> Path:
    """A run of all four stages on eight samples."""
    rows = []
    for number in range(8):
        picture(*SIZES[number % 3], seed=number).save(folder / f"{number}.png")
        reply = f"<think>One sees {number} things in it.</think> <answer>{number}</answer>"
        turns = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": reply}]
        rows.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (folder / "r1.json").write_text(json.dumps(rows))
    data = [{"format": "vision_r1", "path": str(folder / "r1.json")}]
    stage = {"batch": 4, "samples": 8, "data": data, "micro_batch": 2}
    content: dict[str, Any] = {
        "out": str(folder / "run"),
        "model": {"vlm": str(place), "settings": SETTINGS | {"text_prefix": 4}},
        "losses": {"image": 0.0},
        "tensorboard": False,
        "log_every": 1,
        "stages": [{"stage": name, **stage} for name in ("I", "II", "III", "IV")],
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def with_images(folder: Path) -> dict[str, Any]:
    """Changes of a run that rebuilds windows (eq. 7) through a tiny autoencoder."""
    tokenizer = autoencoder((4, 4), 2, False, layers_per_block=1, norm_num_groups=1, sample_size=16)
    tokenizer.save_pretrained(folder / "autoencoder")
    image = {"unet": "small", "tokenizer": str(folder / "autoencoder"), "size": 16}
    return {"losses": {"image": 0.1}, "image": image}
