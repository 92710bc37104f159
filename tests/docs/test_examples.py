"""The Python examples of README and docs/ run as they stand."""

import contextlib
import io
import re
from pathlib import Path

import pytest

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


def test_the_example_of_a_method(row):
    from lare.embedded.world.prompts import task_prompt
    from lare.methods import load_method
    from lare.methods.base import Sampling

    (source,) = blocks("docs/extend/method.md")
    short = run(source, {"__name__": "lare.methods.short"})["Short"]
    lare = load_method("lare")
    mine = short(lare.model, lare.processor)
    (answer,) = mine.answer([row["image"]], [task_prompt("mmbench", row)], Sampling())
    assert answer.text == lare.answer([row["image"]], [task_prompt("mmbench", row)], Sampling())[0].text
    assert answer.latent_steps == 4 and answer.output_tokens <= 16


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
    data, model = (yaml.safe_load(one) for one in re.findall(r"^```yaml\n(.*?)^```", pages[0], re.M | re.S))
    config = run_config_from(data | model)
    assert config.stages[0].data[0].path == "mine.jsonl" and config.model.text.startswith("Qwen/")
