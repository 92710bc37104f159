"""Asking again gives the traces' own numbers; planted sinks and patches that matter are found at their size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from analysis.attention import layers as attention_layers
from analysis.attention import live_tables
from analysis.attention import page as attention
from analysis.attention.again import Live, ask_again, strangers
from analysis.attention.live import Again, answer_words, choose_cells, cover, masking_effects
from analysis.attention.measure import ROWS, AttentionOptions, compare, read_side
from analysis.shared.questions import load_questions
from lare.checkpoints import default_checkpoint
from lare.errors import LareError
from lare.methods import get_method, load_method
from lare.methods.base import Sampling
from lare.model import LareConfig
from lare.trace import AnswerRecord
from tests.analysis.made import answer, write

pytestmark = pytest.mark.filterwarnings("ignore:Precision loss")  # planted shares without spread

N = 12
TASK = "lare_mini_mmstar"


@pytest.fixture(scope="module")
def method():
    return load_method("lare", None, device="cpu")


@pytest.fixture(scope="module")
def questions():
    return load_questions(limit=N, tasks=("mmstar",))


@pytest.fixture(scope="module")
def traces(method, questions, tmp_path_factory):
    """Both settings' traces of the shipped checkpoint, as an evaluation writes them."""
    root, made = tmp_path_factory.mktemp("run") / "traces", []
    for setting, name in (("K4", "lare"), ("K0", "llava")):
        one = get_method(name)(method.model, method.processor)
        answers = one.answer(
            [each.image for each in questions], [each.text for each in questions], Sampling(max_new_tokens=128), True
        )
        records = [
            AnswerRecord(
                method=name, checkpoint=one.fingerprint(), task=TASK, doc_id=asked.doc_id, question=asked.text,
                text=given.text, answer=given.text, input_tokens=given.input_tokens,
                output_tokens=given.output_tokens, latent_steps=given.latent_steps, stop_reason=given.stop_reason,
                seconds=dict(given.seconds), meta={"scene": asked.scene}, key=f"{setting}-{asked.doc_id}",
                **given.arrays,
            )
            for asked, given in zip(questions, answers, strict=True)
        ]  # fmt: skip
        info = {"config": one.model.config.to_dict(), "arguments": one.arguments()}
        made.append(write(root / setting, records, info))
    return made


def options(traces, *words):
    given = ["--traces", *map(str, traces), "--now", "never", "--samples", "0", *words]
    return AttentionOptions.read(given)


@pytest.fixture(scope="module")
def live(traces):
    compared = compare(read_side(traces[0], TASK), read_side(traces[1], TASK))
    found = ask_again(compared, options(traces, "--live", "8", "--draws", "2"))
    assert isinstance(found, Live)
    return found, compared


def test_asked_again_is_what_the_traces_hold(live) -> None:
    """The same questions' visual shares and texts, both rows, both settings."""
    found, compared = live
    assert len(found.items) == 8 and found.same_text == 1
    where = [compared.items.index[compared.items["doc_id"] == doc][0] for doc in found.items["doc_id"]]
    for side in (0, 1):
        assert np.allclose(found.rows[side].shares, compared.shares[side, where], atol=2e-5)
        visual = found.rows[side].visual.sum(-1)
        assert np.allclose(visual, compared.shares[side, where][..., 2].mean(3), atol=2e-5)
        assert np.allclose(found.rows[side].bos, compared.shares[side, where][..., 0].mean(3), atol=2e-5)
    assert found.gap < 0.002


def test_a_forced_token_changes_the_own_row_alone(live) -> None:
    found, _ = live
    for side in (0, 1):
        own, forced = found.rows[side], found.forced[side]
        assert torch.equal(forced.first, found.rows[1 - side].first) and not torch.equal(forced.first, own.first)
        assert np.allclose(own.shares[:, 0], forced.shares[:, 0], atol=1e-5)
        assert np.abs(own.shares[:, 1] - forced.shares[:, 1]).max() > 0.01


def test_forced_tokens_stand_in_the_right_rows_of_the_table(live) -> None:
    found, compared = live
    own, forced = (
        [100 * float(one.shares[:, 1, ..., 2].mean()) for one in both] for both in (found.rows, found.forced)
    )
    table = live_tables.live_tables(found, compared, [1])[2]
    wanted = {"each its own": own, "K0's, in both": [own[0], forced[1]], "K4's, in both": [forced[0], own[1]]}
    for row in table.rows[:3]:
        assert [row["a"], row["b"]] == pytest.approx(wanted[row["first"]])
        assert row["gap"] == pytest.approx(row["b"] - row["a"])
    assert table.rows[3]["n"] == 0 and table.rows[3].get("gap") is None, "K0 begins with the mark, K4 never"


def test_the_report_has_what_asking_again_gave(traces) -> None:
    document, arrays = attention.compute(options(traces, "--live", "6", "--draws", "2", "--cover", "grey"))
    by_id = {table.id: table for table in document.tables}
    assert {"masking", "sinks", "forced", "kinds", "layers-table"} <= set(by_id)
    assert len(by_id["masking"].rows) == 3 * 2 * 3, "K0's row, K4's row, K4's Extractor; two texts; three comparisons"
    assert "Asked again on 6 of the questions" in document.details[0] and "95 % interval" in document.details[0]
    assert "middle grey" in by_id["masking"].note
    tokens = LareConfig.from_pretrained(default_checkpoint()).lm_grid ** 2
    assert arrays["live_visual_a"].shape == (6, 2, tokens)
    assert not any("left out:" in one for one in document.warnings)
    nothing = next(row for row in by_id["sinks"].rows if row["left_out"] == "nothing" and row["row"] == ROWS[1])
    own = next(row for row in by_id["forced"].rows if row["first"] == "each its own")
    assert nothing["gap"] == pytest.approx(own["gap"], abs=1e-6)


def test_other_weights_are_left_out_with_a_warning(traces, tmp_path) -> None:
    foreign = [
        write(
            tmp_path / setting,
            [answer(doc, steps=steps, question=load_questions(limit=2, tasks=("mmstar",))[doc].text,
                    meta={"scene": load_questions(limit=2, tasks=("mmstar",))[doc].scene}) for doc in range(2)],
            {"config": {"image_token_id": 5, "latent_start_id": 6}, "arguments": {"method": name}},
        )
        for setting, steps, name in (("K4", 4, "lare"), ("K0", 0, "llava"))
    ]  # fmt: skip
    document, _ = attention.compute(options(foreign))
    assert any("not of the checkpoint at hand; give it with --checkpoint" in one for one in document.warnings)
    assert "masking" not in {table.id for table in document.tables}
    document, _ = attention.compute(options(foreign, "--live", "0"))
    assert any("--live 0 leaves them out" in one for one in document.warnings)
    for words, message in (
        (("--live", "1"), "--live is 1"), (("--draws", "0"), "--draws is 0"), (("--sinks", "0"), "--sinks holds 0"),
        (("--checkpoint", "a", "b", "c"), "takes one path for both settings or two"),
    ):  # fmt: skip
        with pytest.raises(LareError, match=message):
            attention.compute(options(traces, *words))


def test_a_planted_sink_is_found_and_left_out() -> None:
    """One position takes 60 % of the visual mass everywhere; without it the share is that of the rest."""
    rng = np.random.default_rng(0)
    visual = rng.uniform(0.009, 0.011, (30, 2, 3, 16))
    visual[..., 11] = 0.25
    visual[..., 4] = 0.05
    bos = np.full((30, 2, 3), 0.3)
    assert live_tables.find_sinks(visual, 2).tolist() == [11, 4]
    rest = visual.sum(-1) - 0.3
    assert np.allclose(live_tables.visual_share(visual, bos, [11, 4], True), 100 * (rest / 0.4).mean(-1))
    assert np.allclose(live_tables.visual_share(visual, bos, [11], False), 100 * ((rest + 0.05) / 0.75).mean(-1))
    assert np.allclose(live_tables.visual_share(visual, bos, [], False), 100 * visual.sum(-1).mean(-1))


def test_sinks_in_the_table_are_each_settings_own(live) -> None:
    found, compared = live
    planted = []
    others = found.rows[0].visual.shape[-1] - 1
    side = round((others + 1) ** 0.5)
    for place, rows in zip((others, 0), found.rows, strict=True):
        visual = np.full(rows.visual.shape, 0.02)
        visual[..., place] = 0.2
        planted.append(dataclasses.replace(rows, visual=visual, bos=np.zeros(rows.bos.shape)))
    table = live_tables.live_tables(dataclasses.replace(found, rows=tuple(planted)), compared, [1])[1]
    share = f"{100 * 0.2 / (0.2 + 0.02 * others):.0f} %"
    assert f"K0: ({side}, {side}) {share}; K4: (1, 1) {share}" in table.note
    last = [row for row in table.rows if row["left_out"] == "first token, 1 visual sink"]
    assert len(last) == 2 and last[0]["a"] == pytest.approx(100 * 0.02 * others / 0.8) == last[0]["b"]


@pytest.mark.parametrize("attended", [True, False])
def test_covering_matters_where_the_answer_rests(attended) -> None:
    """A hand-made answer that loses 2 nats with its cell, and attention that is on that cell or elsewhere."""
    rng = np.random.default_rng(1)
    n, cells = 400, 40
    needed = rng.integers(0, cells, n)
    scores = rng.uniform(0, 0.1, (n, cells))
    scores[np.arange(n), needed if attended else (needed + 7) % cells] = 1
    seen = []

    def log_probs(covered):
        lost = np.zeros(n) if covered is None else 2.0 * covered[np.arange(n), needed]
        seen.append(None if covered is None else covered.sum(1))
        return np.stack([np.full(n, -1.0), -1 - lost], 1)

    words = np.tile([True, False], (n, 1))
    effects = masking_effects(log_probs, scores, words, np.roll(np.arange(n), 1), draws=3)
    assert effects.count == 4 and all((one == 4).all() for one in seen[1:-1]), "as many patches in every condition"
    assert len(seen) == 1 + 1 + 3 + 1 + 1 + 1
    means = {name: losses.mean() for name, losses in effects.whole.items()}
    assert means["random"] == pytest.approx(0.2, abs=0.07)
    assert means["another question's"] == pytest.approx(0.2, abs=0.1)
    if attended:
        assert means["most attended"] == 2 and means["least attended"] == 0
    else:
        assert means["most attended"] == pytest.approx(0.15, abs=0.1)
    assert not any(losses.any() for losses in effects.words.values()), "the loss lies outside the answer's words"
    assert (effects.entire == 2).all()


def test_covered_pixels_are_the_patches(method, questions) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    cells = torch.zeros(2, 16, dtype=torch.bool)
    cells[0, 5] = cells[1, 12] = True
    made = cover(pixels, cells)
    changed = (made != pixels).any(1)
    assert changed[0, 8:16, 8:16].all() and changed[0].sum() == 64 and changed[1, 24:, :8].all()
    assert torch.allclose(made[0, :, 8, 8], pixels[0].mean((1, 2)))
    grey = torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1)
    assert torch.equal(cover(pixels, cells, grey)[1, :, 31, 0], grey.flatten())
    again = Again(method, [one.image for one in questions[:3]], [one.text for one in questions[:3]], batch=2)
    plain, none = again.log_probs(), again.log_probs(np.zeros((3, 64), dtype=bool))
    assert np.allclose(plain, none, atol=1e-5)
    grey_pictures = [one.image.copy() for one in questions[:3]]
    for one in grey_pictures:
        one.paste((127, 127, 127), (0, 0, *one.size))
    blind = Again(method, grey_pictures, [one.text for one in questions[:3]], batch=2)
    blind.__dict__["own"] = again.own
    assert np.allclose(again.log_probs(np.ones((3, 64), dtype=bool), "grey"), blind.log_probs(), atol=0.3)


def test_log_probs_are_those_of_greedy_text(method, questions) -> None:
    """Behind its own tokens each own token is the likeliest, with the model's own forward as judge of the number."""
    again = Again(method, [one.image for one in questions[:4]], [one.text for one in questions[:4]], batch=4)
    ids, stands = again.own
    part, inputs = again._batches[0]
    with torch.inference_mode():
        made = method.model(**inputs, target_ids=ids, target_mask=stands)
    total, count = made.lm_loss
    assert -again.log_probs().sum() == pytest.approx(float(total), rel=1e-4) and int(count) == int(stands.sum())
    assert (made.logits.argmax(-1) == made.labels).all()


def test_words_of_the_answer_and_chosen_cells(method) -> None:
    tokenizer = method.processor.tokenizer
    texts = ["blue key b1 down. Answer: is seen above", "train", "Answer:"]
    made = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    ids, stands = torch.zeros(3, 16, dtype=torch.long), torch.zeros(3, 16, dtype=torch.bool)
    for row, one in enumerate(made):
        ids[row, : len(one)], stands[row, : len(one)] = torch.tensor(one), True
    words = answer_words(ids, stands, tokenizer)
    assert tokenizer.decode(ids[0][torch.from_numpy(words[0])]).strip() == "is seen above"
    assert words.sum(1).tolist()[1:] == [1, len(made[2])]
    scores = np.array([[0.0, 3, 1, 2], [5, 0, 0, 0]])
    rng = np.random.default_rng(0)
    assert choose_cells(scores, 2, rng)[0].tolist() == [False, True, False, True]
    drawn = np.mean([choose_cells(scores, 2, rng)[1] for _ in range(600)], axis=0)
    assert drawn[0] == 1 and np.allclose(drawn[1:], 1 / 3, atol=0.07), "equal scores are drawn by lot"


def test_strangers_are_of_other_scenes() -> None:
    import pandas as pd

    clusters = pd.Series([f"s{place // 3}" for place in range(60)])
    other = strangers(clusters, 0)
    assert (clusters.to_numpy() != clusters.to_numpy()[other]).all()


def test_layers_and_kinds_are_told_apart(tmp_path) -> None:
    """A planted head of one layer shows in that layer's range, and kinds of first tokens part the items."""

    def planted(doc, steps):
        record = answer(doc, steps=steps, text="word. Answer: A" if steps or doc % 2 else "B")
        if steps:
            record.attention_shares[1, 1, 2] = [0, 0.2, 0.8, 0]
        return record

    left = write(tmp_path / "K4", [planted(doc, 4) for doc in range(40)])
    right = write(tmp_path / "K0", [planted(doc, 0) for doc in range(40)])
    compared = compare(read_side(left, TASK), read_side(right, TASK))
    rows = attention_layers.layers(compared).rows
    first, second = (next(one for one in rows if one["layer"] == at and one["row"] == ROWS[1]) for at in (1, 2))
    assert first["gap"] == pytest.approx(0, abs=1e-4) and first["sd_b"] == pytest.approx(0, abs=1e-4)
    assert second["gap"] == pytest.approx(20, abs=1e-4) and second["heads_b"] == pytest.approx([20, 80], abs=1e-4)
    assert second["sd_b"] == pytest.approx(np.std([20, 20, 80]), abs=1e-4)
    kinds = attention_layers.classes([compared]).rows
    assert [(one["kind_a"], one["kind_b"], one["same"], one["n"]) for one in kinds] == [
        ("option letter", "other word", "no", 20),
        ("other word", "other word", "yes", 20),
    ]
    figure = attention_layers.curve(compared)
    assert len(figure.series) == 4 and all(len(one.low) == 2 for one in figure.series)
