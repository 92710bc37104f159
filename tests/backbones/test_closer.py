"""Windows that are encoded anew: the Extractor sees what the family's own processor and tower make of a crop."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lare import LareError
from lare.backbones.adopt import adopt
from lare.methods import load_method
from lare.methods.base import Sampling
from lare.model import LareConfig, LareForConditionalGeneration
from lare.model.closer import crop_box, look_closer, shares_of_cells
from lare.model.pictures import PICTURES

from .test_latents import QUESTIONS, recomputed
from .vlms import NATIVE, SETTINGS, Vlm, lively

FINE: dict[str, Any] = dict(iterations=2, max_new_tokens=3, output_trace=True)


def finer(vlm: Vlm) -> tuple[LareForConditionalGeneration, Any]:
    """The family's model and processor, which look closer."""
    model, processor = adopt(str(vlm.folder), SETTINGS | {"refocus_source": "fine"})
    lively(model.extractor)  # type: ignore[arg-type]
    return model, processor


@pytest.fixture
def close(vlm: Vlm, request: pytest.FixtureRequest) -> tuple[LareForConditionalGeneration, Any]:
    made: dict[str, Any] = request.config.__dict__.setdefault("_closer", {})
    kind = vlm.own.config.model_type
    if kind not in made:
        made[kind] = finer(vlm)
    return made[kind]


def own_tokens(vlm: Vlm, crop: Any, cells: tuple[int, int]) -> Tensor:
    """Tokens (n, d) of a crop by the model and image processor that transformers loaded, without LaRe."""
    images, model = vlm.own_processor.image_processor, vlm.own.model
    kind, (rows, columns) = vlm.own.config.model_type, cells
    if kind in NATIVE:
        sized = crop.resize((columns * 16, rows * 16), resample=images.resample)
        made = images([sized], return_tensors="pt")
        assert made["image_grid_thw"].tolist() == [[1, 4 * rows, 4 * columns]]
        return model.get_image_features(made["pixel_values"], made["image_grid_thw"], return_dict=True).pooler_output[0]
    if kind in ("idefics3", "smolvlm"):
        tiles = -(-2 * max(cells) // 2)
        size = [round(edge * tiles * 16 / max(crop.size)) for edge in crop.size]
        made = images([[crop.resize(size, resample=images.resample)]], return_tensors="pt", do_resize=False)
        found = model.get_image_features(made["pixel_values"], made["pixel_attention_mask"], return_dict=True)
        tokens = torch.cat(list(found.pooler_output)).reshape(-1, 2, 2, 32)
        whole = [torch.cat(list(tokens[at : at + tiles]), dim=1) for at in range(0, tiles * tiles, tiles)]
        return torch.cat(whole).flatten(0, 1)
    if kind == "llava_onevision":
        made = images([crop.resize((columns * 16, rows * 16), resample=images.resample)], return_tensors="pt")
        found = model.get_image_features(made["pixel_values"], made["image_sizes"], return_dict=True).pooler_output[0]
        lines = found[4:].unflatten(0, (-1, 2 * columns + 1))
        return lines[:, :-1].flatten(0, 1)
    made = images([crop], return_tensors="pt")
    return model.get_image_features(made["pixel_values"], return_dict=True).pooler_output[0]


def test_a_glimpse_is_the_models_own_reading_of_the_crop(vlm: Vlm, close: Any) -> None:
    """For pictures of several sizes in one batch, each with a window of its own."""
    model, processor = close
    pictures = vlm.pictures()
    inputs = dict(processor(images=pictures, text=processor.build_prompts(QUESTIONS)))
    pixels = inputs.pop("pixel_values")
    with torch.no_grad():
        visual = model.visual_tokens(pixels, None, image_inputs=inputs)
        corner = torch.tensor([[0, 0], [1, 0], [0, 1]])
        seen = look_closer(model, visual, corner)
        for row, (one, place) in enumerate(zip(pictures, corner.tolist(), strict=True)):
            rows, columns = visual.shape if visual.sizes is None else visual.sizes[row].tolist()
            box = crop_box(model.backbone.region(processor, one.size), (rows, columns), tuple(place), (2, 2))
            wanted = own_tokens(vlm, one.crop(box), (2, 2))
            tall, wide = seen.sizes[row].tolist()
            found = seen.tokens[row].unflatten(0, seen.shape)[:tall, :wide].flatten(0, 1)
            assert found.shape == wanted.shape and len(wanted) > 4
            assert torch.allclose(found, wanted, atol=1e-5)


def test_cached_is_recomputed_and_a_batch_is_its_rows(vlm: Vlm, close: Any) -> None:
    model, processor = close
    pictures, prompts = vlm.pictures(), processor.build_prompts(QUESTIONS)
    inputs = dict(processor(images=pictures, text=prompts))
    with torch.no_grad():
        found = model(**inputs, iterations=2)
        wanted, windows, _ = recomputed(model, inputs)
    assert torch.equal(found.thoughts.windows, windows)
    assert torch.allclose(found.thoughts.latents, wanted, atol=2e-5)
    batch = model.generate(**inputs, **FINE)
    plain = model.generate(**inputs, **FINE, window_mode="full")
    assert not torch.allclose(batch.latents, plain.latents, atol=1e-3)
    assert torch.allclose(batch.cross_attention.sum(-1), torch.ones(3, 2), atol=1e-5)
    for row, (one, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        alone = model.generate(**processor(images=[one], text=[prompt]), **FINE)
        assert torch.equal(batch.windows[row], alone.windows[0])
        assert torch.allclose(batch.latents[row], alone.latents[0], atol=2e-5)
        assert torch.allclose(batch.cross_attention[row], alone.cross_attention[0], atol=1e-5)


@pytest.mark.parametrize("vlm", ["qwen2_5_vl", "smolvlm"], indirect=True)
def test_rows_of_one_picture_and_rows_that_leave(vlm: Vlm, close: Any) -> None:
    """Several questions share a picture, and a row that stops early changes nothing for the others."""
    model, processor = close
    one, prompts = vlm.pictures(1), processor.build_prompts(QUESTIONS)
    apart = model.generate(**processor(images=one * 3, text=prompts), **FINE)
    inputs = dict(processor(images=one * 3, text=prompts))
    seen = dict(processor(images=one, text=prompts[:1]))
    inputs |= {name: seen[name] for name in seen if name not in ("input_ids", "attention_mask")}
    shared = model.generate(**inputs, questions_per_image=3, **FINE)
    assert torch.allclose(shared.latents, apart.latents, atol=2e-5)
    limits = torch.tensor([1, 3, 1])
    several = dict(processor(images=vlm.pictures(), text=prompts))
    cut = model.generate(**several, **(FINE | {"iterations": 3}), step_limits=limits)
    whole = model.generate(**several, **(FINE | {"iterations": 3}))
    assert torch.allclose(cut.latents[1], whole.latents[1], atol=2e-5)


@pytest.mark.parametrize("vlm", ["qwen3_vl"], indirect=True)
def test_gradients_reach_the_connector_through_a_crop(vlm: Vlm, close: Any) -> None:
    """Training sees what answering sees: the encoder takes no gradient, what follows it does."""
    model, processor = close[0], close[1]
    inputs = dict(processor(images=vlm.pictures(), text=processor.build_prompts(QUESTIONS)))
    pixels = inputs.pop("pixel_values")
    visual = model.visual_tokens(pixels, None, image_inputs=inputs)
    seen = look_closer(model, visual, torch.zeros(3, 2, dtype=torch.long))
    names = [name for name, one in model.named_parameters() if one.requires_grad and "visual" in name]
    values = dict(model.named_parameters())
    found = torch.autograd.grad(seen.tokens.sum(), [values[name] for name in names], allow_unused=True)
    reached = [name for name, one in zip(names, found, strict=True) if one is not None]
    assert reached and all(name.startswith(model.backbone.projector) for name in reached)


@pytest.mark.parametrize("vlm", ["qwen2_5_vl"], indirect=True)
def test_an_option_of_a_trained_folder(vlm: Vlm, tmp_path: Path) -> None:
    """A model trained on the decoder's tokens looks closer on demand, and is as it was afterwards."""
    for part in (vlm.model, vlm.processor):
        part.save_pretrained(tmp_path)
    plain, fine = (load_method("lare", str(tmp_path), "cpu", **more) for more in ({}, {"refocus_source": "fine"}))
    ask = (vlm.pictures(2), ["Is it red?", "Where?"], Sampling(max_new_tokens=2), True)
    before, closer, after = plain.answer(*ask), fine.answer(*ask), plain.answer(*ask)
    assert "refocus_source" not in plain.arguments() and fine.arguments()["refocus_source"] == "fine"
    for one, other, again in zip(before, closer, after, strict=True):
        assert (one.arrays["latents"] == again.arrays["latents"]).all()
        assert not (one.arrays["latents"] == other.arrays["latents"]).all()
        assert one.arrays["cross_attention"].shape == other.arrays["cross_attention"].shape
    assert fine.model.config.refocus_source == "lm" and PICTURES not in fine.processor.pictures(ask[0])[0]


@pytest.mark.parametrize("vlm", ["qwen2_5_vl"], indirect=True)
def test_what_cannot_be_is_refused(vlm: Vlm, close: Any) -> None:
    model, processor = close
    inputs = dict(processor(images=vlm.pictures(1), text=processor.build_prompts(["Where?"])))
    with pytest.raises(LareError, match="window_mode soft:0.5 weighs"):
        model(**inputs, iterations=1, window_mode="soft:0.5")
    del inputs[PICTURES]
    with pytest.raises(LareError, match="pictures are missing"):
        model(**inputs, iterations=1)
    own = dict(backbone_config=copy.deepcopy(vlm.model.config.backbone_config), refocus_source="fine")
    for wrong in ({"use_extractor": False}, {"use_window": False}, {"fine_scale": 0}):
        with pytest.raises(LareError, match="refocus_source=fine|fine_scale"):
            LareConfig(**own, **wrong)
    with pytest.raises(LareError, match="refocus_source is lm"):
        load_method("lare", None, "cpu", refocus_source="lm")


@given(st.integers(1, 6), st.integers(1, 13))
@settings(max_examples=40)
def test_shares_keep_what_is_shared(cells: int, tokens: int) -> None:
    """Each token's attention is given to the cells that it lies in, all of it, whatever lies beyond."""
    found = shares_of_cells(torch.tensor([cells]), torch.tensor([tokens]), cells + 2, tokens + 3)[0]
    assert torch.allclose(found[:, :tokens].sum(0), torch.ones(tokens), atol=1e-5)
    assert not bool(found[cells:].any()) or float(found[cells:].abs().max()) < 1e-5
    if tokens % cells == 0:
        wanted = torch.eye(cells).repeat_interleave(tokens // cells, 1)
        assert torch.allclose(found[:cells, :tokens], wanted, atol=1e-5)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.data())
@settings(max_examples=40)
def test_a_box_holds_its_cells(wide: int, tall: int, rows: int, columns: int, window: int, data: Any) -> None:
    """Rounded outwards by less than a pixel, and inside the picture."""
    covered = min(window, rows), min(window, columns)
    corner = data.draw(st.integers(0, rows - covered[0])), data.draw(st.integers(0, columns - covered[1]))
    left, top, right, bottom = crop_box((0, 0, wide, tall), (rows, columns), corner, covered)
    assert 0 <= left < right <= wide and 0 <= top < bottom <= tall
    assert abs(left - corner[1] * wide / columns) < 1 and abs(bottom - (corner[0] + covered[0]) * tall / rows) < 1
