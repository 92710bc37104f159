"""Opening, framing and pairing traces; every kind of broken trace ends in a message that names it."""

from __future__ import annotations

import json

import pytest

from analysis.shared import traces
from lare.errors import LareError
from tests.analysis.made import answer, demo, write


def test_a_frame_has_every_answer_with_its_facts(tmp_path):
    write(tmp_path / "K4", [answer(2), answer(1, tokens=7), answer(3, stop_reason="error: too long")])
    reader = traces.open_traces([tmp_path / "K4"])
    table = traces.frame(reader, {"lare_mini_mmstar": {1: 1.0, 2: 0.0, 3: 0.0}})
    assert list(table["doc_id"]) == [2, 1, 3] and list(table["row"]) == [0, 1, 2]
    assert list(table["output_tokens"]) == [10, 7, 10]
    assert list(table["cluster"]) == ["scene 1", "scene 0", "scene 1"]
    assert table["seconds"].tolist() == pytest.approx([0.03] * 3)
    assert list(table["right"]) == [False, True, False]
    assert list(table["failed"]) == [False, False, True]
    assert list(table["target"]) == ["A"] * 3 and list(table["hops"]) == [2, 1, 0]
    unscored = traces.frame(reader)
    assert unscored["score"].isna().all() and unscored["right"].isna().all()


def test_rows_of_a_frame_belong_to_rows_of_an_array_column(tmp_path):
    run = demo(tmp_path)
    reader = traces.open_traces([run / "traces" / "K4"]).select(task="lare_mini_pope")
    table = traces.frame(reader)
    shares = reader.column("attention_shares")
    by_record = {record.doc_id: float(record.attention_shares[1, 0, 0, 2]) for record in reader}
    for doc, row in zip(table["doc_id"], table["row"], strict=True):
        assert float(shares[row][1, 0, 0, 2]) == by_record[doc]


def test_targets_in_words_and_clusters_by_whatever_is_known():
    assert traces._target({"answer": 1, "choices": ["x", "y"]}) == "B. y"
    assert traces._target({"answer": "yes"}) == "yes" and traces._target({}) is None
    assert traces.cluster_of("t", 3, {"scene": "s"}) == "s"
    assert traces.cluster_of("pope", 3, {"image_source": "COCO_1"}) == "COCO_1"
    assert traces.cluster_of("mmvp", 3, {"Index": 3}) == traces.cluster_of("mmvp", 4, {"Index": 4})
    assert traces.cluster_of("mmvp", 3, {"Index": 2}) != traces.cluster_of("mmvp", 4, {"Index": 3})
    assert traces.cluster_of("mmbench_en", 3, {"index": 2_000_007}) == "mmbench_en/7"
    assert traces.cluster_of("t", 3, {}) == ""


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "torn", "versions", "checkpoints", "methods", "damaged", "headless"]
)
def test_unusable_traces_are_named(tmp_path, damage):
    folder = tmp_path / "trace one"
    if damage == "missing":
        expected = "no trace directory"
    elif damage == "empty":
        write(folder, [])
        expected = "holds no answer"
    else:
        write(folder, [answer(1), answer(2)])
        (shard,) = folder.glob("shard-*")
        rows = shard / "rows.jsonl"
        if damage == "torn":
            rows.write_bytes(rows.read_bytes()[:-20])
            expected = "cut off in its last line"
        elif damage == "damaged":
            rows.write_bytes(b"{broken}\n" + rows.read_bytes())
            expected = "damaged line"
        elif damage == "versions":
            write(folder, [answer(3)])
            header = shard / "shard.json"
            header.write_text(json.dumps({**json.loads(header.read_text()), "version": 0}))
            expected = "different format versions"
        elif damage == "checkpoints":
            write(folder, [answer(3, checkpoint="bbbb")])
            expected = "more than one checkpoint .aaaa, bbbb"
        elif damage == "methods":
            write(folder, [answer(3, steps=0)])
            expected = "more than one method"
        else:
            rows.unlink()
            expected = "has no rows.jsonl"
    with pytest.raises(LareError, match=expected) as raised:
        traces.open_traces([folder])
    assert "trace one" in str(raised.value)
    with pytest.raises(LareError, match="no traces were given"):
        traces.open_traces([])


def test_a_cut_array_file_is_named_when_it_is_read(tmp_path):
    folder = write(tmp_path / "t", [answer(1), answer(2)])
    (file,) = folder.glob("shard-*/attention_shares.bin")
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(LareError, match="attention_shares.*was cut"):
        traces.open_traces([folder]).column("attention_shares")


def test_pairs_by_item_and_never_intersects(tmp_path):
    left = traces.frame(traces.open_traces([write(tmp_path / "a", [answer(doc) for doc in (3, 1, 2)])]))
    right = traces.frame(traces.open_traces([write(tmp_path / "b", [answer(doc, steps=0) for doc in (2, 3, 1)])]))
    both = traces.pair(left, right)
    assert list(both["doc_id"]) == [1, 2, 3]
    assert list(both["latent_steps_a"]) == [4] * 3 and list(both["latent_steps_b"]) == [0] * 3
    assert list(both["row_a"]) == [1, 2, 0] and list(both["row_b"]) == [2, 0, 1]
    with pytest.raises(LareError, match="only LaRe has 1: lare_mini_mmstar 1") as raised:
        traces.pair(left, right[right["doc_id"] != 1], ("LaRe", "LLaVA"))
    assert "only LLaVA" not in str(raised.value)
    other = right.assign(question="another?")
    with pytest.raises(LareError, match="different questions under one number"):
        traces.pair(left, other)


def test_a_question_answered_twice_is_refused(tmp_path):
    folder = write(tmp_path / "t", [answer(1, key="x"), answer(1, key="y")])
    with pytest.raises(LareError, match="more than once .lare_mini_mmstar 1"):
        traces.frame(traces.open_traces([folder]))


def test_the_newest_finished_demo_run(tmp_path):
    with pytest.raises(LareError, match="make demo"):
        traces.demo_run(tmp_path)
    run = demo(tmp_path, n=4)
    (tmp_path / "20310101_000000").mkdir()
    assert traces.demo_run(tmp_path) == run, "a run without a summary has not finished"
    assert traces.demo_traces("K0", tmp_path).name == "K0"
    with pytest.raises(LareError, match="no setting 'fine'; it has K0, K4"):
        traces.demo_traces("fine", tmp_path)
    scores = traces.read_scores(run / "scores" / "K4.json")
    assert set(scores) == {"lare_mini_mmstar", "lare_mini_pope"} and set(scores["lare_mini_pope"]) == set(range(4))
    with pytest.raises(LareError, match="there are no scores"):
        traces.read_scores(run / "scores" / "fine.json")
    assert traces.scores_beside([run / "traces" / "K4"]) == scores
    assert traces.scores_beside([tmp_path / "20310101_000000"]) is None
    reader = traces.open_traces([run / "traces" / "K4"])
    with pytest.raises(LareError, match="4 answers of .* have no score"):
        traces.frame(reader, {"lare_mini_mmstar": scores["lare_mini_mmstar"]})


def test_settings_in_words():
    assert traces.described("K4") == "K4 (4 latent steps, then text)"
    assert traces.described("K0") == "K0 (answers at once)"
    assert traces.described("my run") == "my run" and traces.described("Kite") == "Kite"
