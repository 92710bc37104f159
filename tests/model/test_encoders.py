"""Encoders: patches of every supported type, without what stands before them, normalised as the model's own are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    BitImageProcessor,
    PreTrainedConfig,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SwinConfig,
    TimmWrapperConfig,
    YolosConfig,
)

from lare import LareError
from lare.backbones import encoders
from lare.backbones.assemble import assemble, load_text_config
from lare.backbones.encoders import encoder_defaults, load_encoder, load_vision_config
from lare.model import LareForConditionalGeneration, LareProcessor
from lare.model.patch_grids import ENCODERS, own_grid, picture_of
from lare.model.vision import VisionTower
from tests.methods.tiny_checkpoint import pictures

from .test_assemble import SETTINGS, llama  # noqa: F401 (a fixture)
from .tiny import tiny_config

SMALL: dict[str, Any] = dict(
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=3,
    image_size=32,
    patch_size=8,
    hidden_dropout_prob=0.0,
    layer_norm_eps=1e-6,
)
# Tokens before the patches: class, distillation and register tokens.
BEFORE = {
    "aimv2_vision_model": (0, {}),
    "beit": (1, {"use_mask_token": True, "use_absolute_position_embeddings": True}),
    "clip_vision_model": (1, {}),
    "deit": (2, {}),
    "dinov2": (1, {}),
    "dinov2_with_registers": (5, {"num_register_tokens": 4}),
    "dinov3_vit": (4, {"num_register_tokens": 3}),
    "ijepa": (0, {}),
    "siglip_vision_model": (0, {}),
    "vit": (1, {}),
    "vit_msn": (1, {}),
}
TIMM: dict[str, tuple[dict[str, Any], int]] = {
    "test_vit3": ({}, 160),
    "vit_tiny_patch16_224": ({"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3, "reg_tokens": 2}, 64),
    "deit_tiny_distilled_patch16_224": ({"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3}, 64),
    "test_convnext": ({}, 160),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 64, "embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2},
        64,
    ),
}


def vision_config(kind: str, **changes: Any) -> PreTrainedConfig:
    return AutoConfig.for_model(kind, **(SMALL | BEFORE[kind][1] | changes))


def write_encoder(folder: Path, config: PreTrainedConfig) -> Path:
    """A random encoder with a processor of its own, whose numbers no default has."""
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    BitImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=2).save_pretrained(folder)
    return folder


def test_every_type_is_tested() -> None:
    assert set(BEFORE) == set(ENCODERS)


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_end_to_end(kind: str, llama: Path, tmp_path: Path) -> None:  # noqa: F811
    """Its own patches, its own normalisation; saved and loaded, the same answer."""
    place = write_encoder(tmp_path / "encoder", vision_config(kind))
    model, processor = assemble(str(llama), str(place), SETTINGS)
    assert (model.config.image_size, model.config.grid, model.config.window) == (32, 4, 2)
    images = processor.image_processor
    normalisation = tuple(images.image_mean), tuple(images.image_std), int(images.resample)
    assert normalisation == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 2)
    batch = dict(processor(images=pictures(2), text=processor.build_prompts(["Why?", "Is there a dog?"])))
    with torch.no_grad():
        own = AutoModel.from_pretrained(place).eval()(batch["pixel_values"], output_hidden_states=True)
    patches = model.vision_tower(batch["pixel_values"])
    assert own.hidden_states[-2].shape[1] == 16 + BEFORE[kind][0]
    assert torch.equal(patches, own.hidden_states[-2][:, BEFORE[kind][0] :])
    said = model.generate(**batch, max_new_tokens=3)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again = LareForConditionalGeneration.from_pretrained(tmp_path / "saved")
    reread = LareProcessor.from_pretrained(tmp_path / "saved")
    pixels = reread(images=pictures(2), text=["<image> a", "<image> b"])["pixel_values"]
    assert torch.equal(pixels, batch["pixel_values"])
    assert torch.equal(again.vision_tower(pixels), patches)
    assert torch.equal(again.generate(**batch, max_new_tokens=3).sequences, said.sequences)


def moved(tower: VisionTower, side: int, row: int, column: int) -> int:
    """Which token changes most when one cell of the picture is brightened."""
    cell = side // tower.grid
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1)) * 0.1
    changed = pixels.clone()
    changed[:, :, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] += 20.0
    return int((tower(changed) - tower(pixels)).norm(dim=-1)[0].argmax())


@pytest.mark.parametrize("kind", ENCODERS)
def test_patches_lie_row_by_row(kind: str) -> None:
    torch.manual_seed(0)
    tower = VisionTower(tiny_config(vision_config=vision_config(kind, num_hidden_layers=2), image_size=32)).eval()
    assert [moved(tower, 32, row, column) for row, column in ((0, 0), (1, 3), (3, 2))] == [0, 7, 14]


def timm_config(name: str) -> TimmWrapperConfig:
    return TimmWrapperConfig(architecture=name, num_labels=0, do_pooling=False, model_args=TIMM[name][0])


@pytest.mark.parametrize("name", TIMM)
def test_timm_models(name: str, llama: Path, tmp_path: Path) -> None:  # noqa: F811
    import timm

    torch.manual_seed(0)
    AutoModel.from_config(timm_config(name)).save_pretrained(tmp_path / "encoder")
    model, processor = assemble(str(llama), str(tmp_path / "encoder"), SETTINGS)
    card = timm.get_pretrained_cfg(name)
    assert tuple(processor.image_processor.image_mean) == tuple(card.mean)
    assert tuple(processor.image_processor.image_std) == tuple(card.std)
    side, grid, tower = TIMM[name][1], model.config.grid, model.vision_tower
    assert model.config.image_size == side and model.projector.linear_1.in_features == VisionTower.width(
        model.config.vision_config
    )
    batch = dict(processor(images=pictures(2), text=processor.build_prompts(["Why?", "Is there a dog?"])))
    with torch.no_grad():
        own = tower.encoder.timm_model.forward_features(batch["pixel_values"])
    if own.dim() == 3:
        own = own[:, tower.encoder.timm_model.num_prefix_tokens :]
    else:
        own = own.flatten(1, 2) if "swin" in name else own.flatten(2).transpose(1, 2)
    torch.testing.assert_close(tower(batch["pixel_values"]), own)
    assert own.shape[1] == grid**2
    said = model.generate(**batch, max_new_tokens=3)
    model.save_pretrained(tmp_path / "saved")
    again = LareForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.generate(**batch, max_new_tokens=3).sequences, said.sequences)


def test_dino_takes_other_sizes_and_a_clip_does_not(tmp_path: Path) -> None:
    dino, clip = vision_config("dinov2"), vision_config("clip_vision_model")
    assert encoder_defaults(dino, {}) == (32, 4)
    assert encoder_defaults(dino, {"image_size": 64}) == (64, 8)
    with pytest.raises(LareError, match="image_size is 60; give a multiple of 8"):
        encoder_defaults(dino, {"image_size": 60})
    with pytest.raises(LareError, match="leave image_size out"):
        encoder_defaults(clip, {"image_size": 64})
    encoder = load_encoder(str(write_encoder(tmp_path, dino)), {"image_size": 64})
    assert (encoder.image_size, encoder.grid) == (64, 8)
    tower = VisionTower(tiny_config(vision_config=dino, image_size=64, grid=8, lm_grid=8)).eval()
    assert tower(torch.randn(1, 3, 64, 64)).shape == (1, 64, 24)


def test_the_vision_half_of_siglip(tmp_path: Path) -> None:
    """A model of two halves; without a processor file the family's own normalisation counts."""
    text = dict(hidden_size=24, intermediate_size=24, num_hidden_layers=1, num_attention_heads=3, vocab_size=9)
    vision = {name: value for name, value in SMALL.items() if name != "hidden_dropout_prob"}
    whole = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    whole.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), {})
    assert encoder.model.config.model_type == "siglip_vision_model"
    assert list(encoder.processor.image_mean) == list(SiglipImageProcessor().image_mean) == [0.5] * 3
    pixels = torch.randn(1, 3, 32, 32)
    ours = encoder.model(pixels, output_hidden_states=True).hidden_states[-2]
    theirs = whole.eval().vision_model(pixels, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(ours, theirs)


def test_an_unknown_normalisation_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_encoder(tmp_path, vision_config("ijepa"))
    (tmp_path / "preprocessor_config.json").unlink()
    monkeypatch.setattr(encoders, "_processors", dict)
    with pytest.raises(LareError, match="no preprocessor_config.json"):
        load_encoder(str(tmp_path), {})


@pytest.mark.parametrize("config", [YolosConfig(), SwinConfig(), AutoConfig.for_model("vit_mae")])
def test_other_types_are_refused_by_name(config: PreTrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(LareError, match=f"type '{config.model_type}', whose grid of patches is not known; give one of"):
        load_vision_config(str(tmp_path))
    with pytest.raises(LareError, match="grid of patches is not known"):
        VisionTower(tiny_config(vision_config=config, image_size=224))


def test_oblong_pictures_are_refused() -> None:
    with pytest.raises(LareError, match=r"image_size is \(32, 64\)"):
        picture_of(vision_config("vit", image_size=[32, 64]))


def test_a_timm_model_that_hides_its_patches_is_refused() -> None:
    with pytest.raises(LareError, match="does not tell where its patches begin"):
        own_grid(TimmWrapperConfig(architecture="hiera_tiny_224", num_labels=0), 224)


def test_text_is_no_encoder(llama: Path) -> None:  # noqa: F811
    assert load_text_config(str(llama)).model_type == "llama"
    with pytest.raises(LareError, match="'llama', whose grid of patches is not known"):
        load_vision_config(str(llama))
