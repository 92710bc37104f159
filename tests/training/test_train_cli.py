"""``lare train``: mistakes are answered in one line before anything is loaded, and a folder belongs to one run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from lare.cli import main
from lare.training.plan.run_file import load_run_config, run_config_from

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def write(folder: Path, **changes: Any) -> Path:
    """A run whose model is not there: it gets as far as loading it."""
    content = {
        "model": {"checkpoint": str(folder / "no_model")},
        "stages": [{"stage": "III", "data": [{"path": "data.json"}], "batch": 4}],
        "out": str(folder / "run"),
    }
    path = folder / "run_file.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line on stderr with which a command ends."""
    capsys.readouterr()
    assert main(["train", *map(str, words)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("lare: ") and printed.err.count("\n") == 1 and "Traceback" not in printed.err
    assert printed.out == ""
    return printed.err


def test_a_dry_run_prints_the_whole_run_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    assert main(["train", "--dry-run", str(path), "seed=7", "losses.image=0"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert run_config_from(printed) == load_run_config(path, ["seed=7", "losses.image=0"])
    assert printed["seed"] == 7 and printed["optimiser"]["clip"] == 1.0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["run_file.yaml"]


@pytest.mark.parametrize("words", [["FILE", "seed=7", "--dry-run"], ["FILE", "--dry-run", "seed=7"]])
def test_options_may_stand_anywhere(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path))
    assert main(["train", *(path if word == "FILE" else word for word in words)]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 7


def test_help_has_examples_that_work(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    lines = [line.strip() for line in printed.splitlines()]
    examples = [shlex.split(line) for line in lines if line.startswith("lare train lare/configs/")]
    assert len(examples) >= 2
    monkeypatch.chdir(ROOT)
    for _, *words in examples:
        assert main([*words, "--dry-run"]) == 0
    word = printed.partition("such as ")[2].split()[0]
    assert "=" in word
    assert main(["train", "--dry-run", "lare/configs/embedded.yaml", word]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a run file, such as lare/configs/embedded.yaml, or --resume RUN"),
        (["none.yaml"], "the run file 'none.yaml' can't be read (No such file or directory); check the path"),
        (["seed=1"], "the run file 'seed=1' can't be read"),
        (["FILE", "sed=1"], "unknown key 'sed'; known here: model, stages, out"),
        (["FILE", "stages.0.rate=1"], "unknown key 'stages.0.rate'"),
        (["FILE", "seed=one"], "seed is 'one'; give a whole number"),
        (["FILE", "seed"], "'seed' is no key=value"),
        (["FILE", "stages.1.batch=1"], "'stages.1.batch' leads nowhere"),
        (["FILE", "precision=fp8"], "precision is 'fp8'; give fp32 or bf16 or fp16 or auto"),
        (["--resume", "FOLDER"], "run.yaml' can't be read (No such file or directory); check the path"),
        (
            ["--resume", "FOLDER", "seed=1"],
            "--resume takes its settings from the run; leave the run file and key=value",
        ),
        (["--resume", "FOLDER", "FILE"], "--resume takes its settings from the run"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_mistakes_are_answered_in_one_line(
    tmp_path: Path,
    words: list[str],
    message: str,
    dry: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"FILE": str(write(tmp_path)), "FOLDER": str(tmp_path)}
    assert message in refused(capsys, *dry, *(places.get(word, word) for word in words))
    assert not (tmp_path / "run").exists()


def test_the_run_is_remembered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    refused(capsys, path, "seed=3")
    kept = tmp_path / "run" / "run.yaml"
    assert load_run_config(kept) == load_run_config(path, ["seed=3"])
    assert main(["train", "--resume", str(tmp_path / "run"), "--dry-run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(kept.read_text())


def begin(folder: Path) -> None:
    """What a first update leaves behind."""
    step = folder / "run" / "III" / "step-00000001"
    step.mkdir(parents=True)
    (step / "meta.json").write_text("{}")


@pytest.mark.parametrize(
    "word", ["seed=1", "stages.0.batch=8", "losses.text=0", "precision=bf16", "optimiser.clip=2", "image.share=0.5"]
)
def test_a_folder_of_another_run_is_refused(tmp_path: Path, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, kept = write(tmp_path), tmp_path / "run" / "run.yaml"
    assert "no_model" in refused(capsys, path)
    begin(tmp_path)
    before = kept.read_bytes()
    message = refused(capsys, path, word)
    assert f"'{tmp_path / 'run'}' holds a run with other settings; give another out, or --resume" in message
    assert kept.read_bytes() == before
    assert "no_model" in refused(capsys, path)  # the same settings go on
    assert "no_model" in refused(capsys, path, word, f"out={tmp_path / 'other'}")


@pytest.mark.parametrize("word", ["workers=2", "save_every=5", "keep=1", "log_every=3", "tensorboard=false"])
def test_settings_that_do_not_change_the_weights_are_free(
    tmp_path: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path)
    refused(capsys, path)
    begin(tmp_path)
    assert "no_model" in refused(capsys, path, word)
    name, _, value = word.partition("=")
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())[name] == yaml.safe_load(value)
    assert "no_model" in refused(capsys, "--resume", tmp_path / "run")
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())[name] == yaml.safe_load(value)


def test_a_mistake_found_before_anything_was_made_can_be_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path)
    refused(capsys, path)
    assert "no_model" in refused(capsys, path, "stages.0.data.0.path=other.json")
    assert "other.json" in (tmp_path / "run" / "run.yaml").read_text()


@pytest.mark.parametrize("name", ["1", "~", "2024-01-01", "a: b", "x #1", "[y]", "Läufe 🙂"])
def test_folders_of_any_name_are_resumed(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(capsys, write(tmp_path, out=name))
    (tmp_path / name / "III").mkdir()
    assert "no_model" in refused(capsys, "--resume", name)
    (tmp_path / name).rename(tmp_path / "moved")
    assert main(["train", "--resume", "moved", "--dry-run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["out"] == "moved"


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    message = refused(capsys, write(tmp_path), f"out={tmp_path / 'file' / 'run'}")
    assert "can't be written (" in message and "change out" in message


def test_a_damaged_run_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    refused(capsys, path)
    begin(tmp_path)
    (tmp_path / "run" / "run.yaml").write_text("model: [")
    assert "run.yaml' is no YAML" in refused(capsys, path)
    assert "run.yaml' is no YAML" in refused(capsys, "--resume", tmp_path / "run")
