"""Planted duplicates are found: exact texts, and re-encoded, resized and cropped images; the rest stays untouched."""

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lare.cli import main
from lare.data.decontaminate import SMALL_THRESHOLD, copy_rows, decontaminate, images_of, qa_keys, text_key
from lare.data.embedding import EFFICIENTNET, load_embedder
from lare.data.neighbours import nearest
from lare.data.source import Source


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Twelve different pieces of two photographs."""
    datasets = pytest.importorskip("sklearn.datasets")
    pieces = []
    for name in ("china.jpg", "flower.jpg"):
        whole = Image.fromarray(datasets.load_sample_image(name))
        pieces += [whole.crop((x, y, x + 213, y + 213)) for y in (0, 213) for x in (0, 213, 426)]
    return pieces


def row(name, image, question="What is this?", answer="A photo."):
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": image, "conversations": turns}


@given(n=st.integers(1, 40), m=st.integers(1, 40), block=st.integers(1, 50), seed=st.integers(0, 99))
@settings(deadline=None)
def test_nearest_equals_the_full_matrix(n, m, block, seed):
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(n, 8, generator=generator), torch.randn(m, 8, generator=generator)
    full = torch.nn.functional.normalize(left, dim=-1) @ torch.nn.functional.normalize(right, dim=-1).T
    cosine, index = nearest(left, right, block)
    torch.testing.assert_close(cosine, full.max(1).values)
    torch.testing.assert_close(full.gather(1, index[:, None])[:, 0], full.max(1).values)


def test_nearest_needs_little_memory():
    """20,000 x 20,000 would be 1.6 GB at once."""
    import resource

    left = torch.randn(20_000, 16).half()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cosine, index = nearest(left, left)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB
    assert index.tolist() == list(range(20_000)) and float(cosine.min()) > 0.999


def test_text_keys_forget_case_space_and_punctuation():
    assert text_key("What is  THIS?", "(A) cat.") == text_key("what is this", "a CAT")
    assert text_key("What is this?", "a cat") != text_key("What is this?", "a dog")
    assert text_key("a", "b c") != text_key("a b", "c")


def test_excluded_sets_of_other_shapes(tmp_path):
    science = [{"question": "Which?", "choices": ["iron", "gold"], "answer": 1}, {"question": None, "answer": "x"}]
    (tmp_path / "science.json").write_text(json.dumps(science))
    assert qa_keys(tmp_path / "science.json") == {text_key("Which?", "gold")}
    (tmp_path / "talk.json").write_text(json.dumps([row("a", "a.png", "Q", "A")]))
    assert qa_keys(tmp_path / "talk.json") == {text_key("Q", "A")}


VARIANTS = {
    "same": lambda image: encode(image),
    "jpeg": lambda image: encode(image, "JPEG", quality=50),
    "webp": lambda image: encode(image, "WEBP", quality=50),
    "half": lambda image: encode(image.resize((106, 106), Image.Resampling.LANCZOS)),
    "double": lambda image: encode(image.resize((426, 426), Image.Resampling.BICUBIC)),
    "crop": lambda image: encode(image.crop((10, 10, 203, 203))),
}


def test_planted_copies_are_found_and_nothing_else(tmp_path, photos):
    """Recall 1 on each kind of copy; no false alarm, at a threshold that fits the small embedder."""
    tests, others = photos[::2], photos[1::2]
    (tmp_path / "test").mkdir()
    for i, image in enumerate(tests):
        image.save(tmp_path / "test" / f"{i}.png")
    rows = [row(f"own{i}", f"own{i}.png") for i in range(len(others))]
    for i, image in enumerate(others):
        image.save(tmp_path / f"own{i}.png")
    for kind, make in VARIANTS.items():
        for i, image in enumerate(tests):
            (tmp_path / f"{kind}{i}.img").write_bytes(make(image))
            rows.append(row(f"{kind}-{i}", f"{kind}{i}.img"))
    rows += [row("exact", "own0.png", "Which metal?", "Gold."), row("broken", "none.png")]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(rows))
    excluded = {text_key("which metal", "gold"): "science.json"}
    result = decontaminate(
        Source(path), excluded, [images_of(tmp_path / "test")], load_embedder(EFFICIENTNET), SMALL_THRESHOLD
    )
    found = {removed.id: removed for removed in result.removed}
    for kind in VARIANTS:
        missed = [i for i in range(len(tests)) if f"{kind}-{i}" not in found]
        assert not missed, kind
        assert all(found[f"{kind}-{i}"].match == f"{i}.png" for i in range(len(tests))), kind
    assert found["same-0"].similarity == pytest.approx(1.0, abs=1e-3)
    assert found["exact"].reason == "exact" and "science.json" in found["exact"].match
    assert len(found) == len(VARIANTS) * len(tests) + 1
    assert result.rows == list(range(1, len(others) + 1))
    assert [problem.where for problem in result.unreadable] == [f"train.json:{len(rows)}"]


def test_the_command_writes_the_clean_file_and_the_reasons(tmp_path, photos, capsys):
    (tmp_path / "test").mkdir()
    photos[0].save(tmp_path / "test" / "t.png")
    photos[0].save(tmp_path / "copy.jpg", quality=80)
    photos[6].save(tmp_path / "own.png")
    rows = [row("own", "own.png"), "malformed", row("copy", "copy.jpg"), row("text", "own.png", "Q?", "A!")]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    (tmp_path / "split.json").write_text(json.dumps([{"question": "q", "answer": "a"}]))
    words = ["data", "decontaminate", str(tmp_path / "train.json"), "--against", str(tmp_path / "test")]
    words += ["--exclude", str(tmp_path / "split.json"), "--out", str(tmp_path / "clean.jsonl")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "4 rows; 1 stay" in printed and "1 by their text, 1 by their image, 1 bad rows" in printed
    assert [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text().splitlines()] == [rows[0]]
    reasons = [json.loads(line) for line in (tmp_path / "clean.removed.jsonl").read_text().splitlines()]
    assert [(reason["where"], reason.get("reason", reason.get("kind"))) for reason in reasons] == [
        ("train.json:3", "image"),
        ("train.json:4", "exact"),
        ("train.json:2", "not_object"),
    ]


def test_parquet_stays_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [{"id": str(i), "image": {"bytes": b"x" * i, "path": None}} for i in range(600)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    copy_rows(tmp_path / "a.parquet", {1, 257, 600}, tmp_path / "b.parquet")
    assert parquet.read_table(tmp_path / "b.parquet").to_pylist() == [rows[0], rows[256], rows[599]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--exclude or --against"),
        (["--against", "{0}/none"], "none"),
        (["--against", "{0}/empty"], "holds no images"),
        (["--exclude", "{0}/split.json", "--threshold", "2"], "threshold is 2.0"),
        (["--exclude", "{0}/split.json", "--out", "{0}/clean.csv"], "end in .jsonl"),
        (["--exclude", "{0}/split.json", "--out", "{0}/none/clean.jsonl"], "can't be written"),
        (["--against", "{0}/bad", "--exclude", "{0}/split.json"], "test image 'x.png'"),
        (["--against", "{0}/good", "--embedder", "{0}/empty"], "no CLIP checkpoint"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, words, message):
    (tmp_path / "train.json").write_text(json.dumps([row("a", "a.png")]))
    (tmp_path / "split.json").write_text(json.dumps([{"question": "q", "answer": "a"}]))
    for name in ("empty", "bad", "good"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "good" / "x.png")
    default = [] if "--out" in words else ["--out", str(tmp_path / "clean.jsonl")]
    given = [word.format(tmp_path) for word in words]
    assert main(["data", "decontaminate", str(tmp_path / "train.json"), *default, *given]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("lare: ") and message in error
    assert not (tmp_path / "clean.jsonl").exists()


def test_clip_checkpoints_embed(tmp_path):
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, projection_dim=24)
    torch.manual_seed(0)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(image_size=32, patch_size=8, **sizes))
    model.save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (2, 50, 70, 3), dtype=np.uint8)
    vectors = load_embedder(str(tmp_path))([Image.fromarray(pixels) for pixels in noise])
    assert vectors.shape == (2, 24)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
