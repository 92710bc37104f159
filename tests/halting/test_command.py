"""``lare halting fit`` on a tiny checkpoint and a data file: what is collected, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lare.cli import main
from lare.data.questions import file_questions, is_right
from lare.data.source import Source
from lare.data.splits import split_of
from lare.embedded.asked import FRESH, world_questions
from lare.embedded.world_data import WorldData
from lare.errors import LareError
from lare.halting.collect import collect
from lare.halting.source import find_target
from lare.methods import load_method
from lare.methods.base import Sampling
from lare.methods.lare import Lare
from lare.model.stop_head import HEADS_FILE, KINDS
from tests.methods.tiny_checkpoint import pictures, write_checkpoint

COUNT, T = 24, 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return Path(write_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def method(checkpoint: Path) -> Lare:
    found = load_method("lare", str(checkpoint), "cpu", stop="fixed")
    assert isinstance(found, Lare)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, method: Lare) -> Path:
    """Questions whose answers are what the model says after two steps; 16 train, 7 validate, one is a test's."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    names: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for name in (f"{number}.png" for number in range(200)):
        names[split_of(name)].append(name)
    chosen = names["train"][:16] + names["validation"][:7] + names["test"][:1]
    for number, (name, image) in enumerate(zip(chosen, pictures(COUNT), strict=True)):
        image.save(folder / name)
        said = method.changed(iterations=2).answer([image], [f"Why {number}?"], Sampling(max_new_tokens=3))[0].text
        turns = [{"from": "human", "value": f"<image>\nWhy {number}?"}, {"from": "gpt", "value": said or "nothing"}]
        rows.append({"id": str(number), "image": name, "conversations": turns})
    path = folder / "questions.json"
    path.write_text(json.dumps(rows))
    return path


def test_what_is_collected_is_what_is_answered(method: Lare, data: Path) -> None:
    questions = list(file_questions(Source(data), "train"))
    found = collect(method, iter(questions), COUNT, T, batch=5, most=3)
    assert found.right.shape == (len(questions), T) and len(set(found.group.tolist())) == len(questions)
    for row, one in enumerate(questions[:4]):
        for steps in range(1, T + 1):
            text = method.changed(iterations=steps).answer([one.image], [one.text], Sampling(max_new_tokens=3))[0].text
            assert found.right[row, steps - 1] == is_right(text, one.answer)
    assert found.right[:, 1].mean() > 0.9 > found.right.mean(), "steps must matter"
    single = collect(method, iter(questions[:2]), 2, T, batch=1, most=3)
    for kind in KINDS:
        torch.testing.assert_close(single.inputs[kind], found.inputs[kind][:2], atol=1e-4, rtol=1e-4)


def test_fitting_writes_heads_that_answer(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["halting", "fit", str(checkpoint), "--data", str(data), "--limit", "16", "--validation", "8"]
    words += ["--steps", str(T), "--epochs", "2", "--max-new-tokens", "3", "--batch-size", "8", "--device", "cpu"]
    before = load_method("lare", str(checkpoint)).fingerprint()
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "best fixed number of steps: 2" in told and "stop=learned" in told
    assert (checkpoint / HEADS_FILE).is_file()
    assert main(["halting", "show", str(checkpoint)]) == 0
    assert capsys.readouterr().out.strip() in told
    learned = load_method("lare", str(checkpoint), stop="learned:ponder:0.000001")
    assert learned.fingerprint() == before
    heads = learned.model.stop_heads
    assert heads is not None and learned.arguments()["stop_heads"] == heads.digest
    assert "stop_heads" not in learned.changed(stop="fixed").arguments()
    assert main(["halting", "show", str(checkpoint), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["digest"] == heads.digest and shown["best_fixed"] == 2 and set(shown["heads"]) == set(heads.heads)
    image = tmp_path / "scene.png"
    pictures(1)[0].save(image)
    ask = ["ask", str(image), "Why?", "--checkpoint", str(checkpoint), "--json", "--max-new-tokens", "3", "--stop"]
    for stop, steps in (("learned:ponder:0.000001", 1), ("learned", 2)):  # the chosen head never stops: too few shown
        assert main([*ask, stop]) == 0
        assert json.loads(capsys.readouterr().out)["latent_steps"] == steps
    passes = [
        learned.changed(stop=stop).answer(pictures(1), ["Why?"], Sampling(max_new_tokens=3))[0]
        for stop in ("learned:ponder:0.000001", "learned:confidence:0.000001")
    ]
    assert [one.decoder_passes - one.latent_steps - one.output_tokens for one in passes] == [1, 2]
    (checkpoint / HEADS_FILE).unlink()
    assert main([*ask, "learned"]) == 2
    assert "no learned stop rule" in capsys.readouterr().err


def test_the_splits_of_a_file_share_no_picture(data: Path) -> None:
    splits = ("train", "validation", "test")
    train, held, test = ({one.group for one in file_questions(Source(data), split)} for split in splits)
    assert train and held and not train & held and not (train | held) & test
    assert len(train | held | test) == COUNT
    with pytest.raises(LareError, match="split is 'dev'"):
        next(file_questions(Source(data), "dev"))


def test_the_worlds_questions_are_of_scenes_that_never_trained() -> None:
    train = list(world_questions(WorldData(version=2), "train", 6))
    held = list(world_questions(WorldData(version=2), "validation", 6))
    assert len(train) == len(held) == 8
    assert {one.group for one in train} == {f"train/{FRESH['train']}", f"train/{FRESH['train'] + 1}"}
    assert {one.group for one in held} == {"validation/0", "validation/1"}
    assert all(one.text and one.answer for one in train)
    assert not np.array_equal(np.asarray(train[0].image), np.asarray(held[0].image))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("It is left of it. Answer: a Cat.", True),
        ("cat", True),
        ("Answer: cat", False),
        ("Answer: a cat Answer:", False),
    ],
)
def test_answers_are_marked(text: str, right: bool) -> None:
    assert is_right(text, "a cat" if text != "cat" else "Cat.") == right


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give --data"),
        (["--data", "world", "version=9"], "no version 9"),
        (["--data", "gone.json"], "gone.json"),
        (["--data", "world", "--steps", "99"], "--steps is 99"),
        (["--data", "world", "--limit", "0"], "--limit is 0"),
        (["--data", "world", "--margin", "2"], "--margin is 2"),
    ],
)
def test_impossible_fits_are_refused(
    checkpoint: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["halting", "fit", str(checkpoint), *words]) == 2
    assert says in capsys.readouterr().err


def test_a_run_names_its_checkpoint_and_its_data(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "lare" / "configs" / "world2.yaml"
    (tmp_path / "run.yaml").write_text(source.read_text().replace("runs/world2", str(tmp_path)))
    with pytest.raises(LareError, match="not finished"):
        find_target(str(tmp_path), [])
    final = tmp_path / "IV" / "final"
    final.mkdir(parents=True)
    (final / "config.json").write_text("{}")
    target = find_target(str(tmp_path), [])
    assert target.checkpoint == final
    assert isinstance(target.data, WorldData) and target.data.version == 2
    assert target.data.families["gaze6"] == 1.9
    assert find_target(str(tmp_path), ["world", "per_image=4"]).data == WorldData(per_image=4)
