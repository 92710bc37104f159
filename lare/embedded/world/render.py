"""Rendering: cluttered, noisy, graded backgrounds; tiles, drawings, shapes, digits and pointing notches.

Everything is drawn with numpy on one uint8 canvas; sprites are resized once and cached, which is what makes
hundreds of scenes a second possible on one core.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from lare.embedded.world.assets import digits, sprites
from lare.embedded.world.concepts import COLOUR_NAMES, COLOURS, N_DRAWINGS, TILE_KIND
from lare.embedded.world.scene import CELL, IMAGE_SIZE, SIDE, SIZE_PIXELS, SPLIT_SALT, Scene

_PALETTE = np.array([COLOURS[name] for name in COLOUR_NAMES], dtype=np.float32)
_NOTCH = 4
"""Depth in pixels of the notch that shows where a thing points."""

_ENHANCE = (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast)


@lru_cache(maxsize=8)
def _resized(vendor: str, side: int) -> np.ndarray:
    """(64, side, side, 4) float32 RGBA of a vendor's drawings, alpha in [0, 1]."""
    frames = [np.asarray(Image.fromarray(s).resize((side, side), Image.Resampling.LANCZOS)) for s in sprites(vendor)]
    stack = np.stack(frames).astype(np.float32)
    stack[..., 3] /= 255.0
    return stack


class _Variation(NamedTuple):
    """One random variation of a drawing: mirrored, turned, squeezed, recoloured, simplified."""

    mirrored: bool
    size: tuple[int, int]
    place: tuple[int, int]
    angle: float
    hue: int | None
    """Turn of the hue; None where colours stay as they are."""
    enhanced: tuple[float, float, float]
    """Factors of colour, brightness and contrast."""

    @classmethod
    def draw(cls, width: int, height: int, rng: np.random.Generator) -> _Variation:
        """A variation of a drawing of this size."""
        mirrored = rng.random() < 0.3
        scale = rng.uniform(0.78, 1.0, 2)
        size = int(width * scale[0]), int(height * scale[1])
        place = int(rng.integers(0, width - size[0] + 1)), int(rng.integers(0, height - size[1] + 1))
        angle, hue, enhanced = float(rng.normal(0, 9)), None, (1.0, 1.0, 1.0)
        if rng.random() < 0.8:
            hue = int(rng.normal(0, 7)) % 256
            enhanced = float(rng.uniform(0.5, 1.5)), float(rng.uniform(0.7, 1.25)), float(rng.uniform(0.7, 1.3))
        return cls(mirrored, size, place, angle, hue, enhanced)

    def of(self, sprite: Image.Image) -> Image.Image:
        """The variation of this drawing."""
        if self.mirrored:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        canvas = Image.new("RGBA", sprite.size)
        canvas.paste(sprite.resize(self.size, Image.Resampling.BILINEAR), self.place)
        canvas = canvas.rotate(self.angle, Image.Resampling.BILINEAR)
        rgb, alpha = canvas.convert("RGB"), canvas.getchannel("A")
        if self.hue is not None:
            hue = np.asarray(rgb.convert("HSV")).copy()
            hue[..., 0] += np.uint8(self.hue)
            rgb = Image.fromarray(hue, "HSV").convert("RGB")
            for enhance, factor in zip(_ENHANCE, self.enhanced, strict=True):
                rgb = enhance(rgb).enhance(factor)
        rgb.putalpha(alpha)
        return rgb


class _Varied:
    """Random variations of a vendor's drawings, for training only; each is made when it is first asked for."""

    def __init__(self, vendor: str, side: int, variants: int) -> None:
        self.sprites, self.side = sprites(vendor), side
        height, width = self.sprites.shape[1:3]
        rng = np.random.default_rng((side, variants, sum(vendor.encode())))
        # All choices are drawn at once: which variation is which must not hang on the order in which they are made.
        self.chosen = [[_Variation.draw(width, height, rng) for _ in range(N_DRAWINGS)] for _ in range(variants)]
        self.made: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, variant: int, kind: int) -> np.ndarray:
        """(side, side, 4) float32 RGBA, alpha in [0, 1]."""
        if (variant, kind) not in self.made:
            image = self.chosen[variant][kind].of(Image.fromarray(self.sprites[kind]))
            frame = np.asarray(image.resize((self.side, self.side), Image.Resampling.LANCZOS)).astype(np.float32)
            frame[..., 3] /= 255.0
            self.made[variant, kind] = frame
        return self.made[variant, kind]


@lru_cache(maxsize=16)
def _varied(vendor: str, side: int, variants: int) -> _Varied:
    return _Varied(vendor, side, variants)


@lru_cache(maxsize=32)
def _shape_mask(shape: int, side: int) -> np.ndarray:
    """(side, side) float32 coverage of a circle, square, triangle or cross."""
    big = Image.new("L", (side * 4, side * 4))
    draw, s = ImageDraw.Draw(big), side * 4 - 1
    if shape == 0:
        draw.ellipse((0, 0, s, s), fill=255)
    elif shape == 1:
        draw.rectangle((s // 10, s // 10, s - s // 10, s - s // 10), fill=255)
    elif shape == 2:
        draw.polygon(((s // 2, 0), (s, s), (0, s)), fill=255)
    else:
        draw.rectangle((s * 35 // 100, 0, s * 65 // 100, s), fill=255)
        draw.rectangle((0, s * 35 // 100, s, s * 65 // 100), fill=255)
    return np.asarray(big.resize((side, side), Image.Resampling.LANCZOS), dtype=np.float32) / 255.0


@lru_cache(maxsize=16)
def _notch(direction: int, side: int) -> np.ndarray:
    """(side, side) bool: a dark triangle at the edge of the tile towards which the thing points."""
    mask = np.zeros((side, side), bool)
    mid = side // 2
    for depth in range(_NOTCH):
        mask[depth, mid - depth - 1 : mid + depth + 1] = True
    return np.rot90(mask, -direction).copy()


@lru_cache(maxsize=8)
def _digit_masks(split: str, side: int) -> np.ndarray:
    """(N, side, side) float32 strokes of the split's handwritten digits."""
    images = digits(split)[0]
    return np.stack(
        [np.asarray(Image.fromarray(i).resize((side, side), Image.Resampling.BICUBIC)).clip(0, 1) for i in images]
    )


@lru_cache(maxsize=1)
def _noise_bank() -> np.ndarray:
    """A large sheet of pixel noise of which every image takes a random crop (drawing fresh noise costs 2 ms)."""
    return np.random.default_rng(7).normal(0, 9, (512, 512, 3)).astype(np.float32)


def _background(rng: np.random.Generator) -> np.ndarray:
    """(128, 128, 3) float32: a gradient between two colours, soft blotches, pixel noise and clutter lines."""
    corners = rng.uniform(60, 200, (2, 2, 3)).astype(np.float32)
    ramp = np.linspace(0, 1, IMAGE_SIZE, dtype=np.float32)
    top = corners[0, 0] + (corners[0, 1] - corners[0, 0]) * ramp[:, None]
    bottom = corners[1, 0] + (corners[1, 1] - corners[1, 0]) * ramp[:, None]
    canvas = top[None] + (bottom - top)[None] * ramp[:, None, None]
    blotches = rng.normal(0, 14, (16, 16, 1)).astype(np.float32)
    canvas += np.kron(blotches, np.ones((8, 8, 1), np.float32))
    at = rng.integers(0, 512 - IMAGE_SIZE, 2)
    canvas += _noise_bank()[at[0] : at[0] + IMAGE_SIZE, at[1] : at[1] + IMAGE_SIZE]
    for _ in range(int(rng.integers(2, 7))):
        row, column, length = (int(v) for v in rng.integers(0, IMAGE_SIZE, 3))
        shade = rng.uniform(-60, 60, 3)
        if rng.random() < 0.5:
            canvas[row : row + 2, column : column + length] += shade
        else:
            canvas[row : row + length, column : column + 2] += shade
    out: np.ndarray = canvas
    return out


def _blend(patch: np.ndarray, rgb: np.ndarray | np.float32, alpha: np.ndarray) -> None:
    patch += (rgb - patch) * alpha[..., None]


def _draw_thing(patch: np.ndarray, scene: Scene, cell: int, rng: np.random.Generator, variants: int) -> None:
    """Draw the thing of one cell into its (side, side, 3) patch of the canvas."""
    side, kind = patch.shape[0], scene.kind[cell]
    colour = _PALETTE[scene.colour[cell]] * rng.uniform(0.85, 1.08)
    if N_DRAWINGS <= kind < TILE_KIND:
        patch += (128 - patch) * 0.75
        inner = side - 2 * _NOTCH - 1
        _blend(_inner(patch, inner), colour, _shape_mask(kind - N_DRAWINGS, inner))
    else:
        patch[:] = colour
        inner = side - 5
        if kind == TILE_KIND:
            ink = np.float32(20) if colour.mean() > 90 else np.float32(245)
            _blend(_inner(patch, inner), ink, _digit_masks(scene.split, inner)[scene.digit[cell]])
        else:
            if variants:
                sprite = _varied(scene.vendor, inner, variants)(int(rng.integers(variants)), kind)
            else:
                sprite = _resized(scene.vendor, inner)[kind]
            _blend(_inner(patch, inner), sprite[..., :3], sprite[..., 3])
    notch = _notch(scene.direction[cell], side)
    patch[notch] = 12


def _inner(patch: np.ndarray, inner: int) -> np.ndarray:
    start = (patch.shape[0] - inner) // 2
    return patch[start : start + inner, start : start + inner]


def render(scene: Scene, variants: int = 0) -> np.ndarray:
    """Render a scene to (128, 128, 3) uint8 RGB.

    Args:
        scene: what to draw; background and shades follow from its split and seed alone.
        variants: number of augmented versions of each drawing to choose from (0: the drawing as it is).
    """
    named = (SPLIT_SALT[scene.split], scene.seed, 99)
    rng = np.random.default_rng(named if scene.version == 1 else (*named, scene.version))
    canvas = _background(rng)
    for cell in scene.things:
        left, top, right, bottom = scene.box(cell)
        _draw_thing(canvas[top:bottom, left:right], scene, cell, rng, variants)
    return canvas.clip(0, 255).astype(np.uint8)


def render_image(scene: Scene) -> Image.Image:
    """Render a scene as a PIL image."""
    return Image.fromarray(render(scene))


assert SIDE * CELL == IMAGE_SIZE and max(SIZE_PIXELS) + 2 <= CELL
