"""Presets: what is shipped, what a file may say, and which checkpoint is whose."""

import re

import pytest
import yaml

from lare.errors import LareError
from lare.reasoners import load_preset, preset_names
from lare.reasoners.marks import find_tokens, recognise
from lare.reasoners.reading import FOLDER
from tests.reasoners import tiny

FEEDBACK = ["coconut", "colt", "ivt_lr", "lvr", "mirage", "monet", "swimbird"]
SLOTS = ["covt", "lavit", "livr", "mull_tokens"]


def test_the_shipped_presets():
    assert preset_names("feedback") == FEEDBACK and preset_names("slots") == SLOTS
    for name in preset_names():
        preset = load_preset(name)
        assert preset.name == name and preset.backbones and preset.paper.startswith("https://arxiv.org/abs/")
        first = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        assert f"--model lare_{preset.kind} " in first and f"preset={name}" in first
        for source in preset.sources:
            assert re.fullmatch(r"[0-9a-f]{40}", source.commit) and re.match(r"\d+", source.lines) and source.says
    assert len(load_preset("livr").slots.tokens) == 16


def _file(tmp_path, **changes):
    content = yaml.safe_load((FOLDER / "mirage.yaml").read_text(encoding="utf-8"))
    for place, value in changes.items():
        *path, last = place.split("__")
        here = content
        for step in path:
            here = here[step]
        if value is ...:
            del here[last]
        else:
            here[last] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_a_file_of_ones_own(tmp_path):
    assert load_preset(_file(tmp_path, block__count=3)).block.count == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block__counts": 3}, "block: there is no field 'counts'; known are opened_by, closed_by, count"),
        ({"title": ...}, "the field 'title' is missing"),
        ({"block__count": "many"}, "block: count: found 'many'; give a whole number"),
        ({"block__count": True}, "block: count: found True; give a whole number"),
        ({"block__count": 0}, "block: count is 0; a block needs at least 1 latent"),
        ({"block__stop": "never"}, "stop is 'never'; choose from fixed, end_mark, distance"),
        ({"block__stop": "distance"}, "stop: distance needs threshold; give it too"),
        ({"block__feeds": "projected"}, "head goes with feeds: projected"),
        ({"block__feeds": "state_and_patches", "block__patches": 4}, "needs opened_by: prompt and stop: fixed"),
        ({"block__opened_by": "prompt", "block__start_read": False}, "start_read: false needs opened_by: model"),
        ({"marks__start": None}, "opened_by: model needs marks.start"),
        ({"marks__end": None}, "stop: end_mark needs marks.end"),
        ({"kind": "slots"}, "kind: feedback has a block"),
        ({"prompt__question": "?"}, r"question holds no \{question\}"),
        ({"backbones": "gpt2"}, "backbones: found 'gpt2'; give a list"),
        ({"prompt": "chat"}, "prompt: found 'chat'; give the fields of a prompt by name"),
        ({"sources": [{"file": "a"}]}, "sources.0: the field 'repository' is missing"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, changes, message):
    with pytest.raises(LareError, match=message):
        load_preset(_file(tmp_path, **changes))


def test_slots_that_mean_nothing(tmp_path):
    path = tmp_path / "mine.yaml"
    base = {"name": "mine", "title": "Mine", "paper": "-", "kind": "slots"}
    for slots, message in [
        ({"tokens": []}, "slots name no tokens"),
        ({"tokens": ["<a>"], "repeat": 0}, "repeat is 0"),
        ({"tokens": ["<a>"], "opened_by": "model", "before": "x"}, "have no before, after and repeat"),
    ]:
        path.write_text(yaml.safe_dump(base | {"slots": slots}), encoding="utf-8")
        with pytest.raises(LareError, match=message):
            load_preset(str(path))
    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(LareError, match=r"mine.yaml' can't be read"):
        load_preset(str(path))


def test_an_unknown_name():
    with pytest.raises(LareError, match="there is no preset 'nothing'; choose from coconut, colt"):
        load_preset("nothing")
    with pytest.raises(LareError, match=r"no_such.yaml' can't be read"):
        load_preset("no_such.yaml")


@pytest.mark.parametrize("name", [one for one in FEEDBACK + SLOTS if one != "colt"])
def test_a_checkpoint_is_known_by_its_marks(name):
    preset = load_preset(name)
    written = preset.slots.tokens[:1] if preset.slots is not None else ()
    tokenizer = tiny.tokenizer_with(dict.fromkeys((*preset.tokens(), *written)))
    assert recognise(preset.kind, preset.backbones[0], tokenizer, "there").name == name


def test_an_unknown_checkpoint_is_told_what_was_looked_for():
    with pytest.raises(LareError) as error:
        recognise("feedback", "qwen2_5_vl", tiny.tokenizer_with(()), "there")
    message = str(error.value)
    assert "'there' is no latent reasoner" in message and "\n" not in message
    for name in FEEDBACK:
        for token in load_preset(name).tokens():
            assert token in message
    with pytest.raises(LareError, match=r"covt: .*<\|sam_pad\|> or"):
        recognise("slots", "llava", tiny.tokenizer_with(()), "there")


def test_a_checkpoint_that_fits_several_presets():
    tokenizer = tiny.tokenizer_with([*load_preset("mirage").tokens(), *load_preset("lvr").tokens()])
    with pytest.raises(LareError, match=r"several presets; name one: preset=lvr \(lare_feedback\), preset=mirage"):
        recognise("feedback", "qwen2_5_vl", tokenizer, "there")
    mirage = tiny.tokenizer_with(load_preset("mirage").tokens())  # its placeholder is the slot of Mull-Tokens
    assert recognise("feedback", "qwen2_5_vl", mirage, "there").name == "mirage"
    with pytest.raises(LareError, match=r"preset=mull_tokens \(lare_slots\), preset=mirage \(lare_feedback\)"):
        recognise("slots", "qwen2_5_vl", mirage, "there")


def test_missing_tokens_are_refused():
    model, tokenizer = tiny.parts("llama", load_preset("mirage").tokens()[:2])
    with pytest.raises(LareError, match=r"'there' has no <\|latent_end\|>, which the preset 'mirage' needs"):
        find_tokens(load_preset("mirage"), model, tokenizer, "there")
    with pytest.raises(LareError, match=r"has none of the slots|has no <\|anchor_start\|>"):
        find_tokens(load_preset("covt"), model, tokenizer, "there")
    marked = tiny.tokenizer_with(load_preset("covt").tokens())
    with pytest.raises(LareError, match="has none of the slots of the preset 'covt'"):
        find_tokens(load_preset("covt"), model, marked, "there")
    tokenizer.add_tokens(["<|latent_end|>"], special_tokens=True)
    with pytest.raises(LareError, match=r"has \d+ embeddings, but its tokenizer gives the id \d+ to a mark"):
        find_tokens(load_preset("mirage"), model, tokenizer, "there")
