"""Checkpoints with adapters name their base: small, the same bit for bit when loaded, and clear when it is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lare import LareConfig, LareError, LareForConditionalGeneration
from lare.backbones import decoders
from lare.backbones.assemble import assemble
from lare.backbones.bases import base_tensors
from lare.backbones.fetch import WEIGHTS, Weights, sha256_of
from lare.backbones.published import EFFICIENTNET
from lare.checkpoints import shipped_checkpoints
from lare.cli import main
from lare.loading import fingerprint, load_checkpoint
from lare.model.base_weights import BASE_FILE, ROWS, read_base
from lare.model.lora import merge_lora
from lare.training.distributed.sharding import Whole

pytest.importorskip("gguf")
from tests.model.gguf_files import write_qwen2_gguf  # noqa: E402
from tests.model.test_gguf import CONFIGS, TINY, _pictures, needs_encoder, train_words  # noqa: E402

pytestmark = needs_encoder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and a checkpoint of a model with adapters that have learnt something."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").mkdir()
    write_qwen2_gguf(home / "models" / "tiny.gguf")
    model, processor = assemble(f"{home}/models::tiny.gguf", EFFICIENTNET, TINY, seed=3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_()
        model.get_input_embeddings().weight[model.config.latent_start_id] += 1  # one of LaRe's own rows
    model.save_pretrained(home / "lean")
    processor.save_pretrained(home / "lean")
    base, model.base = model.base, None
    model.save_pretrained(home / "full")
    processor.save_pretrained(home / "full")
    model.base = base
    return home


@pytest.fixture
def place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it to harm, which is the working directory."""
    shutil.copytree(home, tmp_path / "home")
    path = tmp_path / "home" / "lean" / BASE_FILE
    path.write_text(path.read_text().replace(f"{home}/models::", "models::"))
    monkeypatch.chdir(tmp_path / "home")
    yield tmp_path / "home"


def size(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


def test_what_is_left_out_comes_back_bit_by_bit(place: Path) -> None:
    lean, words, _ = load_checkpoint("lean", "cpu")
    full, _, _ = load_checkpoint("full", "cpu")
    assert lean.base is not None and full.base is None
    assert lean.state_dict().keys() == full.state_dict().keys()
    wrong = [name for name, value in full.state_dict().items() if not torch.equal(value, lean.state_dict()[name])]
    assert not wrong and fingerprint(lean, words) == fingerprint(full, words)
    assert lean.generation_config.to_dict() == full.generation_config.to_dict()
    assert {n for n, p in lean.named_parameters() if p.requires_grad} == {
        n for n, p in full.named_parameters() if p.requires_grad
    }
    kept = load_file("lean/model.safetensors")
    assert not [name for name in kept if "base_layer" in name or name.startswith("vision_tower")]
    assert len([name for name in kept if name.endswith(ROWS)]) == len(lean.base.rows) and size(
        place / "lean"
    ) < 0.4 * size(place / "full")
    assert next(lean.parameters()).dtype == torch.float32
    batch = dict(words(text=words.build_prompts(["A?"]), images=_pictures(1)))
    assert torch.equal(
        lean.generate(**batch, max_new_tokens=3).sequences, full.generate(**batch, max_new_tokens=3).sequences
    )


def test_a_changed_weight_of_the_base_is_kept_as_any_other(place: Path) -> None:
    model, _, _ = load_checkpoint("lean", "cpu")
    name = next(n for n in model.state_dict() if n.endswith("layers.0.mlp.up_proj.weight"))
    with torch.no_grad():
        model.state_dict()[name][0, 0] += 1
    model.save_pretrained("again")
    again, _ = load_file("again/model.safetensors"), read_base("again", {})
    assert name in again
    found = LareForConditionalGeneration.from_pretrained("again")
    assert torch.equal(found.state_dict()[name], model.state_dict()[name])
    merge_lora(model)
    model.save_pretrained("again")
    assert not Path("again", BASE_FILE).exists()  # all of it, without a base
    assert LareForConditionalGeneration.from_pretrained("again").base is None


def test_another_type_is_saved_whole(place: Path) -> None:
    model, _, _ = load_checkpoint("lean", "cpu", "bfloat16")
    model.save_pretrained("half")
    assert not Path("half", BASE_FILE).exists()
    assert LareForConditionalGeneration.from_pretrained("half").dtype == torch.bfloat16


def ask(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    _pictures(1)[0].save("dog.png")
    code = main(["ask", "dog.png", "Which animal is it?", "--model", checkpoint, "--json", "--max-new-tokens", "3"])
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.strip() and "GGUF" not in line]  # transformers' bar
    return code, said.out if code == 0 else "\n".join(lines)


def test_a_missing_base_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("models")
    code, said = ask("lean", capsys)
    assert code == 2 and len(said.splitlines()) == 1
    assert "'lean' is made on tiny.gguf (sha256 " in said and "neither in 'models'" in said and "that very file" in said


def test_another_base_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("models")
    Path("models").mkdir()
    write_qwen2_gguf(Path("models/tiny.gguf"), seed=1)
    code, said = ask("lean", capsys)
    assert code == 2 and len(said.splitlines()) == 1
    assert "what lies at 'models::tiny.gguf' has other weights (language_model." in said and "more)" in said


def test_a_base_that_lacks_tensors_is_told_before_what_else_fails(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("lean", BASE_FILE)
    told = json.loads(path.read_text())
    told["hashes"]["language_model.layers.9.mlp.up_proj.weight"] = "0" * 64  # the model has no place for it either
    path.write_text(json.dumps(told))
    code, said = ask("lean", capsys)
    assert code == 2 and len(said.splitlines()) == 1
    assert "has other weights (language_model.layers.9.mlp.up_proj.weight)" in said


def test_weights_of_a_base_are_read_without_its_tokenizer(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = read_base("lean", {})
    assert base is not None
    config = LareConfig.from_pretrained("lean")
    tensors, found = base_tensors(base, "lean", config)
    monkeypatch.setattr(decoders, "load_tokenizer", None)  # what was dequantised lies beside the file by now
    again, _ = base_tensors(base, "lean", config)
    assert found == "models::tiny.gguf" and again.keys() == tensors.keys()
    assert all(torch.equal(value, again[name]) for name, value in tensors.items())


def test_a_hub_out_of_reach_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("lean", BASE_FILE)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text": "nobody/nothing", "file": {}}))
    code, said = ask("lean", capsys)
    assert code == 2 and len(said.splitlines()) == 1 and "nobody/nothing" in said and "that can be reached" in said
    path.write_text("{")
    code, said = ask("lean", capsys)
    assert code == 2 and "base.json" in said and "copy the checkpoint again" in said


def test_a_small_folder_answers_by_its_name(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = sha256_of(Path("models/tiny.gguf"))
    monkeypatch.setitem(WEIGHTS, "tiny", Weights("tiny.gguf", ("one",), ".bin", right, "MIT", 1))
    path = Path("lean", BASE_FILE)
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"file": found["file"] | {"fetch": "tiny"}}))
    assert main(["export", "lean", "--out", "small"]) == 0
    assert "get it by: lare fetch tiny" in capsys.readouterr().out
    modes = {path.stat().st_mode & 0o777 for name in ("small", "lean") for path in Path(name).iterdir()}
    assert modes == {path.stat().st_mode & 0o777}  # others may read weights if they may read the rest
    assert not list(Path("small").glob("tokenizer*")) and size(Path("small")) < 0.6 * size(Path("lean"))
    monkeypatch.setattr("lare.checkpoints.CHECKPOINTS", _Registered({"snaps": "small"}))
    assert shipped_checkpoints()["snaps"] == Path("small")
    code, said = ask("snaps", capsys)
    assert code == 0 and json.loads(said)["latent_steps"] == TINY["iterations"]
    small, words, _ = load_checkpoint("snaps", "cpu")
    lean, own, _ = load_checkpoint("lean", "cpu")
    assert words.build_prompts(["A?"]) == own.build_prompts(["A?"]) and words.lm_grid == own.lm_grid
    asked = "What is the black dog looking at?"
    assert words.tokenizer(asked)["input_ids"] == own.tokenizer(asked)["input_ids"]
    for name, value in lean.state_dict().items():
        close = (
            dict(rtol=2**-7, atol=1e-6)
            if name not in lean.base.hashes or name in lean.base.rows
            else dict(rtol=0, atol=0)
        )
        torch.testing.assert_close(small.state_dict()[name], value, **close)
    shutil.rmtree("models")
    assert "lare fetch tiny" in ask("snaps", capsys)[1]


class _Registered:
    """A registry with these names."""

    def __init__(self, found: dict[str, str]) -> None:
        self.found = found

    def names(self) -> list[str]:
        return sorted(self.found)

    def get(self, name: str) -> str:
        return self.found[name]


def test_what_can_not_be_exported_is_refused(place: Path) -> None:
    with pytest.raises(LareError, match="holds all its weights and names no base"):
        _export("full", "small")
    Path("there").mkdir()
    with pytest.raises(LareError, match="exists"):
        _export("lean", "there")


def _export(checkpoint: str, out: str) -> Any:
    from lare.cli.export import export

    return export(Path(checkpoint), Path(out))


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("earlier", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "earlier versions"])
def test_a_resumed_run_ends_as_if_it_had_not_been_killed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], earlier: bool
) -> None:
    """From lean checkpoints, and from whole ones, as earlier versions wrote them; but not with another base."""
    if earlier:
        monkeypatch.setattr(Whole, "_lean", lambda self, state: state)
    folder = tmp_path / "models"
    shutil.copytree(home / "models", folder)
    words = train_words(tmp_path, f"{folder}::tiny.gguf", samples=8, batch=4)
    assert main(["train", str(CONFIGS / "qwen2_5_coder_0_5b.yaml"), *words, "save_every=1"]) == 0
    monkeypatch.undo()
    run = tmp_path / "run"
    weights = list(run.rglob("*.safetensors"))
    assert weights and {path.stat().st_mode for path in weights} == {(run / "run.yaml").stat().st_mode}
    state = load_file(run / "IV" / "step-00000001" / "state.safetensors")
    assert earlier == any("base_layer" in name for name in state)
    before = {name: (run / "IV" / "final" / name).read_bytes() for name in ("model.safetensors", "heads.safetensors")}
    assert not [name for name in load_file(run / "IV" / "final" / "model.safetensors") if "base_layer" in name]
    shutil.rmtree(run / "IV" / "final")
    assert main(["train", "--resume", str(run)]) == 0
    assert {name: (run / "IV" / "final" / name).read_bytes() for name in before} == before
    if earlier:
        return
    shutil.rmtree(run / "I" / "final")
    shutil.rmtree(folder)
    folder.mkdir()
    write_qwen2_gguf(folder / "tiny.gguf", seed=1)
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 2
    assert "was made with another base model" in capsys.readouterr().err
