"""Scenes and pictures: deterministic, disjoint by split, and drawn where the boxes say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from lare.embedded.world.assets import digits, sprites
from lare.embedded.world.concepts import N_DRAWINGS, TILE_KIND, VENDORS
from lare.embedded.world.render import _varied, render
from lare.embedded.world.scene import CELLS, IMAGE_SIZE, sample_scene

seeds = st.integers(0, 10**6)
splits = st.sampled_from(["train", "validation", "test"])


@given(splits, seeds)
@settings(max_examples=25, deadline=None)
def test_the_same_name_is_the_same_picture(split: str, seed: int) -> None:
    one, two = sample_scene(split, seed), sample_scene(split, seed)
    assert one == two
    assert np.array_equal(render(one), render(two))
    assert render(one).shape == (IMAGE_SIZE, IMAGE_SIZE, 3)


@given(splits, seeds)
@settings(max_examples=50, deadline=None)
def test_scenes_are_well_formed(split: str, seed: int) -> None:
    scene = sample_scene(split, seed)
    assert 8 <= len(scene.things) <= 12
    for cell in range(CELLS):
        assert (scene.label[cell] >= 0) == (scene.kind[cell] == TILE_KIND)
        if cell in scene.things:
            left, top, right, bottom = scene.box(cell)
            row, column = divmod(cell, 4)
            assert column * 32 <= left < right <= column * 32 + 32
            assert row * 32 <= top < bottom <= row * 32 + 32
    assert scene.vendor in VENDORS["test" if split == "test" else "train"]


def test_neighbouring_splits_share_no_scene() -> None:
    scenes = {split: {sample_scene(split, i).kind for i in range(300)} for split in ("train", "validation", "test")}
    assert not scenes["train"] & scenes["test"]
    assert not scenes["train"] & scenes["validation"]
    assert not scenes["validation"] & scenes["test"]


def test_test_vendor_is_never_a_training_vendor_and_digit_samples_are_disjoint() -> None:
    assert not set(VENDORS["train"]) & set(VENDORS["test"])
    images = {split: {i.tobytes() for i in digits(split)[0]} for split in ("train", "validation", "test")}
    assert sum(map(len, images.values())) > 1700
    assert not images["train"] & images["test"]
    assert not images["validation"] & images["test"]


def test_every_vendor_draws_every_kind_differently() -> None:
    vendors = [*VENDORS["train"], *VENDORS["test"]]
    sheets = [sprites(v).astype(int) for v in vendors]
    for i, sheet in enumerate(sheets):
        assert sheet.shape == (N_DRAWINGS, 48, 48, 4)
        coverage = (sheet[..., 3] > 128).mean((1, 2))
        assert coverage.min() > 0.05 and coverage.max() < 1.0
        for other in sheets[:i]:
            assert (np.abs(sheet - other).mean((1, 2, 3)) > 3).all()


@pytest.mark.parametrize("attribute", ["kind", "colour", "direction", "size"])
def test_a_change_of_one_attribute_changes_only_that_thing(attribute: str) -> None:
    scene = sample_scene("validation", 5)
    cell = next(c for c in scene.things if scene.kind[c] < N_DRAWINGS and scene.offset[c] is not None)
    modulus = {"kind": 8, "colour": 6, "direction": 4, "size": 2}[attribute]
    changed = scene.with_cell(cell, **{attribute: (getattr(scene, attribute)[cell] + 1) % modulus})
    difference = np.abs(render(scene).astype(int) - render(changed).astype(int)).sum(-1) > 0
    one, two = np.array(scene.box(cell)), np.array(changed.box(cell))
    (left, top), (right, bottom) = np.minimum(one, two)[:2], np.maximum(one, two)[2:]
    assert difference[top:bottom, left:right].any()
    difference[top:bottom, left:right] = False
    assert not difference.any()


def test_varied_drawings_are_those_of_one_pass_over_all_whichever_is_asked_for_first() -> None:
    vendor, side, variants = VENDORS["train"][0], 17, 2
    rng = np.random.default_rng((side, variants, sum(vendor.encode())))
    plain = [[_drawn(sprite, side, rng) for sprite in sprites(vendor)] for _ in range(variants)]
    _varied.cache_clear()
    varied = _varied(vendor, side, variants)
    for at in np.random.default_rng(0).permutation(variants * N_DRAWINGS):
        variant, kind = divmod(int(at), N_DRAWINGS)
        assert np.array_equal(varied(variant, kind), plain[variant][kind]), (variant, kind)


def _drawn(pixels: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A varied drawing, each choice drawn where it is needed."""
    sprite = Image.fromarray(pixels)
    if rng.random() < 0.3:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = rng.uniform(0.78, 1.0, 2)
    small = sprite.resize((int(sprite.width * scale[0]), int(sprite.height * scale[1])), Image.Resampling.BILINEAR)
    canvas = Image.new("RGBA", sprite.size)
    left, top = (int(rng.integers(0, s - t + 1)) for s, t in zip(sprite.size, small.size, strict=True))
    canvas.paste(small, (left, top))
    canvas = canvas.rotate(float(rng.normal(0, 9)), Image.Resampling.BILINEAR)
    rgb, alpha = canvas.convert("RGB"), canvas.getchannel("A")
    if rng.random() < 0.8:
        hue = np.asarray(rgb.convert("HSV")).copy()
        hue[..., 0] += np.uint8(int(rng.normal(0, 7)) % 256)
        rgb = Image.fromarray(hue, "HSV").convert("RGB")
        rgb = ImageEnhance.Color(rgb).enhance(float(rng.uniform(0.5, 1.5)))
        rgb = ImageEnhance.Brightness(rgb).enhance(float(rng.uniform(0.7, 1.25)))
        rgb = ImageEnhance.Contrast(rgb).enhance(float(rng.uniform(0.7, 1.3)))
    rgb.putalpha(alpha)
    frame = np.asarray(rgb.resize((side, side), Image.Resampling.LANCZOS)).astype(np.float32)
    frame[..., 3] /= 255.0
    return frame
