"""The model's own alignment heads: read from a finished stage, equal to training's, refused where there are none."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analysis.probe.experiment import Model, Settings, conditions_of, run_seed
from analysis.probe.heads import Head, random_heads, trained_heads
from analysis.probe.models import gather, named
from analysis.probe.projection import project
from lare.errors import LareError
from lare.losses.alignment import AlignmentHeads, hybrid_mean_max
from tests.analysis.probing.synthetic import planted


def _stage(folder, width=16, dim=24, seed=3):
    torch.manual_seed(seed)
    heads = AlignmentHeads(width, width, dim)
    save_file({f"alignment.{name}": value for name, value in heads.state_dict().items()}, folder / "heads.safetensors")
    return heads


def test_the_projection_is_what_training_computes(tmp_path):
    heads, loaded = _stage(tmp_path), trained_heads(str(tmp_path))
    tokens = [torch.randn(5, 3, 16) for _ in range(3)]
    expected = heads(tokens[0], tokens[1], torch.ones(5, 3), tokens[2])
    latent, text, vision = (hybrid_mean_max(one).numpy() for one in tokens)
    rows, image = np.arange(3), np.array(list("aabbc"))
    for partner, side, wanted in ((text, "text", expected.text), (vision, "vision", expected.visual)):
        z, v = project(latent, partner, rows, image, 0, "model", trained=(loaded["latent"], loaded[side]))
        np.testing.assert_allclose(z, expected.latents.detach(), atol=1e-5)
        np.testing.assert_allclose(v, wanted.detach(), atol=1e-5)


def test_a_checkpoint_without_heads_is_refused_before_anything_is_asked(tmp_path):
    assert trained_heads(None) is None and trained_heads("embedded") is None and trained_heads(str(tmp_path)) is None
    save_file({"image.project.bias": torch.zeros(2)}, tmp_path / "heads.safetensors")
    assert trained_heads(str(tmp_path)) is None
    said = []
    with pytest.raises(LareError, match="--model embedded has no alignment heads.*RUN/STAGE/final"):
        gather(named(None), None, 4, 2, "windows", "states", said.append, tmp_path, need_heads=True)
    assert not said
    made = planted(1.0, images=20, width=16)
    with pytest.raises(LareError, match="choose another --projection"):
        project(made.latent, made.text, np.arange(9), made.image, 0, "model")


def test_damaged_and_foreign_heads_are_refused(tmp_path):
    _stage(tmp_path)
    made = planted(1.0, images=20, width=8)
    heads = trained_heads(str(tmp_path))
    with pytest.raises(LareError, match="width 16, not 8"):
        project(made.latent, made.text, np.arange(9), made.image, 0, "model", trained=(heads["latent"], heads["text"]))
    save_file({"alignment.text.bias": torch.zeros(2)}, tmp_path / "heads.safetensors")
    with pytest.raises(LareError, match="has no tensor alignment.latents.weight"):
        trained_heads(str(tmp_path))
    (tmp_path / "heads.safetensors").write_bytes(b"cut off")
    with pytest.raises(LareError, match="can't be read"):
        trained_heads(str(tmp_path))


def test_random_heads_have_the_shapes_and_repeat(tmp_path):
    _stage(tmp_path)
    known = trained_heads(str(tmp_path))
    first, again = random_heads(known), random_heads(known)
    for side in ("latent", "text", "vision"):
        assert first[side].weight.shape == known[side].weight.shape
        assert np.array_equal(first[side].weight, again[side].weight)
        assert not np.allclose(first[side].weight, known[side].weight)


def test_heads_that_mix_sides_up_are_seen_in_their_row_alone():
    """Heads that fit the planted signal give what no projection gives; with noise on one side, they give chance."""
    made = planted(2.0, 200, width=32)
    same = Head(np.eye(32, dtype=np.float32), np.zeros(32, np.float32))
    noise = Head(np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32), np.zeros(32, np.float32))
    model = Model("planted", "with", made, heads={"latent": same, "vision": same, "text": noise})
    assert "model" in {one.key for one in conditions_of(model)}
    assert "model" not in {one.key for one in conditions_of(Model("planted", "with", made))}
    found, _ = run_seed([model], 0, Settings(steps=False, pairs=600, only=("model", "none")))
    right = {(one.condition, one.modality): one.judged.accuracy for one in found if one.classifier == "SVM"}
    assert right["model", "vision"] == pytest.approx(right["none", "vision"], abs=0.02) and right["none", "text"] > 0.9
    assert right["model", "text"] < 0.65
