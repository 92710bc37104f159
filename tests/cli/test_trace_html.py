"""The page of ``lare ask --trace``."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lare.cli.ask import Reply
from lare.cli.trace_html import draw_step, picture_of, render_page, write_trace
from lare.errors import LareError

EVIL = "<script>alert('x')</script> & \"cats\""
CONFIG = SimpleNamespace(window=2, use_window=True, grid=8)
BLUE = (0, 120, 255)


def reply(**changes):
    values = dict(
        answer="cat",
        text="It is. Answer: cat",
        latent_steps=3,
        stop_reason="fixed",
        output_tokens=6,
        seconds={"think": 0.25},
        checkpoint="embedded",
    )
    return Reply(**(values | changes))


def arrays(steps=3, side=4):
    rng = np.random.default_rng(0)
    return {"saliency": rng.random((steps, side, side)), "windows": np.array([[0, 0], [3, 5], [6, 6]])[:steps]}


class Collector(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def parse(page):
    collector = Collector()
    collector.feed(page)
    return collector


def test_page_needs_nothing_else_and_forbids_it(tmp_path):
    path = tmp_path / "how.html"
    write_trace(path, "Which?", reply(), Image.new("RGB", (336, 336), "grey"), arrays(), CONFIG)
    page = path.read_text(encoding="utf-8")
    parsed = parse(page)
    assert "script" not in parsed.tags and "link" not in parsed.tags
    assert not re.search(r"https?://", page)
    policy = next(a["content"] for t, a in parsed.attributes if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy
    assert not any("style" in attributes for _, attributes in parsed.attributes)
    assert [file.name for file in tmp_path.iterdir()] == ["how.html"]


def test_one_picture_a_step_with_its_words(tmp_path):
    path = tmp_path / "how.html"
    write_trace(path, "Which?", reply(), Image.new("RGB", (336, 336)), arrays(), CONFIG)
    images = [attributes for tag, attributes in parse(path.read_text()).attributes if tag == "img"]
    assert len(images) == 4
    assert "Latent step 2" in images[2]["alt"] and "rows 3 to 4 and columns 5 to 6 of 8" in images[2]["alt"]
    for image in images:
        data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(data)).size == (336, 336)


def test_the_window_is_the_one_that_was_looked_at(tmp_path):
    path = tmp_path / "how.html"
    looked = arrays() | {"cross_attention": np.full((3, 9), 1 / 9)}
    write_trace(path, "Which?", reply(), Image.new("RGB", (336, 336)), looked, CONFIG)
    assert "the 3 x 3 window looked at again" in path.read_text(encoding="utf-8")
    write_trace(path, "Which?", reply(), Image.new("RGB", (336, 336)), {}, CONFIG)
    assert path.read_text(encoding="utf-8").count("<img") == 1


def test_everything_written_is_escaped():
    page = render_page(EVIL, reply(text=EVIL, answer=EVIL, checkpoint=EVIL), [(Image.new("RGB", (4, 4)), EVIL)])
    parsed = parse(page)
    assert "script" not in parsed.tags
    assert parsed.text.count(EVIL) >= 4


def test_no_latent_steps():
    empty = {"saliency": np.zeros((0, 4, 4)), "windows": np.zeros((0, 2))}
    page = render_page("Which?", reply(latent_steps=0), [(Image.new("RGB", (4, 4)), "What the model saw")])
    assert page.count("<img") == 1
    assert empty["saliency"].size == 0


def test_frame_and_warmth_are_where_they_belong():
    saliency = np.zeros((4, 4))
    saliency[3, 0] = 1.0
    drawn = draw_step(Image.new("RGB", (80, 80), "black"), saliency, (1, 4), window=3, grid=8)
    assert drawn.getpixel((5, 75))[0] > 100 and drawn.getpixel((75, 75)) == (0, 0, 0)
    blue = np.argwhere((np.asarray(drawn) == BLUE).all(-1))
    assert blue.min(0).tolist() == [10, 40] and blue.max(0).tolist() == [39, 69]


def test_flat_saliency_does_not_divide_by_zero():
    draw_step(Image.new("RGB", (8, 8)), np.zeros((2, 2)), (0, 0), window=1, grid=2)


def test_normalisation_is_undone():
    processor = SimpleNamespace(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.2, 0.1])
    colour = np.array([1.0, 0.4, 0.0])
    pixels = ((colour - processor.image_mean) / processor.image_std).reshape(3, 1, 1) * np.ones((3, 8, 8))
    assert picture_of(pixels, processor).getpixel((100, 100)) == (255, 102, 0)
    assert picture_of(np.ones((3, 8, 8)), SimpleNamespace()).getpixel((0, 0)) == (255, 255, 255)


def test_unwritable_place_is_one_message(tmp_path):
    with pytest.raises(LareError, match="can't be written"):
        write_trace(tmp_path / "no" / "how.html", "Q", reply(), Image.new("RGB", (8, 8)), arrays(), CONFIG)
