"""On each family, LaRe without latents is the model as transformers runs it, from prompt to answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lare import LareError
from lare.backbones.adopt import adopt
from lare.backbones.qwen_vl import rope_positions
from lare.loading import load_checkpoint
from lare.model.loop import prefill

from .vlms import NATIVE, SETTINGS, Vlm, picture, tokenizer_of, write_vlm

QUESTIONS = ["Is it red?", "What is the colour of the cat in the image?", "Where?"]


def test_inputs_are_those_of_the_models_own_processor(vlm: Vlm) -> None:
    pictures = vlm.pictures()
    wanted = vlm.own_inputs(pictures, QUESTIONS)
    found = vlm.processor(images=pictures, text=vlm.processor.build_prompts(QUESTIONS, latent=False))
    assert set(found) - set(wanted) <= {"tiles"}  # Idefics3's own processor tells them in the text alone
    for name in set(found) & set(wanted):
        assert torch.equal(found[name], torch.as_tensor(wanted[name])), name


def test_logits_of_a_mixed_batch_are_the_models_own(vlm: Vlm) -> None:
    pictures = vlm.pictures()
    inputs = dict(vlm.processor(images=pictures, text=vlm.processor.build_prompts(QUESTIONS, latent=False)))
    ids, mask, pixels = (inputs.pop(name) for name in ("input_ids", "attention_mask", "pixel_values"))
    pairs = list(zip(pictures, QUESTIONS, strict=True))
    with torch.no_grad():
        visual = vlm.model.visual_tokens(pixels, None, image_inputs=inputs)
        state = prefill(vlm.model, ids, mask, visual)
        found = vlm.model.lm_head(state.last_hidden)
        whole = vlm.own(**vlm.own_inputs(pictures, QUESTIONS)).logits[:, -1]
        alone = [vlm.own(**vlm.own_inputs([one], [text])).logits[0, -1] for one, text in pairs]
    words = len(vlm.own_processor.tokenizer)  # spare rows behind them are LaRe's tokens now
    assert torch.allclose(found[:, :words], whole[:, :words], atol=1e-5)
    assert torch.allclose(found[:, :words], torch.stack(alone)[:, :words], atol=1e-5)


def test_answers_are_those_of_transformers_generate(vlm: Vlm) -> None:
    pictures = vlm.pictures()
    inputs = vlm.processor(images=pictures, text=vlm.processor.build_prompts(QUESTIONS, latent=False))
    ends = vlm.own_processor.tokenizer.eos_token_id
    plain: dict[str, Any] = dict(iterations=0, delimiters=False, max_new_tokens=5, min_new_tokens=5)
    ours = vlm.model.generate(**inputs, **plain, eos_token_ids=[ends])
    spare = list(range(len(vlm.own_processor.tokenizer), vlm.own.config.get_text_config().vocab_size))
    for number, (one, text) in enumerate(zip(pictures, QUESTIONS, strict=True)):
        own = vlm.own_inputs([one], [text])
        said = vlm.own.generate(**own, max_new_tokens=5, min_new_tokens=5, do_sample=False, suppress_tokens=spare)
        assert ours.sequences[number].tolist() == said[0, own["input_ids"].shape[1] :].tolist()


def test_adopting_changes_no_weight(vlm: Vlm) -> None:
    own, found = vlm.own.state_dict(), vlm.model.language_model.state_dict()
    assert set(own) == set(found)
    words = len(vlm.own_processor.tokenizer)
    for name, value in own.items():
        rows = words if "embed_tokens" in name or "lm_head" in name else None
        assert torch.equal(found[name][:rows], value[:rows]), name


def test_a_saved_folder_answers_alike(vlm: Vlm, tmp_path: Path) -> None:
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    model, processor, _ = load_checkpoint(str(tmp_path), "cpu")
    pictures = vlm.pictures(2)
    one, other = (
        side.generate(**made(images=pictures, text=made.build_prompts(QUESTIONS[:2])), output_trace=True)
        for side, made in ((vlm.model, vlm.processor), (model, processor))
    )
    assert torch.equal(one.sequences, other.sequences) and torch.equal(one.latents, other.latents)
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen and all(name.startswith(model.backbone.encoder) for name in frozen)
    assert not any(name.startswith(model.backbone.projector) for name in frozen)


SIDES, WORDS = st.integers(1, 5), st.integers(0, 3)


@given(st.lists(st.tuples(SIDES, SIDES, WORDS, WORDS), min_size=1, max_size=3))
@settings(max_examples=25)
def test_positions_are_those_of_transformers(rows: list[tuple[int, int, int, int]]) -> None:
    """Of pictures of any size, with text on both sides or none, padded on the left."""
    from transformers import AutoConfig, Qwen2_5_VLModel

    ids = [[1] * before + [9] * (height * width) + [1] * behind for height, width, before, behind in rows]
    longest = max(map(len, ids))
    padded = torch.tensor([[0] * (longest - len(one)) + one for one in ids])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in ids])
    grids = torch.tensor([[1, 2 * height, 2 * width] for height, width, _, _ in rows])
    config = AutoConfig.for_model("qwen2_5_vl")
    own = {"config": config, "get_vision_position_ids": Qwen2_5_VLModel.get_vision_position_ids}
    stand_in = type("StandIn", (), own)
    wanted, deltas = Qwen2_5_VLModel.get_rope_index(stand_in(), padded, (padded == 9).int(), grids, attention_mask=mask)
    found, following = rope_positions(padded == 9, mask.bool(), grids[:, 1:] // 2)
    real = mask.bool()[None].expand(3, -1, -1)
    assert torch.equal(found[real], wanted[real])
    assert torch.equal(following, mask.sum(1) + deltas[:, 0])


def test_wrong_folders_are_one_clear_error(tmp_path: Path) -> None:
    folder = write_vlm("qwen2_5_vl", tmp_path)
    with pytest.raises(LareError, match="can't be loaded"):
        adopt(str(tmp_path / "nothing"), SETTINGS)
    tokenizer_of((), "{{ messages }}").save_pretrained(folder)
    with pytest.raises(LareError, match="has no token <|image_pad|>|processor"):
        adopt(str(folder), SETTINGS)


def test_huge_and_tiny_pictures(vlm: Vlm) -> None:
    """A single pixel is scaled up, and a strip is answered or refused by its number."""
    prompts = vlm.processor.build_prompts(["Where?"])
    inputs = vlm.processor(images=[picture(1, 1)], text=prompts)
    assert vlm.model.generate(**inputs, max_new_tokens=1).sequences.shape == (1, 1)
    if vlm.model.config.backbone in NATIVE:
        with pytest.raises(LareError, match="Picture 0 is 900 x 3"):
            vlm.processor(images=[picture(900, 3)], text=prompts)
