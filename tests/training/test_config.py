"""Run files: every impossible value is refused with its key and its mend, and what is read can be written back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lare.errors import LareError
from lare.training.plan.config import PARTS, RunConfig
from lare.training.plan.run_file import load_run_config, read_yaml, run_config_from

WORLD = {"format": "world", "per_image": 4}
FILE = {"path": "data.json"}
MODEL = {"text": "text", "vision": "vision"}


def stage(kind: str = "III", **changes: Any) -> dict[str, Any]:
    return {"stage": kind, "data": [FILE], "batch": 16} | changes


def run(*stages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "stages": list(stages or (stage(),))} | changes


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "checkpoint and text": (run(model={"checkpoint": "c", "text": "t"}), "model.checkpoint and model.text.*leave one"),
    "checkpoint and vision": (run(model={"checkpoint": "c", "vision": "v"}), "model.checkpoint.*leave one"),
    "no vision": (run(model={"text": "t"}), "model needs text and vision.*add them"),
    "no model": (run(model={}), "model needs text and vision.*or checkpoint; add them"),
    "sizes": (run(model=MODEL | {"sizes": {"hidden": 3}}), "model.sizes is only for .*text: embedded.*; leave it out"),
    **{
        f"losses {name}": (run(losses={name: -0.1}), f"losses.{name} is -0.1; give a weight of 0 or more")
        for name in ("alignment", "image", "text", "look")
    },
    "weight nan": (run(losses={"image": float("nan")}), "losses.image is nan; give a weight"),
    "temperature": (run(losses={"temperature": 0}), "losses.temperature is 0.*give a number above 0"),
    "shared_dim": (run(losses={"shared_dim": 0}), "losses.shared_dim is 0; give at least 1"),
    "unet": (run(image={"unet": "large"}), "image.unet is 'large'; give paper or small"),
    "size": (run(image={"size": 7}), "image.size is 7; give at least 8"),
    "steps": (run(image={"steps": 0}), "image.steps is 0; give at least 1"),
    "betas fall": (run(image={"beta_start": 0.5, "beta_end": 0.1}), "image.beta_start 0.5 and image.beta_end 0.1 must"),
    "beta of 1": (run(image={"beta_end": 1.0}), "image.beta_end 1.0 must rise between 0 and 1"),
    "share of 0": (run(image={"share": 0}), "image.share is 0.*above 0 and up to 1"),
    "share over 1": (run(image={"share": 1.5}), "image.share is 1.5; give a share"),
    "matrices": (run(optimiser={"matrices": "sgd"}), "optimiser.matrices is 'sgd'; give adamw or muon"),
    "warmup": (run(optimiser={"warmup": 1}), "optimiser.warmup is 1.*give a share of the steps below 1"),
    "floor": (run(optimiser={"floor": 1.1}), "optimiser.floor is 1.1; give a share of the peak"),
    "clip": (run(optimiser={"clip": 0}), "optimiser.clip is 0.*give a norm above 0"),
    "decay": (run(optimiser={"weight_decay": -1}), "optimiser.weight_decay is -1.*give 0 or more"),
    "betas": (run(optimiser={"betas": [0.9, 1.0]}), r"optimiser.betas are \(0.9, 1.0\); give numbers below 1"),
    "world with a path": (run(stage(data=[WORLD | FILE])), "'world' takes no path"),
    "no path": (run(stage(data=[{"format": "llava"}])), "data of format 'llava' needs a path"),
    "families of a file": (
        run(stage(data=[FILE | {"families": {"count": 1}}])),
        r"stages\.0\.data\.0\.families is only for the data format 'world'; leave it out",
    ),
    "unknown family": (run(stage(data=[WORLD | {"families": {"cuont": 1}}])), "families: cuont is unknown; choose"),
    "unknown style": (run(stage(data=[WORLD | {"styles": {"mme": 1}}])), "styles: mme is unknown; choose from open"),
    "negative family": (run(stage(data=[WORLD | {"families": {"count": -1}}])), "families: .*give numbers of 0"),
    "no weight": (run(stage(data=[WORLD | {"styles": {"open": 0}}])), "styles: .*one above 0"),
    "on_bad": (run(stage(data=[FILE | {"on_bad": "stop"}])), "on_bad is 'stop'; give skip or refuse"),
    "limit": (run(stage(data=[FILE | {"limit": 0}])), "limit is 0; give at least 1, or leave it out"),
    "per_image": (run(stage(data=[WORLD | {"per_image": 0}])), "per_image is 0; give at least 1"),
    "stage": (run(stage("V")), "stage 'V' is unknown; give one of I, II, III, IV"),
    "name": (run(stage(name="../up")), r"stage \.\./up: the name '\.\./up' names a folder; use letters"),
    "no data": (run(stage(data=[])), "stage III has no data; add a source under data"),
    "batch": (run(stage(batch=0)), "stage III: batch is 0; give at least 1"),
    "micro of 0": (run(stage(micro_batch=0)), "micro_batch 0 does not divide batch 16; give a divisor"),
    "micro": (run(stage(micro_batch=5)), "stage III: micro_batch 5 does not divide batch 16; give a divisor"),
    "rate": (run(stage(learning_rate=0)), "stage III: learning_rate is 0.*give a number above 0"),
    "new rate": (run(stage(new_learning_rate=-1)), "new_learning_rate is -1.*give a number above 0"),
    "samples": (run(stage(samples=0)), "samples is 0; give at least 1"),
    "iterations": (run(stage(iterations=-1)), "iterations is -1; give 0 or more"),
    "no latents": (run(stage(iterations=0, losses={"text": 1})), "losses text need latents; set iterations above 0"),
    "latents in I": (run(stage("I", iterations=2)), "stage I makes no latents; leave iterations out"),
    "window": (run(stage(window="left")), "window is 'left'; give one of saliency, random, full"),
    "replaced": (run(stage(replaced=-1)), "replaced is -1; give 0 or more"),
    "shares": (run(stage(text_share=0.6, direct_share=0.5)), "text_share, direct_share.*sum up to at most 1"),
    "negative share": (run(stage(text_share=-0.1)), "text_share, direct_share.*must be 0 or more"),
    "parts": (run(stage(train=["head"])), rf"unknown parts to train \['head'\]; choose from {', '.join(PARTS)}"),
    "II without latents": (run(stage("II", iterations=0)), "stage II makes no latents, and extractor.*change train"),
    "II answers at once": (run(stage("II", direct_share=0.1)), "stage II: the method 'direct' makes batches on.*leave"),
    "II sees all": (run(stage("II", full_share=0.1)), "stage II: the method 'full' makes batches on.*leave it out"),
    "both keys": (run(stage(text_share=0.1, methods={"cot": 1})), "text_share and methods are both given; leave text_"),
    "method": (run(stage(methods={"mcot": 1})), "stage III: there is no method 'mcot'; choose from"),
    "method's option": (run(stage(methods={"lare": {"windows": "full"}})), "the method 'lare' has no option"),
    "method's value": (run(stage(methods={"lare": {"window": "left"}})), "window is 'left'; give one of saliency"),
    "method's share": (run(stage(methods={"lare": 0})), "stage III: the share of 'lare' is 0; give a number above 0"),
    "sum of methods": (run(stage(methods={"lare": 0.5, "cot": 0.4})), "stage III: the shares .* sum up to 0.9; make"),
    "fetched alone": (
        run(stage("II", data=[WORLD], fetch_share=0.1, train=["extractor"])),
        "stage II: the method 'fetch' makes batches on which extractor can't train; leave it out",
    ),
    "lm_grid": (run(stage(lm_grid=0)), "stage III: lm_grid is 0; give at least 1, or leave it out"),
    "I trains U-Net": (run(stage("I", train=["unet"])), "stage I makes no latents, and unet train on nothing else"),
    "loss name": (run(stage(losses={"lm": 1})), r"unknown losses \['lm'\]; choose from alignment, image, text, look"),
    "stage's weight": (run(stage(losses={"text": -1})), "a loss weight is negative; give 0 or more"),
    "no stages": ({"model": MODEL, "stages": []}, "no stages; add at least one"),
    "double name": (run(stage(), stage()), "two stages are named III; give each a name of its own"),
    "order": (run(stage("II"), stage("I")), "not in the order I, II, III, IV; sort them"),
    "precision": (run(precision="fp8"), "precision is 'fp8'; give fp32 or bf16 or fp16 or auto"),
    **{
        name: (run(**{name: least - 1}), f"{name} is {least - 1}; give at least {least}")
        for name, least in {
            "seed": 0, "processes": 1, "workers": 0, "save_every": 1, "keep": 1, "log_every": 1, "validate_every": 0
        }.items()
    },
    "tokenizer": (run(image={"tokenizer": "embedded"}), "image.tokenizer embedded.*or set losses.image=0"),
    "processes and batch": (run(processes=3), "stage III: batch 16 does not divide over 3 processes; change one"),
    "process's share": (run(stage(micro_batch=16), processes=2), "micro_batch 16 does not divide a process's share 8"),
    "mixed": (run(stage(data=[WORLD, FILE])), "stage III mixes the data format world with other.*; give them stages"),
    "no whole image": (run(stage(data=[WORLD], micro_batch=2)), "2 rows a forward pass hold no whole images.*change"),
    # Types and keys.
    "unknown key": (run(sed=1), "unknown key 'sed'; known here: model, stages, out, start, seed"),
    "unknown key of a stage": (run(stage(rate=1)), r"unknown key 'stages\.0\.rate'; known here: stage, data"),
    "unknown key of data": (run(stage(data=[FILE, {"file": 1}])), r"unknown key 'stages\.0\.data\.1\.file'; known"),
    "missing key": ({"stages": [stage()]}, "'model' is missing; add it"),
    "missing key of a stage": (run({"data": [FILE]}), r"'stages\.0\.stage' is missing; add it"),
    "text for number": (run(seed="one"), "seed is 'one'; give a whole number"),
    "fraction for number": (run(seed=1.5), "seed is 1.5; give a whole number"),
    "infinite number": (run(seed=float("inf")), "seed is inf; give a whole number"),
    "true for number": (run(seed=True), "seed is True; give a whole number"),
    "true for share": (run(stage(text_share=True)), r"stages\.0\.text_share is True; give a number"),
    "number for truth": (run(tensorboard=1), "tensorboard is 1; give true or false"),
    "number for text": (run(out=1), "out is 1; give a text"),
    "null for text": (run(out=None), "out is None; give a text"),
    "no list": (run(stages={"stage": "I"}), "stages is {.*}; give a list"),
    "no mapping": (run(losses=3), "^losses is 3; give keys and values"),
    "no mapping of weights": (run(stage(losses=[1])), r"stages\.0\.losses is \[1\]; give keys and values"),
    "text as weight": (run(stage(losses={"text": "a"})), r"stages\.0\.losses\.text is 'a'; give a number"),
    "wrong length": (run(optimiser={"betas": [0.9]}), r"optimiser\.betas has 1 values; give 2"),
    "stage is a text": (run("I"), r"stages\.0 is 'I'; give keys and values"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_impossible_is_refused_with_its_mend(name: str) -> None:
    content, message = REFUSALS[name]
    with pytest.raises(LareError) as caught:
        run_config_from(content)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_refusals_start_from_is_accepted() -> None:
    config = run_config_from(run())
    assert config.stages[0].name == "III" and config.stages[0].data[0].format == "auto"
    assert run_config_from(run(stage(data=[WORLD], micro_batch=8), image={"tokenizer": "embedded"})).processes == 1


def test_an_embedded_tokenizer_needs_the_world_only_where_images_are_rebuilt() -> None:
    unused = run(image={"tokenizer": "embedded"}, losses={"image": 0})
    assert run_config_from(unused).image.tokenizer == "embedded"
    run_config_from(run(stage(losses={"image": 0}), image={"tokenizer": "embedded"}))
    with pytest.raises(LareError, match="image.tokenizer"):
        run_config_from(unused | {"stages": [stage(losses={"image": 1})]})


def test_stage_order_and_names() -> None:
    config = run_config_from(run(stage("I", name="a"), stage("I", name="b"), stage("II"), stage("IV")))
    assert [one.name for one in config.stages] == ["a", "b", "II", "IV"]


def test_loss_weights_of_a_stage() -> None:
    stages = (stage("I"), stage("II"), stage("III", losses={"image": 0, "text": 2}), stage("III", name="x", batch=8))
    config = run_config_from(run(*stages, losses={"alignment": 0.3, "image": 0.4, "text": 0.5}))
    first, second, third, fourth = (config.weights(one) for one in config.stages)
    assert first == {"alignment": 0, "image": 0, "text": 0, "look": 0}
    assert second == fourth == {"alignment": 0.3, "image": 0.4, "text": 0.5, "look": 0}
    assert third == {"alignment": 0.3, "image": 0, "text": 2, "look": 0}
    (own,) = run_config_from(run(stage("I", losses={"look": 3}), losses={"look": 1, "text": 1})).stages
    assert config.weights(own) == {"alignment": 0, "image": 0, "text": 0, "look": 3}


def test_data_can_be_a_key() -> None:
    """Packed data is remembered by its source, weights of families or not."""
    one, two = (run_config_from(run(stage(data=[WORLD | {"families": {"count": 1}}]))).stages[0].data for _ in "ab")
    assert {one[0]: 1}[two[0]] == 1


# Files and words ---------------------------------------------------------------------------------------------------


def write(folder: Path, content: Any = None, text: str | None = None) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content) if text is None else text, encoding="utf8")
    return path


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["seed=7"], lambda c: c.seed == 7),
        (["losses.image=0", "losses.text=1"], lambda c: (c.losses.image, c.losses.text) == (0.0, 1.0)),
        (["image.beta_start=1e-5"], lambda c: c.image.beta_start == 1e-5),  # a text in YAML 1.1
        (["stages.1.samples=1e5"], lambda c: c.stages[1].samples == 100_000 and c.stages[0].samples is None),
        (["stages.0.data.0.path=other.json"], lambda c: c.stages[0].data[0].path == "other.json"),
        (["stages.1.losses.text=2"], lambda c: c.stages[1].losses == {"text": 2.0}),
        (["stages.0.train=[projector, extractor]"], lambda c: c.stages[0].train == ("projector", "extractor")),
        (["optimiser.betas.1=0.99"], lambda c: c.optimiser.betas == (0.9, 0.99)),
        (["out=a=b"], lambda c: c.out == "a=b"),
        (["model={checkpoint: there}"], lambda c: c.model.checkpoint == "there" and c.model.text is None),
        (["wandb=lare", "wandb=null"], lambda c: c.wandb is None),
        (["seed=1.0"], lambda c: c.seed == 1 and isinstance(c.seed, int)),
    ],
)
def test_words_change_values(tmp_path: Path, words: list[str], found: Any) -> None:
    content = run(stage("III"), stage("IV"), optimiser={"betas": [0.9, 0.95]}, image=None)
    del content["image"]
    path = write(tmp_path, content)
    assert found(load_run_config(path, words))
    assert not found(load_run_config(path)) or words[-1] == "wandb=null"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed", "'seed' is no key=value; write for example seed=1"),
        ("=1", "'=1' is no key=value"),
        ("seed=[1", r"the value of 'seed=\[1' is no YAML; put it in quotes"),
        ("out=2024-13-45", "is no YAML; put it in quotes"),  # YAML takes it for a date, and there is none
        ("stages.2.seed=1", "'stages.2.seed' leads nowhere: there is no '2'; check the number or the name"),
        ("stages.one.seed=1", "there is no 'one'"),
        ("stages.²=1", "there is no '²'"),
        ("stages.-1.batch=1", "there is no '-1'"),
        ("stages.5=1", "there is no '5'"),
        ("seed.x=1", "'seed.x' leads nowhere"),
        ("losses.imag=1", r"unknown key 'losses\.imag'"),
        ("stage.0.batch=1", "unknown key 'stage'"),
        ("stages.0.batch=", r"stages\.0\.batch is None; give a whole number"),
    ],
)
def test_wrong_words_are_refused(tmp_path: Path, word: str, message: str) -> None:
    with pytest.raises(LareError, match=message):
        load_run_config(write(tmp_path, run(seed=3)), [word])


def test_a_word_changes_one_use_of_an_alias(tmp_path: Path) -> None:
    text = "model: {checkpoint: c}\nstages:\n  - {stage: III, data: &d [{path: a.json}]}\n  - {stage: IV, data: *d}\n"
    config = load_run_config(write(tmp_path, text=text), ["stages.1.data.0.limit=5"])
    assert [one.data[0].limit for one in config.stages] == [None, 5]


def test_a_file_read_again_is_what_stands_in_it(tmp_path: Path) -> None:
    """What is read may be kept; what a reader does to it, and what was there before, must not show."""
    path, word = write(tmp_path, run(seed=3)), "stages.0.data=[{path: b.json}]"
    first = load_run_config(path, ["seed=4", word])
    content = read_yaml(path, "run file")
    content["stages"][0]["data"].append("no data")
    assert load_run_config(path, ["seed=4", word]) == first and first.seed == 4
    assert load_run_config(path).seed == 3
    assert load_run_config(write(tmp_path, run(seed=5))).seed == 5


def test_an_empty_mapping_can_be_filled(tmp_path: Path) -> None:
    text = "model: {checkpoint: c}\nstages:\n  - {stage: III, data: [{path: a.json}]}\nlosses:\n"
    assert load_run_config(write(tmp_path, text=text), ["losses.image=0"]).losses.image == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"none\.yaml' can't be read \(No such file.*check the path"),
        ("a: [", "is no YAML .*mend the file"),
        ("a: &a [*a]", "is no YAML .*mend the file"),
        ("out: 2024-13-45", "is no YAML .*mend the file"),
        ("- a\n- b", "holds no keys and values; see the files in lare/configs"),
        ("", "holds no keys and values"),
    ],
)
def test_files_that_hold_no_run(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "none.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LareError, match=message):
        load_run_config(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"out: \xff\xfe")
    with pytest.raises(LareError, match="is no YAML"):
        load_run_config(tmp_path / "run.yaml")


# Round trips -------------------------------------------------------------------------------------------------------

FRACTION = st.floats(1e-9, 0.49)
STAGES = st.fixed_dictionaries(
    {"stage": st.just("III"), "data": st.lists(st.just(FILE) | st.just(FILE | {"limit": 7}), min_size=1, max_size=3)},
    optional={
        "samples": st.integers(1, 10**9),
        "batch": st.sampled_from([2, 64]),
        "micro_batch": st.sampled_from([None, 1, 2]),
        "learning_rate": FRACTION,
        "iterations": st.integers(1, 9),
        "text_share": FRACTION,
        "train": st.lists(st.sampled_from(PARTS)),
        "losses": st.dictionaries(st.sampled_from(["alignment", "image", "text"]), FRACTION),
    },
)
RUNS = st.fixed_dictionaries(
    {"model": st.just(MODEL | {"settings": {"window": 3, "refocus_source": "fine"}}), "stages": st.tuples(STAGES)},
    optional={
        "seed": st.integers(0, 2**40),
        "out": st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        "losses": st.fixed_dictionaries({}, optional={"alignment": FRACTION, "temperature": FRACTION}),
        "optimiser": st.fixed_dictionaries({}, optional={"betas": st.tuples(FRACTION, FRACTION)}),
    },
)


@given(content=RUNS)
def test_a_run_comes_back_from_its_plain_values_and_from_yaml(content: dict[str, Any]) -> None:
    shares = {one: 0 for s in content["stages"] for one in ("text_share",) if s.get("train")}
    config: RunConfig = run_config_from(content | {"stages": [s | shares for s in content["stages"]]})
    plain = config.to_dict()
    assert run_config_from(plain) == config
    assert run_config_from(yaml.safe_load(yaml.safe_dump(plain, sort_keys=False))) == config


def test_shipped_run_files_are_possible() -> None:
    paths = sorted((Path(__file__).parents[2] / "lare" / "configs").glob("*.yaml"))
    assert paths
    for path in paths:
        config = load_run_config(path)
        assert run_config_from(config.to_dict()) == config
