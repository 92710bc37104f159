"""`lare.images`: every odd file gives either an upright RGB picture or one clear message."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from lare.errors import LareError
from lare.images import MAX_PIXELS, MAX_SIDE, load_image

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def encode(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(width=24, height=16, mode="RGB"):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def png_header_only(width, height):
    """A PNG that claims a size and holds next to no data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_all_sources_give_the_same_picture(tmp_path):
    picture = noise()
    data = encode(picture)
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        results = [load_image(source) for source in (path, str(path), data, bytearray(data), io.BytesIO(data), file)]
    for result in [*results, load_image(picture)]:
        assert result.mode == "RGB"
        assert np.array_equal(np.asarray(result), np.asarray(picture))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_common_formats(form):
    result = load_image(encode(Image.new("RGB", (20, 10), RED), form))
    assert result.size == (20, 10)
    assert np.abs(np.asarray(result).astype(int) - RED).max() < 8


def test_given_image_is_left_unchanged():
    picture = Image.new("RGBA", (5000, 4), (255, 0, 0, 0))
    result = load_image(picture)
    assert (picture.mode, picture.size) == ("RGBA", (5000, 4))
    result.paste(GREEN, (0, 0, 1, 1))
    assert picture.getpixel((0, 0)) == (255, 0, 0, 0)
    plain = noise()
    assert load_image(plain) is not plain


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    result = load_image(Image.new("RGB", (7, 5), WHITE).convert("RGBA" if mode == "PA" else "RGB").convert(mode))
    assert (result.mode, result.size) == ("RGB", (7, 5))
    assert result.getpixel((3, 3)) == WHITE


def test_cmyk_jpeg_keeps_its_colour():
    result = load_image(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(np.asarray(result).astype(int) - RED).max() < 12


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(form):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    result = np.asarray(load_image(encode(Image.fromarray(ramp), form)))[..., 0]
    assert np.abs(result.astype(float) - ramp / 257).max() <= 1
    assert len(np.unique(result)) > 250


def test_dark_16_bit_picture_stays_dark():
    assert load_image(Image.fromarray(np.full((4, 4), 2570, np.uint16))).getpixel((0, 0)) == (10, 10, 10)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0, np.nan]], np.float32), [0, 128, 255, 0]),
        (np.array([[0.0, 127.6, 255.0, -3.0]], np.float32), [0, 128, 255, 0]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 25700, 65535]], np.int32), [0, 100, 255]),
        (np.array([[0, 500_000, 1_000_000]], np.int32), [0, 128, 255]),
    ],
)
def test_deep_grey_finds_its_white(values, expected):
    assert np.asarray(load_image(Image.fromarray(values)))[0, :, 0].tolist() == expected


def test_transparency_is_laid_on_white():
    picture = Image.new("RGBA", (4, 1), (255, 0, 0, 0))
    picture.putpixel((0, 0), (255, 0, 0, 255))
    for data in (encode(picture), encode(picture, "WEBP", lossless=True)):
        result = load_image(data)
        assert [result.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]


def test_palette_with_transparent_entry():
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((1, 0), 1)
    result = load_image(encode(picture, transparency=0))
    assert [result.getpixel((x, 0)) for x in (0, 1)] == [WHITE, GREEN]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_animation_gives_first_frame(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    data = encode(frames[0], form, save_all=True, append_images=frames[1:])
    assert np.abs(np.asarray(load_image(data)).astype(int) - RED).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation(form, orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = RED
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = load_image(encode(Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif))
    assert result.size == (48, 32)
    assert np.abs(np.asarray(result).astype(int) - upright)[2:14, 2:22].max() < 8
    assert np.abs(np.asarray(result).astype(int) - upright)[18:, 26:].max() < 8


def test_broken_exif_counts_as_none():
    data = encode(noise(), "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff rubbish")
    assert load_image(data).size == (24, 16)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_tiny(size):
    assert load_image(encode(Image.new("RGB", size))).size == size


@pytest.mark.parametrize(("size", "form"), [((20_000, 20), "PNG"), ((1, 20_000), "PNG"), ((20_000, 200), "JPEG")])
def test_long_sides_are_scaled_down(size, form):
    data = encode(Image.new("RGB", size, RED), form)
    result = load_image(data)
    assert max(result.size) == MAX_SIDE
    assert min(result.size) == max(1, round(min(size) * MAX_SIDE / max(size)))
    assert max(load_image(data, max_side=None).size) == max(size)
    assert max(load_image(data, max_side=100).size) == 100


@pytest.mark.parametrize("side", [10_000, 12_000, 20_000, 60_000])
def test_too_many_pixels_are_refused_before_decoding(side, recwarn):
    assert side * side > MAX_PIXELS
    with pytest.raises(LareError, match="scale it down"):
        load_image(png_header_only(side, side))
    assert not recwarn.list


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated(form):
    data = encode(noise(200, 100), form)
    with pytest.raises(LareError, match=r"damaged|not an image"):
        load_image(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "empty"),
        (io.BytesIO(b""), "empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"hello, I am text", "not an image"),
        (io.StringIO("text"), "binary"),
        (12, "int"),
        (None, "NoneType"),
        ("https://example.org/cat.png", "download"),
        ("no/such/file.png", "no file 'no/such/file.png'"),
        ("a\0b", "can't be read"),
        (Image.new("RGB", (0, 0)), "at least one"),
    ],
)
def test_clear_errors(source, message):
    with pytest.raises(LareError, match=message) as caught:
        load_image(source)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_folder_and_locked_file(tmp_path):
    with pytest.raises(LareError, match="folder"):
        load_image(tmp_path)
    path = tmp_path / "locked.png"
    path.write_bytes(encode(noise()))
    path.chmod(0)
    if not os.access(path, os.R_OK):  # root reads everything
        with pytest.raises(LareError, match="permissions"):
            load_image(path)


def test_truncation_shows_whatever_other_code_asked_of_pillow(monkeypatch):
    """lmms-eval makes Pillow fill truncated files with grey; a model must not answer about that."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(LareError, match="damaged"):
        load_image(encode(noise(200, 100))[:5000])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_lazy_truncated_pillow_image():
    image = Image.open(io.BytesIO(encode(noise(200, 100))[:5000]))
    with pytest.raises(LareError, match="damaged"):
        load_image(image)


def test_impossible_max_side():
    with pytest.raises(LareError, match="max_side"):
        load_image(noise(), max_side=0)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), form=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
def test_mangled_files_never_escape_as_another_error(data, form):
    whole = bytearray(encode(noise(), form))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        result = load_image(bytes(whole))
    except LareError as error:
        assert "\n" not in str(error)
    else:
        assert result.mode == "RGB"
