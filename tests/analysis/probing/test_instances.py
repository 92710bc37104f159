"""Questions of the world, traces that are kept, and vectors that equal what the model and its training make."""

import json

import numpy as np
import pytest
import torch

from analysis.probe.experiment import Model, Settings
from analysis.probe.instances import asked_in, embed, from_world, run_traces
from analysis.probe.measure import ProbeOptions, _seeds
from analysis.probe.models import _switched_off, _untrained, gather, named
from analysis.probe.page import compute, main
from lare.embedded.world.render import render_image
from lare.embedded.world.scene import sample_scene
from lare.errors import LareError
from lare.losses.alignment import hybrid_mean_max
from lare.methods import load_method
from lare.methods.base import Sampling
from lare.trace import TraceReader
from tests.analysis.probing.synthetic import planted


@pytest.fixture(scope="module")
def method():
    return load_method("lare", None, device="cpu")


@pytest.fixture(scope="module")
def asked():
    return from_world(6, 2)


@pytest.fixture(scope="module")
def traced(method, asked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces")
    said = []
    reader, places = run_traces(method, "name", asked, folder, said.append)
    assert len(said) == 1
    return folder, reader, places


def test_questions_are_several_an_image_different_and_reasoned(asked):
    assert len(asked) == 12 and len({(one.image, one.question) for one in asked}) == 12
    assert all(one.rationale for one in asked)
    assert from_world(6, 2) == asked
    with pytest.raises(LareError, match="--questions 1"):
        from_world(6, 1)


def test_traces_are_asked_for_once(method, asked, traced):
    folder, _, places = traced
    said = []
    reader, again = run_traces(method, "name", asked, folder, said.append)
    assert not said and again == places and len(reader) == 12
    assert [reader.column("question")[place] for place in again] == [one.question for one in asked]


def test_latents_are_the_runs_pooled_as_the_alignment_pools_them(method, asked, traced):
    _, reader, places = traced
    made = embed(method, asked, reader, places)
    picture = render_image(sample_scene("test", int(asked[3].image.split("/")[1])))
    alone = method.answer([picture], [asked[3].question], Sampling(max_new_tokens=4), trace=True)[0]
    expected = hybrid_mean_max(torch.from_numpy(alone.arrays["latents"]).flatten(0, 1)[None])[0]
    np.testing.assert_allclose(made.latent[3], expected, atol=1e-4)
    assert made.steps.shape == (12, 4, 128) and made.text.shape == made.vision.shape == (12, 128)


def test_the_rationale_is_read_alone_and_padding_does_not_matter(method, asked, traced):
    _, reader, places = traced
    together = embed(method, asked, reader, places).text
    alone = embed(method, asked[3:4], reader, places[3:4]).text
    np.testing.assert_allclose(together[3], alone[0], atol=1e-4)
    tokens = embed(method, asked[3:4], reader, places[3:4], rationale="embeddings").text
    ids = method.processor.tokenizer(f" {asked[3].rationale}", add_special_tokens=False, return_tensors="pt")[
        "input_ids"
    ]
    expected = hybrid_mean_max(method.model.embed(ids)).detach()
    np.testing.assert_allclose(tokens, expected, atol=1e-5)


def test_anchors(method, asked, traced):
    _, reader, places = traced
    picture = render_image(sample_scene("test", int(asked[3].image.split("/")[1])))
    pixels = method.processor.image_processor([picture], return_tensors="pt")["pixel_values"]
    grid = method.model.encode_images(pixels).refocus[0].detach().reshape(8, 8, -1)
    windows = np.array(reader.column("windows")[places[3]])
    seen = torch.cat([grid[row : row + 4, column : column + 4].flatten(0, 1) for row, column in windows.tolist()])
    made = embed(method, asked, reader, places)
    np.testing.assert_allclose(made.vision[3], hybrid_mean_max(seen[None])[0], atol=1e-4)
    every = embed(method, asked, reader, places, anchor="all")
    np.testing.assert_allclose(every.vision[3], hybrid_mean_max(grid.flatten(0, 1)[None])[0], atol=1e-4)
    assert every.looked[2] == every.looked[3] != every.looked[4]
    boxes = embed(method, asked, reader, places, anchor="boxes")
    assert not np.allclose(boxes.vision[3], every.vision[3]) or not asked[3].boxes
    with pytest.raises(LareError, match="anchor 'none'"):
        embed(method, asked, reader, places, anchor="none")


def test_without_the_extractor_the_last_hidden_state_is_fed_back(method):
    off = _switched_off(method)
    picture = render_image(sample_scene("test", 1))
    answer = off.answer([picture], ["What is at b2?"], Sampling(max_new_tokens=2), trace=True)[0]
    assert answer.arrays["latents"].shape == (4, 1, 128) and (answer.arrays["windows"] == 0).all()
    assert method.model.extractor is not None and method.model.config.use_extractor
    assert off.fingerprint() != method.fingerprint()


def test_random_weights_keep_the_encoder_and_repeat(method):
    first, again = _untrained(method), _untrained(method)
    assert first.fingerprint() == again.fingerprint() != method.fingerprint()
    for ours, theirs in zip(first.model.vision_tower.parameters(), method.model.vision_tower.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(first.model.projector.linear_1.weight, method.model.projector.linear_1.weight)


def test_names_of_models():
    made = named(["small=a/b", "small=c:without"])
    assert [(one.backbone, one.checkpoint, one.without) for one in made] == [
        ("small", "a/b", False),
        ("small", "c", True),
    ]
    for wrong, message in ((["a/b"], "NAME=CHECKPOINT"), (["a=b", "a=c"], "twice")):
        with pytest.raises(LareError, match=message):
            named(wrong)


def test_a_checkpoint_with_the_extractor_is_not_taken_for_one_without(tmp_path):
    with pytest.raises(LareError, match="trained with the Extractor; leave ':without' out"):
        gather(named(["a=embedded:without"]), None, 4, 2, "windows", "states", lambda _: None, tmp_path)


def test_traces_of_other_weights_are_refused(traced, tmp_path):
    folder, _, _ = traced
    with pytest.raises(LareError, match="of the weights name, but the first model is"):
        gather(named(None), [str(folder)], 4, 2, "windows", "states", lambda _: None, tmp_path)


def test_what_can_be_probed_of_given_traces(traced, asked):
    folder, _, _ = traced
    found, places, left_out = asked_in(TraceReader(folder))
    assert {one.key for one in found} == {one.key for one in asked} and left_out == 0
    assert found[0].boxes == next(one.boxes for one in asked if one.key == found[0].key)
    assert places == list(range(12))


def test_the_command_says_what_it_cannot_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--images", "3", "--questions", "1", "--out", str(tmp_path / "probe.html")]) == 2
    assert "negatives need at least 2" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_command_on_the_shipped_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ProbeOptions.read(
        ["--images", "40", "--pairs", "60", "--seeds", "0", "--now", "now", "--split", "pairs", "--dim", "64"]
    )
    document, arrays = compute(options)
    assert document.warnings[0].startswith("LEAK")
    assert any("Extractor was given" in line for line in document.warnings)
    assert {row["module"] for row in document.tables[0].rows} == {"with Extractor", "w/o Extractor", "random weights"}
    assert len({len(column) for column in arrays.values()}) == 1
    assert json.loads(document.to_json())["name"] == "probe"


def test_sizes_are_the_quick_ones_unless_told_otherwise():
    quick, full, own = (ProbeOptions.read(words) for words in ((), ("--full",), ("--full", "--images", "7")))
    with pytest.raises(LareError, match="--jobs is 0"):
        ProbeOptions.read(["--jobs", "0"])
    assert (quick.images, quick.pairs, quick.seeds) == (200, 400, (0, 1, 2))
    assert (full.images, full.pairs, full.seeds) == (600, 1000, (0, 1, 2, 3, 4))
    assert (own.images, own.pairs) == (7, 1000)


@pytest.mark.slow
def test_seeds_side_by_side_are_those_one_after_another():
    """The number of processes changes no number."""
    models = [Model("made", role, planted(strength, images=60)) for role, strength in (("with", 2.0), ("without", 1.0))]
    settings = Settings(pairs=60, steps=False, only=("main", "cosine"))
    one, two = (list(_seeds(models, [0, 1, 2], settings, jobs)) for jobs in (1, 2))
    assert [found for found, _ in one] == [found for found, _ in two]
    assert [split.train.left.tolist() for _, split in one] == [split.train.left.tolist() for _, split in two]
