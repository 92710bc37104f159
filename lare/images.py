"""Opens whatever a user calls an image and gives an upright 8-bit RGB picture of bounded size.

Model code meets only clean pictures because everything odd about files is settled here: deep greyscale is scaled
(Pillow's own conversion clips it to white), transparency is laid on white (dropping it would show colours nobody
sees), the camera's orientation is applied, and a file that would unpack to gigabytes is refused before it is decoded.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from lare.errors import LareError

__all__ = ["MAX_PIXELS", "MAX_SIDE", "ImageSource", "load_image"]

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image"

MAX_PIXELS = 89_478_485
"""Most pixels (width x height) that are decoded: a quarter of a gibibyte as RGB, Pillow's own warning line."""

MAX_SIDE = 4096
"""Longest side in pixels of what `load_image` returns unless told otherwise; larger pictures are scaled down."""

# A closed list: Pillow would hand some other formats to outside programs (EPS to Ghostscript).
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")

# What Pillow's decoders raise on damaged data.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, struct.error)

_ORIENTATION = 0x0112  # the EXIF tag; its values 2..8 and what makes the picture upright again
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TOO_LARGE = f"over {MAX_PIXELS:,} pixels (width x height), the most that are decoded; scale it down first"


def load_image(source: ImageSource, max_side: int | None = MAX_SIDE) -> Image.Image:
    """Open an image and return it as 8-bit RGB, upright, its first frame, with no side over `max_side`.

    Args:
        source: A path, the bytes of a file, an open binary file, or a Pillow image (which is left unchanged).
        max_side: Longest allowed side in pixels; a larger picture is scaled down with its proportions kept.
            None keeps every size.

    Returns:
        A new Pillow image of mode "RGB"; transparent parts lie on white.

    Raises:
        LareError: If there is no such file, or it is empty, damaged, no image, or has over `MAX_PIXELS` pixels.
    """
    if max_side is not None and max_side < 1:
        raise LareError(f"max_side is {max_side}, but a picture has at least one pixel a side; give 1 or more")
    if isinstance(source, Image.Image):
        return _clean(source, "the given image", max_side)
    name, data = _read(source)
    with _open(data, name) as image:
        if max_side is not None and max(image.size) > max_side:
            image.draft("RGB", (max_side, max_side))  # a JPEG is then decoded at 1/2, 1/4 or 1/8 size right away
        return _clean(image, name, max_side)


def _read(source: ImageSource) -> tuple[str, bytes]:
    """Return a name for messages and the whole file's bytes."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        name, data = "the given bytes", bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        name, data = f"{os.fspath(source)!r}", _read_path(Path(source))
    elif hasattr(source, "read"):
        name = f"{getattr(source, 'name', 'the given file')!r}"
        data = source.read()
        if not isinstance(data, bytes):
            raise LareError(f"{name} is open as text; open it as binary (mode 'rb')")
    else:
        raise LareError(f"an image can't be a {type(source).__name__}; give a path, bytes, a file or a Pillow image")
    if not data:
        raise LareError(f"{name} is empty (0 bytes); give an image file, such as PNG or JPEG")
    return name, data


def _read_path(path: Path) -> bytes:
    if str(path).startswith(("http:/", "https:/")):
        raise LareError(f"{str(path)!r} is a web address; download the image first and give the file's path")
    if path.is_dir():
        raise LareError(f"{str(path)!r} is a folder; give the path of one image file")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise LareError(f"there is no file {str(path)!r}; check the path to the image") from None
    except (OSError, ValueError) as error:
        raise LareError(f"{str(path)!r} can't be read ({error}); check the path and its permissions") from None


def _open(data: bytes, name: str) -> Image.Image:
    """Read the file's header; no pixel is decoded yet."""
    Image.init()
    formats = [known for known in _FORMATS if known in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of broken metadata, and of sizes, which _check_size judges
            image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise LareError(f"{name} has {_TOO_LARGE}") from None
    except UnidentifiedImageError:
        raise LareError(f"{name} is not an image that can be read; give {', '.join(_FORMATS[:6])} or AVIF") from None
    except _DAMAGE as error:
        raise LareError(f"{name} is damaged ({error}); make or download the file again") from None
    _check_size(image, name)
    return image


_STRICT = threading.Lock()


@contextmanager
def _strict() -> Iterator[None]:
    """Have Pillow raise on truncated files whatever other code set: lmms-eval has it fill the rest with grey."""
    with _STRICT:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _check_size(image: Image.Image, name: str) -> None:
    if image.width < 1 or image.height < 1:
        raise LareError(f"{name} is {image.width} x {image.height} pixels; an image needs at least one")
    if image.width * image.height > MAX_PIXELS:
        raise LareError(f"{name} is {image.width} x {image.height}: {_TOO_LARGE}")


def _clean(image: Image.Image, name: str, max_side: int | None) -> Image.Image:
    """Decode, convert, turn upright and shrink into a new image."""
    _check_size(image, name)
    try:
        with _strict():
            image.load()
        rgb = _upright(_to_rgb(image), image)
    except _DAMAGE as error:
        raise LareError(f"{name} is damaged ({error}); make or download the file again") from None
    if max_side is not None and max(rgb.size) > max_side:
        rgb.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return rgb


def _upright(rgb: Image.Image, original: Image.Image) -> Image.Image:
    """Apply the orientation in the original's EXIF data; unreadable EXIF data count as none."""
    try:
        turn = _TURNS.get(original.getexif().get(_ORIENTATION, 1))
    except _DAMAGE:
        return rgb
    return rgb if turn is None else rgb.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any of Pillow's modes to a new RGB image."""
    if image.mode.startswith(("I", "F")):
        grey = Image.fromarray(_to_8_bit(np.asarray(image), sixteen_bit=image.mode.startswith("I;16")))
        return grey.convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _to_8_bit(values: np.ndarray, sixteen_bit: bool) -> np.ndarray:
    """Scale grey values (h, w) to 0..255.

    Only 16-bit modes say what white is (65535). Of the others the largest value tells: up to 1 in floats means 0..1,
    up to 255 means 8 bits, up to 65535 means 16 bits, and beyond that the largest value itself is taken as white.
    """
    grey = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(grey.max())
    if sixteen_bit:
        white = 65535.0
    elif values.dtype.kind == "f" and largest <= 1.0:
        white = 1.0
    else:
        white = next((bound for bound in (255.0, 65535.0) if largest <= bound), largest)
    return np.asarray(np.clip(np.rint(grey * (255.0 / white)), 0, 255), dtype=np.uint8)
