"""From pixels to visual tokens: which features are taken, how they are pooled, and that the encoder stays frozen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedConfig, TimmBackboneConfig, TimmWrapperConfig

from lare import LareError
from lare.model import LareForConditionalGeneration
from lare.model.vision import VisionTower, pool_grid

from . import reference
from .conftest import ModelOf
from .tiny import clip_vision, collate, conv_vision, make_samples, tiny_config, tiny_model


def pictures(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def tower(vision: PreTrainedConfig, side: int, **changes: object) -> VisionTower:
    torch.manual_seed(0)
    return VisionTower(tiny_config(vision_config=vision, image_size=side, **changes)).eval()


def test_clip_features_are_the_penultimate_layers_without_class_token() -> None:
    made = tower(clip_vision(), 32)
    pixels = pictures(32)
    hidden = made.encoder(pixels, output_hidden_states=True).hidden_states
    assert len(hidden) == 4
    assert made(pixels).shape == (2, 16, 24)
    assert torch.equal(made(pixels), hidden[2][:, 1:])


@pytest.mark.parametrize("layer", [-1, -3])
def test_the_layer_is_a_matter_of_configuration(layer: int) -> None:
    made = tower(clip_vision(), 32, vision_feature_layer=layer)
    hidden = made.encoder(pictures(32), output_hidden_states=True).hidden_states
    assert torch.equal(made(pictures(32)), hidden[layer][:, 1:])


def test_tokens_go_row_by_row() -> None:
    """Brighten one patch: the token at its place on the grid changes most."""
    made = tower(clip_vision(num_hidden_layers=2), 32)
    pixels = pictures(32, 1)
    changed = pixels.clone()
    changed[:, :, 8:16, 24:32] += 20.0  # row 1, column 3
    moved = (made(changed) - made(pixels)).norm(dim=-1)[0]
    assert int(moved.argmax()) == 1 * 4 + 3


def test_conv_encoder_gives_its_grid() -> None:
    vision = conv_vision()
    made = tower(vision, 64)
    features = made(pictures(64))
    assert features.shape == (2, 16, vision.hidden_size)
    assert VisionTower.width(vision) == vision.hidden_size
    pixels = pictures(64, 1)
    changed = pixels.clone()
    changed[:, :, 28:36, 0:4] += 20.0  # the stride-2 convolutions centre cell (2, 0) on pixel (32, 0)
    assert int((made(changed) - made(pixels)).norm(dim=-1)[0].argmax()) == 2 * 4
    rows, columns = made(pixels)[0, :, -8:-4].argmax(1), made(pixels)[0, :, -4:].argmax(1)
    assert (rows * 4 + columns).tolist() == list(range(16)), "one-hot places, row by row"


LITE0 = [
    TimmWrapperConfig(architecture="efficientnet_lite0", num_labels=0),
    TimmBackboneConfig(backbone="efficientnet_lite0", use_pretrained_backbone=False, out_indices=(-1,)),
]


@pytest.mark.parametrize("vision", LITE0, ids=["wrapper", "backbone"])
def test_efficientnet_lite0_by_timm(vision: PreTrainedConfig) -> None:
    """Stride 32: 128 pixels give 4 x 4; its last map's channels are d_vis."""
    made = tower(vision, 128)
    features = made(pictures(128, 1))
    assert features.shape == (1, 16, VisionTower.width(vision))
    maps = made.encoder(pictures(128, 1))
    maps = maps.feature_maps[-1] if hasattr(maps, "feature_maps") else maps.last_hidden_state
    torch.testing.assert_close(features, maps.flatten(2).transpose(1, 2))


def test_a_model_with_a_timm_encoder_runs_whole() -> None:
    model = tiny_model(vision_config=LITE0[0], image_size=128, iterations=1)
    samples = make_samples(clip_model_config := tiny_config(), lengths=(3,))
    batch = collate(samples)
    del batch["visual_features"]
    assert clip_model_config.grid == model.config.grid
    output = model(**batch, pixel_values=pictures(128, 1))
    assert bool(torch.isfinite(output.lm_loss[0]))


@pytest.mark.parametrize(("vision", "side"), [(clip_vision(), 32), (conv_vision(), 64)], ids=["clip", "conv"])
def test_pixels_equal_cached_features(vision: PreTrainedConfig, side: int) -> None:
    model = tiny_model(vision_config=vision, image_size=side, refocus_source="fine")
    batch = collate(make_samples(model.config))
    del batch["visual_features"]
    direct = model(**batch, pixel_values=pictures(side))
    cached = model(**batch, visual_features=model.vision_tower(pictures(side)))
    torch.testing.assert_close(direct.thoughts.latents, cached.thoughts.latents)
    torch.testing.assert_close(direct.lm_loss[0], cached.lm_loss[0])


def test_frozen_encoder_gets_no_gradient() -> None:
    model = tiny_model()
    batch = collate(make_samples(model.config))
    del batch["visual_features"]
    pixels = pictures(32).requires_grad_()
    output = model(**batch, pixel_values=pixels)
    (output.lm_loss[0] + output.prefix_loss[0]).backward()
    assert pixels.grad is None
    for name, parameter in model.named_parameters():
        if name.startswith("vision_tower"):
            assert not parameter.requires_grad
            assert parameter.grad is None
        else:
            assert parameter.requires_grad


def test_frozen_encoder_keeps_its_batch_statistics() -> None:
    """`model.train()` must not let a batch norm learn from the batch, nor drop anything out."""
    model = tiny_model(vision_config=conv_vision(), image_size=64)
    before = model.vision_tower(pictures(64))
    model.train()
    assert not any(module.training for module in model.vision_tower.modules())
    model.vision_tower(pictures(64) * 3)
    assert torch.equal(model.vision_tower(pictures(64)), before)
    assert model.language_model.training


def test_decoder_tokens_are_pooled_before_their_projector(model_of: ModelOf) -> None:
    model = model_of("llama", refocus_source="fine")
    features = make_samples(model.config)[0].features
    tokens, plain = model.encode_features(features[None]), reference.visual_tokens(model, features)
    assert (tokens.lm_grid, tokens.grid) == (2, 4)
    torch.testing.assert_close(tokens.lm[0], plain.lm, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.refocus[0], plain.refocus, atol=1e-5, rtol=1e-5)
    after = pool_grid(model.projector(features[None]), 4, 2)
    assert not torch.allclose(tokens.lm, after, atol=1e-3)


def test_one_source_means_one_projector(model_of: ModelOf) -> None:
    model = model_of("llama")
    tokens = model.encode_features(make_samples(model.config)[0].features[None])
    assert tokens.lm is tokens.refocus
    assert model.refocus_projector is None


def test_wrong_grid_is_named() -> None:
    made = tower(clip_vision(), 32, grid=5, lm_grid=5)
    with pytest.raises(LareError, match="grid"):
        made(pictures(32))


def test_encoder_without_width_is_named() -> None:
    with pytest.raises(LareError, match="hidden_size"):
        VisionTower.width(PreTrainedConfig())


def test_pixels_may_have_another_float_type() -> None:
    model = tiny_model().to(torch.bfloat16)
    assert isinstance(model, LareForConditionalGeneration)
    assert model.encode_images(pictures(32)).lm.dtype == torch.bfloat16
