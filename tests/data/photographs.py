"""Tiny folders laid out as those of the photographs' data sets, with pictures of noise."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CAPTIONS = (
    ("A black dog runs on the beach .", "A dog plays near the sea"),
    ("A man rides a bicycle down the street .", "A guy on a bike ."),
    ("Two women sit at a table .", "Ladies are eating at a table ."),
    ("A red car is parked next to a bus .", "A car and a bus on a road"),
    ("A boy kicks a ball .", "A child with a soccer ball on a playground ."),
)


def jpeg(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def write_source(folder: Path, name: str, rows: Sequence[Mapping[str, Any]], archive: bool = True) -> Path:
    """A file of rows, and their images in an archive beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if archive:
        with zipfile.ZipFile(folder / "images.zip", "w") as opened:
            for number, image in enumerate(dict.fromkeys(str(row["image"]) for row in rows)):
                opened.writestr(image, jpeg(number))
    return path


def caption_rows(count: int = 40) -> list[dict[str, Any]]:
    return [{"image": f"photo{i}.jpg", "captions": list(CAPTIONS[i % len(CAPTIONS)])} for i in range(count)]


def daquar_rows(count: int = 40) -> list[dict[str, Any]]:
    asked = (
        ("what is on the desk?", "book, tape_dispenser"),
        ("how many chairs are there?", "2"),
        ("what colour is the bed?", "red"),
    )
    return [
        dict(zip(("question", "answer"), asked[i % 3], strict=True), image=f"image{i // 2}.jpg") for i in range(count)
    ]


def animal(name: str, box: Sequence[int], **points: Sequence[int]) -> dict[str, Any]:
    return {"name": name, "box": list(box), "keypoints": {part: list(point) for part, point in points.items()}}


DOG = animal("dog", (10, 50, 90, 150), nose=(15, 70), tailbase=(85, 80), left_eye=(20, 60))
"""On the left of a picture of 200 by 200 pixels, and turned to the left."""
CAT = animal("cat", (120, 100, 200, 201), nose=(190, 120), tailbase=(130, 150), left_ear=(180, 105))
"""At the lower right, and turned to the right; its box reaches a pixel outside."""


def animal_rows(count: int = 40) -> list[dict[str, Any]]:
    shown = ([DOG], [CAT], [DOG, CAT], [DOG, DOG | {"box": [110, 40, 150, 90]}])
    return [{"image": f"{i:05}.jpg", "size": [200, 200], "animals": shown[i % 4]} for i in range(count)]
