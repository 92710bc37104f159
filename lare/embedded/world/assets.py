"""Sprites: one small atlas image a vendor, plus scikit-learn's handwritten digits.

``python -m lare.embedded.world.assets FOLDER`` makes the atlases from a folder with ``emoji.json`` and vendor
sub-folders of 64x64 drawings on white. The result (four lossless WebP files, 48x48 RGBA sprites in an 8x8 sheet)
ships with the package, so nothing is downloaded at run time. Licences: see NOTICE.
"""

from __future__ import annotations

import argparse
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lare.embedded.world.concepts import DRAWINGS, SOURCE_NAMES, VENDORS
from lare.errors import LareError

ASSETS = Path(__file__).parent / "assets"
SPRITE = 48
SOURCE_VENDORS = {"google": "google", "fluent": "fluent-flat", "openmoji": "openmoji", "twemoji": "twitter"}
DIGIT_SPLITS = {"train": (0.0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1.0)}


def cut_out(image: Image.Image) -> Image.Image:
    """Turn the white surroundings of a drawing transparent (flood fill from the four corners)."""
    rgb = image.convert("RGB").resize((SPRITE * 2, SPRITE * 2), Image.Resampling.LANCZOS)
    framed = Image.new("RGB", (rgb.width + 2, rgb.height + 2), "white")
    framed.paste(rgb, (1, 1))
    key = (255, 0, 254)
    ImageDraw.floodfill(framed, (0, 0), key, thresh=40)
    outside = (np.asarray(framed)[1:-1, 1:-1] == key).all(-1)
    alpha = Image.fromarray(np.where(outside, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))
    rgb.putalpha(alpha)
    box = alpha.point(lambda v: 255 * (v > 60)).getbbox() or (0, 0, rgb.width, rgb.height)
    side = max(box[2] - box[0], box[3] - box[1])
    square = Image.new("RGBA", (side, side))
    cropped = rgb.crop(box)
    square.paste(cropped, ((side - cropped.width) // 2, (side - cropped.height) // 2))
    return square.resize((SPRITE, SPRITE), Image.Resampling.LANCZOS)


def build_atlas(folder: Path, vendor: str) -> Image.Image:
    """Cut the world's 64 drawings of one vendor out of `folder` into an 8x8 sheet.

    Raises:
        LareError: the folder lacks ``emoji.json`` or a drawing.
    """
    index_file = folder / "emoji.json"
    if not index_file.is_file():
        raise LareError(f"{index_file} is missing; name the folder that holds emoji.json and the vendors' drawings")
    index = {(e["vendor"], e["short_names"][0]): e["image"] for e in json.loads(index_file.read_text("utf8"))}
    sheet = Image.new("RGBA", (SPRITE * 8, SPRITE * 8))
    for i, name in enumerate(DRAWINGS):
        key = (SOURCE_VENDORS[vendor], SOURCE_NAMES.get(name, name))
        if key not in index:
            raise LareError(f"the drawing {key[1]!r} of vendor {key[0]!r} is not in {index_file}")
        with Image.open(folder / index[key]) as drawing:
            sheet.paste(cut_out(drawing), (SPRITE * (i % 8), SPRITE * (i // 8)))
    return sheet


@lru_cache(maxsize=8)
def sprites(vendor: str) -> np.ndarray:
    """The 64 drawings of a vendor as (64, 48, 48, 4) uint8 RGBA.

    Raises:
        LareError: the vendor is unknown or its atlas is missing from the installation.
    """
    path = ASSETS / f"{vendor}.webp"
    if not path.is_file():
        raise LareError(
            f"no sprites of vendor {vendor!r} at {path}; known: {', '.join(SOURCE_VENDORS)}; reinstall lare"
        )
    sheet = np.asarray(Image.open(path).convert("RGBA"))
    grid = sheet.reshape(8, SPRITE, 8, SPRITE, 4).transpose(0, 2, 1, 3, 4)
    return grid.reshape(64, SPRITE, SPRITE, 4)


@lru_cache(maxsize=4)
def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits of a split: images (N, 8, 8) float32 in [0, 1] and labels (N,). No sample is in two splits.

    Raises:
        LareError: If the file is missing from the installation.
    """
    path = ASSETS / "digits.npz"
    if not path.is_file():
        raise LareError(f"{path} is missing; reinstall lare")
    with np.load(path, allow_pickle=False) as data:
        images, labels = data["images"].astype(np.float32) / 16.0, data["labels"].astype(np.int64)
    order = np.random.default_rng(20251).permutation(len(labels))
    low, high = DIGIT_SPLITS[split]
    chosen = order[int(low * len(order)) : int(high * len(order))]
    return images[chosen], labels[chosen]


def save_digits() -> None:
    """Write scikit-learn's 1,797 digits as a small array file, so that the world needs no scikit-learn."""
    from sklearn.datasets import load_digits

    data = load_digits()
    np.savez_compressed(ASSETS / "digits.npz", images=data.images.astype(np.uint8), labels=data.target.astype(np.uint8))


def main(argv: list[str] | None = None) -> int:
    """Build every atlas: ``python -m lare.embedded.world.assets path/to/emoji``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder with emoji.json and the vendors' drawings")
    args = parser.parse_args(argv)
    ASSETS.mkdir(exist_ok=True)
    for vendor in (*VENDORS["train"], *VENDORS["test"]):
        build_atlas(args.folder, vendor).save(ASSETS / f"{vendor}.webp", lossless=True)
    save_digits()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
