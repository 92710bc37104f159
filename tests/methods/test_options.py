"""Options are typed, refused early and by name; controls are options and answer as the computations they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lare import LareError
from lare.embedded.world.benchmark import make_task
from lare.embedded.world.prompts import task_prompt
from lare.methods import get_method, listing, load_method, method_names
from lare.methods.base import MethodOptions, Sampling, option
from lare.methods.lare import Lare, LareOptions
from lare.methods.llava import Llava
from lare.methods.options import parse_options

from .tiny_checkpoint import GRID, LM_GRID, pictures, tiny_parts

SAMPLING = Sampling(max_new_tokens=32)


@dataclass(frozen=True)
class Own(MethodOptions):
    count: int = option(3, "how many", least=1)
    share: float | None = option(None, "how much")
    loud: bool = option(False, "whether")
    way: str = option("up", "which", choices=("up", "down"))


@pytest.fixture(scope="module")
def shipped():
    return load_method("lare", device="cpu")


@pytest.fixture(scope="module")
def asked():
    rows = [(task, row) for task in ("mmstar", "pope") for row in make_task(task, n=3)]
    return [row["image"] for _, row in rows], [task_prompt(task, row) for task, row in rows]


def texts(method, asked):
    return [answer.text for answer in method.answer(*asked, SAMPLING)]


@given(
    values=st.fixed_dictionaries(
        {
            "count": st.integers(1, 10**9).flatmap(lambda n: st.sampled_from([n, float(n)])),
            "share": st.none() | st.floats(allow_nan=False),
            "loud": st.booleans(),
            "way": st.sampled_from(["up", "down"]),
            "system_prompt": st.text() | st.integers(),
        }
    )
)
def test_options_have_their_types_and_come_back(values):
    made = Own.read("own", values)
    assert type(made.count) is int and made.count == values["count"]
    assert made.share is None if values["share"] is None else type(made.share) is float
    assert made.loud is values["loud"] and made.system_prompt == str(values["system_prompt"]).strip()
    assert Own.read("own", made.given()) == made


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count is 0; give a whole number from 1"),
        ({"count": 1.5}, "count is 1.5; give a whole number from 1"),
        ({"count": float("inf")}, "count is inf"),
        ({"count": True}, "count is True"),
        ({"count": "2"}, "count is '2'"),
        ({"share": "much"}, "share is 'much'; give a number"),
        ({"loud": 1}, "loud is 1; give true or false"),
        ({"way": "left"}, "way is 'left'; choose from up, down"),
        ({"system_prompt": ["a"]}, "give a text"),
        ({"counts": 1}, "'own' has no option 'counts'; it takes count, share, loud, way, system_prompt"),
    ],
)
def test_impossible_options_are_refused_by_name(values, message):
    with pytest.raises(LareError, match=message):
        Own.read("own", values)


def test_a_new_option_at_its_default_leaves_the_keys_of_kept_answers_alone():
    parts = tiny_parts()
    kept = {"method": "lare", "dtype": "float32", "system_prompt": "", "iterations": None, "window": None, "stop": None}
    assert Lare(*parts).arguments() == kept
    assert Llava(*parts).arguments() == {"method": "llava", "dtype": "float32", "system_prompt": ""}
    assert Lare(*parts, image="blank").arguments() == {**kept, "image": "blank"}  # a control has keys of its own


def test_random_windows_are_those_of_generate(shipped, asked):
    inputs = shipped.inputs(*asked)
    made = shipped.model.generate(
        **inputs, max_new_tokens=32, window_mode="random", generator=torch.Generator().manual_seed(0), output_trace=True
    )
    random = shipped.changed(window_mode="random")
    answers = random.answer(*asked, SAMPLING, trace=True)
    for row, answer in enumerate(answers):
        assert answer.arrays["windows"].tolist() == made.windows[row].tolist()
    decode = shipped.processor.tokenizer.decode
    ids = [made.sequences[row, :length].tolist() for row, length in enumerate(made.lengths.tolist())]
    assert [answer.text for answer in answers] == [decode(one, skip_special_tokens=True).strip() for one in ids]
    other = shipped.changed(window_mode="random", seed=1).answer(*asked, SAMPLING, trace=True)
    assert [one.arrays["windows"].tolist() for one in other] != [one.arrays["windows"].tolist() for one in answers]


def test_soft_windows_are_those_of_generate_whatever_the_batch(shipped, asked):
    inputs = shipped.inputs(*asked)
    made = shipped.model.generate(**inputs, max_new_tokens=32, window_mode="soft:0.3", output_trace=True)
    soft = shipped.changed(window_mode="soft:0.3")
    answers = soft.answer(*asked, SAMPLING, trace=True)
    decode = shipped.processor.tokenizer.decode
    ids = [made.sequences[row, :length].tolist() for row, length in enumerate(made.lengths.tolist())]
    assert [answer.text for answer in answers] == [decode(one, skip_special_tokens=True).strip() for one in ids]
    hard = shipped.answer(*asked, SAMPLING, trace=True)
    images, questions = asked
    for row, answer in enumerate(answers):
        (alone,) = soft.answer(images[row : row + 1], questions[row : row + 1], SAMPLING, trace=True)
        np.testing.assert_allclose(alone.arrays["latents"], answer.arrays["latents"], atol=1e-4)
        assert not np.allclose(hard[row].arrays["latents"], answer.arrays["latents"], atol=1e-3)
        # What is told of a soft window is where it lies: the window of most saliency.
        assert answer.arrays["windows"][0].tolist() == hard[row].arrays["windows"][0].tolist()


def test_a_window_mode_that_there_is_not_is_refused_before_anything_is_asked(shipped):
    for mode in ("sharp", "soft:0", "soft:x"):
        with pytest.raises(LareError, match=f"'{mode}'; give"):
            shipped.changed(window_mode=mode)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"latents": "zeros"}, {"latent_override": "zeros"}),
        ({"latents": "noise", "seed": 3}, {"latent_override": "noise"}),
        ({"hide_image": True, "latents": "zeros"}, {"latent_override": "zeros", "hide_image": True}),
    ],
)
def test_controls_of_latents_are_those_of_generate(shipped, asked, options, arguments):
    generator = torch.Generator().manual_seed(options.get("seed", 0))
    made = shipped.model.generate(**shipped.inputs(*asked), max_new_tokens=32, generator=generator, **arguments)
    decode = shipped.processor.tokenizer.decode
    ids = [made.sequences[row, :length].tolist() for row, length in enumerate(made.lengths.tolist())]
    found = texts(shipped.changed(**options), asked)
    assert found == [decode(one, skip_special_tokens=True).strip() for one in ids] != texts(shipped, asked)


def test_a_blank_image_is_a_grey_picture(shipped, asked):
    images, questions = asked
    grey = [Image.new("RGB", image.size, (128, 128, 128)) for image in images]
    assert texts(shipped.changed(image="blank"), asked) == texts(shipped, (grey, questions))
    assert texts(shipped.changed(image="blank"), asked) != texts(shipped, asked)


def test_the_fine_grid_is_that_of_a_model_configured_so(shipped, asked):
    config, processor = shipped.model.config, shipped.processor
    fine = shipped.changed(iterations=0, lm_grid=config.grid)
    answers = fine.answer(*asked, SAMPLING)
    before = (config.lm_grid, processor.lm_grid)
    try:
        config.lm_grid = processor.lm_grid = config.grid
        slow = shipped.changed(iterations=0).answer(*asked, SAMPLING)
    finally:
        config.lm_grid, processor.lm_grid = before
    assert [(one.text, one.input_tokens) for one in answers] == [(one.text, one.input_tokens) for one in slow]
    coarse = shipped.changed(iterations=0).answer(*asked, SAMPLING)
    assert answers[0].input_tokens - coarse[0].input_tokens == config.grid**2 - config.lm_grid**2


def test_the_grid_is_left_as_it_was_when_a_question_is_refused():
    model, processor = tiny_parts()
    with pytest.raises(LareError, match="empty"):
        Llava(model, processor, lm_grid=GRID).answer(pictures(1), [""], SAMPLING)
    assert (model.config.lm_grid, processor.lm_grid) == (LM_GRID, LM_GRID)
    with pytest.raises(LareError, match="lm_grid is 3; give a divisor of the fine grid's 4"):
        Llava(model, processor, lm_grid=3)


def test_what_pyproject_declares_are_methods_of_this_folder():
    """They need no entry there: the folder is looked through."""
    file = Path(__file__).parents[2] / "pyproject.toml"
    (lines,) = re.findall(
        rf'^\[project.entry-points."{listing.GROUP}"\]\n(.*?)\n\n', file.read_text(encoding="utf-8"), re.M | re.S
    )
    declared = dict(line.replace('"', "").split(" = ") for line in lines.splitlines())
    assert set(declared) <= set(listing.built_in())
    for name, value in declared.items():
        assert EntryPoint(name, value, listing.GROUP).load() is get_method(name)


def test_installed_methods_are_found_and_faults_of_theirs_are_told(monkeypatch):
    def entries(*pairs):
        found = [EntryPoint(name, value, listing.GROUP) for name, value in pairs]
        monkeypatch.setattr(listing, "entry_points", lambda group: found)

    entries(("mine", "lare.methods.lare:Lare"), ("lare", "nowhere:Lare"), ("not-a-name", "nowhere:X"))
    assert method_names() == sorted([*listing.built_in(), "mine"])
    assert get_method("lare") is Lare  # nobody replaces a method of LaRe
    with pytest.raises(LareError, match="holds no Method whose name is 'mine'"):
        get_method("mine")
    entries(("mine", "nowhere:Mine"))
    with pytest.raises(LareError, match=r"'mine' \(nowhere:Mine\) can't be imported: No module named 'nowhere'"):
        get_method("mine")
    entries(("mine", "one:Mine"), ("mine", "two:Mine"))
    with pytest.raises(LareError, match="several packages have a method 'mine'"):
        get_method("mine")


def test_every_option_of_every_method_says_what_it_does():
    for name in method_names():
        kind = get_method(name).options_type
        assert tuple(kind.described()) == kind.names() and all(help for _, help in kind.described().values())


def test_a_field_of_another_type_is_the_authors_mistake():
    @dataclass(frozen=True)
    class Bad(MethodOptions):
        boxes: list = option((), "which")

    with pytest.raises(LareError, match="'boxes' has the type .*list"):
        Bad()
    with pytest.raises(TypeError, match="not both"):
        Lare(*tiny_parts(), LareOptions(), iterations=1)


def test_words_become_options():
    words = ["iterations=2", "share=0.5", "loud=true", "stop=cosine:0.9", "system_prompt=a=b"]
    expected = {"iterations": 2, "share": 0.5, "loud": True, "stop": "cosine:0.9", "system_prompt": "a=b"}
    assert parse_options(words) == expected
    for word in ("iterations", "=2"):
        with pytest.raises(LareError, match="write name=value"):
            parse_options([word])
