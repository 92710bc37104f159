"""The Python examples of README and docs/ run as they stand."""

import contextlib
import io
import re
import sys
import textwrap
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="runs in a checkout only")


def blocks(page: str) -> list[str]:
    """The page's blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(source: str, names: dict) -> dict:
    exec(compile(source, "example", "exec"), names)
    return names


@pytest.fixture(scope="module")
def row():
    from lare.embedded.world.benchmark import make_task

    return make_task("mmbench", "validation", n=2)[1]


def test_asking_from_python(tmp_path, monkeypatch, row):
    monkeypatch.chdir(tmp_path)
    row["image"].save("scene.png")
    (source,) = blocks("README.md")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        names = run(source, {})
    assert "Answer:" in printed.getvalue() and names["answer"].windows[0].shape == (4, 2)


@pytest.fixture
def peek(tmp_path, monkeypatch):
    """The page's package, installed as pip would: its module and its entry point, outside of this project."""
    page = (ROOT / "docs" / "extend" / "method.md").read_text(encoding="utf-8")
    (declared,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    source, _ = blocks("docs/extend/method.md")
    place = tmp_path / "elsewhere"
    about = place / "peek-1.0.dist-info"
    about.mkdir(parents=True)
    (place / "peek.py").write_text(source, encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: peek\nVersion: 1.0\n", encoding="utf-8")
    lines = declared.replace('project.entry-points."lare.methods"', "lare.methods").replace('"', "")
    (about / "entry_points.txt").write_text(lines, encoding="utf-8")
    monkeypatch.syspath_prepend(place)
    yield
    sys.modules.pop("peek", None)


def test_the_example_of_a_method(row, peek):
    from lare.embedded.world.prompts import task_prompt
    from lare.methods import load_method, method_names
    from lare.methods.base import Sampling

    assert "peek" in method_names() and "peek" not in sys.modules
    images, questions = [row["image"]], [task_prompt("mmbench", row)]
    mine = load_method("peek", device="cpu", percent=60, iterations=2)
    (answer,) = mine.answer(images, questions, Sampling(max_new_tokens=16), trace=True)
    width, height = row["image"].size
    box = [round(share * side) for share in (0.2, 0.8) for side in (width, height)]
    assert answer.arrays["crop"].tolist() == box and answer.latent_steps == 2
    lare = load_method("lare", device="cpu", iterations=2)
    (plain,) = lare.answer([row["image"].crop(box)], questions, Sampling(max_new_tokens=16), trace=True)
    assert answer.text == plain.text and (answer.arrays["saliency"] == plain.arrays["saliency"]).all()
    assert mine.arguments()["percent"] == 60


def test_the_example_of_a_method_is_evaluated_with_its_own_option_and_column(tmp_path, peek):
    import lare_eval.models
    from lare import LareError
    from lare.trace import TraceReader
    from lare_eval.manifest import manifests
    from tests.eval.conftest import make_rows, requests_for

    assert "lare_peek" in {manifest.model_id for manifest in manifests()}
    arguments = f"percent=60,iterations=1,max_new_tokens=2,trace={tmp_path / 'traces'},device=cpu"
    adapter = lare_eval.models.peek.create_from_arg_string(arguments, {"batch_size": 2})
    rows = make_rows(3)
    adapter.task_dict = {"pope": {"test": rows}}
    adapter.generate_until(requests_for({"pope": rows}))
    traces = TraceReader(tmp_path / "traces")
    assert traces.column("crop").stack().tolist() == [[2, 2, 6, 6]] * 3
    assert traces.own == ("crop",) and traces.column("latents").shapes[0][0] == 1
    assert [record.own["crop"].tolist() for record in traces] == [[2, 2, 6, 6]] * 3
    assert traces.infos[0]["arguments"]["percent"] == 60
    with pytest.raises(LareError, match="unknown --model_args percents; known are pretrained, .*'peek' .*percent"):
        lare_eval.models.peek.create_from_arg_string("percents=60")
    with pytest.raises(LareError, match="percent is 0; give a whole number from 1"):
        lare_eval.models.peek.create_from_arg_string("percent=0")


@pytest.fixture
def pause(tmp_path, monkeypatch):
    """The page's second method, as a module and an entry point of another package."""
    from importlib.metadata import EntryPoint

    from lare.methods import listing

    _, source = blocks("docs/extend/method.md")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "pause.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    entry = EntryPoint("pause", "pause:Pause", listing.GROUP)
    monkeypatch.setattr(listing, "installed", lambda: {"pause": [entry]})
    yield
    sys.modules.pop("pause", None)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_example_of_training_a_method(tmp_path, pause, family, capsys):
    """Trained in a mixture, saved, loaded, and answered, also through the plug-in's class."""
    import json

    import lare_eval.models
    from lare import LareForConditionalGeneration
    from lare.cli import main
    from lare.methods import load_method
    from lare.methods.base import Sampling
    from tests.eval.conftest import make_rows, requests_for
    from tests.methods.tiny_checkpoint import pictures, tiny_parts

    model, processor = tiny_parts(family=family, latent_maker="pause", use_window=False)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "start")
    rows = []
    for number, picture in enumerate(pictures(12)):
        picture.save(tmp_path / f"{number}.png")
        reply = f"<think>It is dark. It is {number}.</think> <answer>{number}</answer>"
        turns = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": reply}]
        rows.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (tmp_path / "data.json").write_text(json.dumps(rows))
    stage = {"stage": "IV", "batch": 4, "samples": 32, "data": [{"path": str(tmp_path / "data.json")}]}
    run_file = {
        "out": str(tmp_path / "run"), "model": {"checkpoint": str(tmp_path / "start")}, "tensorboard": False,
        "log_every": 1,
        "losses": {"image": 0, "text": 0, "alignment": 0},
        "stages": [stage | {"methods": {"llava": 0.4, "pause": {"share": 0.6, "steps": 1}}}],
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(run_file))
    assert main(["train", str(tmp_path / "run.yaml")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "IV" / "log.jsonl").read_text().splitlines()]
    with_latents = ["pause_short" in line["losses"] for line in lines]
    assert len(lines) == 8 and any(with_latents) and not all(with_latents)
    final = tmp_path / "run" / "IV" / "final"
    trained = LareForConditionalGeneration.from_pretrained(final)
    assert not torch.equal(trained.latent_maker.mix.weight, model.latent_maker.mix.weight)
    mine = load_method("pause", str(final), device="cpu", iterations=1)
    sampling, images = Sampling(max_new_tokens=6), pictures(3)
    questions = ["Which?", "Which one is it?", "It?"]
    together = mine.answer(images, questions, sampling)
    alone = [mine.answer([image], [question], sampling)[0] for image, question in zip(images, questions, strict=True)]
    assert [one.text for one in together] == [one.text for one in alone] and together[0].latent_steps == 1
    arguments = f"pretrained={final},iterations=1,max_new_tokens=3,device=cpu"
    adapter = lare_eval.models.pause.create_from_arg_string(arguments, {"batch_size": 2})
    adapter.task_dict = {"pope": {"test": make_rows(3)}}
    assert len(adapter.generate_until(requests_for({"pope": make_rows(3)}))) == 3


def test_the_example_of_a_data_format():
    from collections.abc import Mapping
    from typing import Any

    from lare.data.sample import BadRow, Sample

    (source,) = blocks("docs/guides/data.md")
    parse = run(source, {"Mapping": Mapping, "Any": Any, "BadRow": BadRow, "Sample": Sample})["parse_mine"]
    (sample,) = parse({"id": 3, "caption": "a cat", "file": "cat.png"})
    assert sample.answer == "a cat" and sample.image == "cat.png"
    with pytest.raises(BadRow, match="no caption"):
        parse({"id": 3})


def test_run_files_in_the_guide_are_possible():
    import yaml

    from lare.training.plan.run_file import run_config_from

    pages = [(ROOT / "docs" / "guides" / "train.md").read_text(encoding="utf-8")]
    found = re.findall(r"^```yaml\n(.*?)^```", pages[0], re.M | re.S)
    data, methods, model = (yaml.safe_load(textwrap.dedent(one)) for one in found)
    config = run_config_from(data | model | {"stages": [data["stages"][0] | methods]})
    assert config.stages[0].data[0].path == "mine.jsonl" and config.model.text.startswith("Qwen/")
    assert [entry.label for entry in config.stages[0].mixture] == ["llava", "cot", "lare"]


def test_asking_as_with_any_model_of_transformers(tmp_path, monkeypatch, row):
    monkeypatch.chdir(tmp_path)
    row["image"].save("scene.png")
    (source,) = blocks("docs/guides/transformers.md")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        names = run(source, {})
    assert printed.getvalue().count("Answer:") >= 3 and len(names["answers"]) == 3
