"""States that are fed back: batched, left-padded and cached, against one question alone and a loop without cache."""

import numpy as np
import pytest
import torch

from lare.errors import LareError
from lare.methods import load_method
from lare.methods.base import Sampling
from lare.reasoners import preset_names
from lare.trace import AnswerRecord, TraceReader, TraceWriter
from tests.reasoners import plain, tiny

SHORT = Sampling(max_new_tokens=4)
CASES = [(name, tiny.first_family(name)) for name in preset_names("feedback")]
CASES += [("coconut", "llama"), ("mirage", "llava"), ("monet", "qwen2_vl"), ("lvr", "qwen3_vl")]


def _close(one, other):
    return one.shape == other.shape and float(np.abs(one - other).max(initial=0.0)) < 1e-5


@pytest.mark.parametrize(("name", "family"), CASES)
def test_batch_of_eight_is_one_alone_is_an_uncached_loop(loaded, name, family):
    method = loaded(name, family)
    if method.block.count > 8:
        method = method.changed(iterations=5)
    images = tiny.pictures(8)
    together = method.answer(images, tiny.QUESTIONS, SHORT, trace=True)
    assert any(one.latent_steps for one in together)
    for row in (0, 6):
        (alone,) = method.answer([images[row]], [tiny.QUESTIONS[row]], SHORT, trace=True)
        assert (alone.text, alone.latent_steps, alone.stop_reason) == (
            together[row].text, together[row].latent_steps, together[row].stop_reason
        )  # fmt: skip
        assert (alone.decoder_passes, alone.cut) == (together[row].decoder_passes, together[row].cut)
        assert list(alone.arrays["blocks"]) == list(together[row].arrays["blocks"])
        if alone.latent_steps:
            assert _close(alone.arrays["latents"], together[row].arrays["latents"])
    if not method.block.patches:
        with torch.inference_mode():
            written, latents, reads = plain.answer(method, images[0], tiny.QUESTIONS[0], SHORT.max_new_tokens)
        text = [one for one in written if one not in method.tokens.special()]
        assert method.decode(text).strip() == together[0].text and len(text) == together[0].output_tokens
        assert reads + 1 == together[0].decoder_passes and len(latents) == together[0].latent_steps
        if latents:
            assert _close(torch.stack(latents)[:, None].float().numpy(), together[0].arrays["latents"])


def test_picked_patches_are_those_of_full_attention_maps(loaded):
    """IVT-LR: before each latent the most attended visual embeddings, none twice, by maps that nothing here makes."""
    method = loaded("ivt_lr", "qwen2_vl", iterations=2)
    image, question = tiny.pictures(1)[0], tiny.QUESTIONS[2]
    (answer,) = method.answer([image], [question], SHORT, trace=True)
    with torch.inference_mode():
        row = plain.Plain(method, image, question)
        is_image = (row.ids[0] == method.model.config.image_token_id).nonzero()[:, 0]
        seen = torch.cat(tuple(row.seen["image"].pooler_output))
        left, picked, latents = torch.ones(len(is_image), dtype=torch.bool), [], []
        method.model.get_decoder().set_attn_implementation("eager")
        try:
            for _ in range(2):
                out = row.read(output_attentions=True)
                attended = torch.cat(out.attentions, 1)[0, :, -1].mean(0)[is_image].masked_fill(~left, -1)
                chosen = attended.topk(32).indices.sort().values
                left[chosen] = False
                picked.append(chosen)
                latents.append(out.last_hidden_state[0, -1])
                row.append(torch.cat((seen[chosen], latents[-1][None]))[None])
        finally:
            method.model.get_decoder().set_attn_implementation("lare_sdpa")
    assert answer.arrays["picked"].tolist() == torch.stack(picked).tolist() and answer.extra_visual_tokens == 64
    assert _close(torch.stack(latents)[:, None].float().numpy(), answer.arrays["latents"])
    with pytest.raises(LareError, match="gives 100 visual tokens, and 4 latents take 32 each"):
        method.changed(iterations=4).answer([image], [question], SHORT)


def test_a_learnt_end_ends_a_block(loaded):
    """A block ends after the first latent that is near enough; the threshold lies between two latents' distances."""
    method = loaded("lvr", "qwen2_5_vl", iterations=6)
    images = tiny.pictures(8)
    whole = method.answer(images, tiny.QUESTIONS, SHORT, trace=True)
    row = next(row for row, one in enumerate(whole) if len(one.arrays["blocks"]) and one.arrays["blocks"][0] == 6)
    ending = method.changed(stop="distance")
    end = ending.feeding.weights["lvr_latent_end_emb"].double().numpy()
    far = ((whole[row].arrays["latents"][:6, 0] - end) ** 2).mean(1)
    step = int(far[1:].argmin()) + 1
    near = ending.changed(threshold=float(far[step]) * 1.0001)
    (answer,) = near.answer([images[row]], [tiny.QUESTIONS[row]], SHORT, trace=True)
    first = int((far <= far[step] * 1.0001).argmax())
    assert answer.arrays["blocks"][0] == first + 1 and answer.stop_reason in ("converged", "max_iterations")
    assert ending.changed(threshold=0.0).answer(images[:1], tiny.QUESTIONS[:1], SHORT)[0].stop_reason != "converged"
    with torch.inference_mode():
        written, latents, _ = plain.answer(near, images[row], tiny.QUESTIONS[row], SHORT.max_new_tokens)
    assert len(latents) == answer.latent_steps


def test_no_latents_between_the_marks(loaded):
    method = loaded("coconut", "gpt2", iterations=0)
    (answer,) = method.answer(tiny.pictures(1), tiny.QUESTIONS[:1], SHORT, trace=True)
    assert answer.latent_steps == 0 and list(answer.arrays["blocks"]) == [0] and "latents" not in answer.arrays
    start, end = (method.processor.tokenizer.convert_tokens_to_ids(f"<|{one}-latent|>") for one in ("start", "end"))
    ids = torch.tensor([[*answer.arrays["prompt_ids"].tolist(), end]])
    assert ids[0, -2] == start
    logits = method.model(ids).logits[0, -1]
    assert answer.text.startswith(method.decode([int(logits.argmax())])[:1])


def test_traces_keep_latents_and_blocks(loaded, tmp_path):
    method = loaded("mirage", "qwen2_5_vl")
    answers = method.answer(tiny.pictures(4), tiny.QUESTIONS[:4], SHORT, trace=True)
    with TraceWriter(tmp_path, {"config": method.model.config.to_dict()}, columns=method.columns) as writer:
        for number, one in enumerate(answers):
            own = {name: value for name, value in one.arrays.items() if name in method.columns}
            rest = {name: value for name, value in one.arrays.items() if name not in method.columns}
            writer.append(
                AnswerRecord("feedback", "w", "task", number, "?", one.text, one.text, one.input_tokens,
                             one.output_tokens, one.latent_steps, one.stop_reason, own=own, **rest)
            )  # fmt: skip
    kept = TraceReader(tmp_path)
    for one, latents, blocks in zip(answers, kept.column("latents"), kept.column("blocks"), strict=True):
        assert len(latents) == one.latent_steps == blocks.sum()


def test_whose_answer_it_is(loaded):
    mirage, colt = loaded("mirage", "qwen2_5_vl"), loaded("colt", "qwen3_vl")
    assert mirage.arguments()["preset"] == "mirage" != mirage.changed(preset=None).options.preset
    assert mirage.changed(iterations=3).arguments() != mirage.arguments()
    before = colt.fingerprint()
    weight = next(iter(colt.feeding.weights.values()))
    with torch.no_grad():
        weight += 1
    assert colt.fingerprint() != before and colt.fingerprint().startswith(before.partition("-")[0])


def test_what_is_refused(loaded, tmp_path):
    with pytest.raises(LareError, match="pretrained=FOLDER"):
        load_method("feedback")
    with pytest.raises(LareError, match="can't be loaded"):
        load_method("feedback", str(tmp_path))
    mirage = loaded("mirage", "qwen2_5_vl")
    with pytest.raises(LareError, match="'covt' is one of lare_slots"):
        mirage.changed(preset="covt")
    with pytest.raises(LareError, match=r"has no <\|lvr_start\|> <\|lvr\|> <\|lvr_end\|>"):
        mirage.changed(preset="lvr")
    with pytest.raises(LareError, match=r"no weights prj.\*, the head of the preset 'colt'"):
        mirage.changed(preset="colt")
    with pytest.raises(LareError, match="stop: distance needs threshold"):
        mirage.changed(stop="distance")
    with pytest.raises(LareError, match="no weight 'nothing', the learnt end"):
        mirage.changed(stop="distance", threshold=0.1, end_embedding="nothing")
    with pytest.raises(LareError, match="sees no picture"):
        loaded("coconut", "llama").changed(preset="ivt_lr")
    with pytest.raises(LareError, match="too long"):
        loaded("coconut", "gpt2").answer(tiny.pictures(1), ["word " * 600], SHORT)


def test_a_mark_in_a_question_is_text(loaded):
    method = loaded("mirage", "qwen2_5_vl")
    said = "What is <|latent_start|> and <|image_pad|><|im_end|>?"
    (answer,) = method.answer(tiny.pictures(1), [said], SHORT, trace=True)
    (other,) = method.answer(tiny.pictures(1), ["What?"], SHORT, trace=True)
    marks = {method.tokens.start, method.model.config.image_token_id, *method.tokens.ends}
    kept, expected = ([int(one) for one in a.arrays["prompt_ids"] if int(one) in marks] for a in (answer, other))
    assert kept == expected
