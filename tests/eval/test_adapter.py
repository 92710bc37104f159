"""The adapter: same answers in every batching, honest counts, nothing lost to a bad question, resumed after a kill."""

from __future__ import annotations

import os
import signal

import pytest
from PIL import Image

from lare import LareError
from lare.trace import TraceReader

from .conftest import FakeMethod, Rows, make_rows, requests_for


@pytest.fixture
def tables():
    return {"pope": make_rows(9), "choice": make_rows(8, "choice")}


def test_same_replies_at_every_batch_size_and_tasks_mix(adapter_of, tables):
    replies = {}
    for size in (1, 3, 16):
        method = FakeMethod()
        adapter = adapter_of(method, tables, batch_size=size)
        replies[size] = adapter.generate_until(requests_for(tables))
        assert max(len(questions) for questions, _ in method.calls) <= size
    assert replies[1] == replies[3] == replies[16]
    assert len(method.calls[0][0]) == 16 and len({q.partition(" ")[0] == "Is" for q in method.calls[0][0]}) == 2
    assert {text for text, _ in replies[1][:9]} <= {"yes", "no"}
    assert {text for text, _ in replies[1][9:]} <= set("ABCD")


def test_replies_come_in_the_order_of_the_requests(adapter_of, tables):
    adapter = adapter_of(FakeMethod(), tables, batch_size=4)
    requests = requests_for(tables)
    forwards = adapter.generate_until(requests)
    assert adapter.generate_until(requests[::-1]) == forwards[::-1]


def test_counts_are_a_dictionary_and_token_counts(adapter_of, tables):
    from lmms_eval.api.instance import TokenCounts, unwrap_generation_output

    reply = adapter_of(FakeMethod(), tables).generate_until(requests_for(tables))[0]
    text, counts = unwrap_generation_output(reply)
    assert isinstance(counts, TokenCounts) and isinstance(counts, dict)
    assert counts.to_dict() == {"input_tokens": 9, "output_tokens": 6, "reasoning_tokens": 2}
    assert text in ("yes", "no")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_new_tokens": 16, "until": ["\n\n"], "temperature": 0, "do_sample": False}, (16, 0.0, ())),
        ({"until": ["\n\n"]}, (256, 0.0, ())),
        ({"max_new_tokens": 7, "until": ["ASSISTANT:", "\n"]}, (7, 0.0, ("ASSISTANT:",))),
        ({"temperature": 0.7, "do_sample": False, "top_p": 0.5}, (256, 0.7, ())),
        ({"do_sample": True}, (256, 1.0, ())),
    ],
)
def test_generation_arguments_are_honoured(adapter_of, tables, arguments, expected):
    method = FakeMethod()
    adapter_of(method, tables).generate_until(requests_for(tables, arguments)[:1])
    sampling = method.calls[0][1]
    assert (sampling.max_new_tokens, sampling.temperature, sampling.stop) == expected
    assert sampling.top_p == arguments.get("top_p", 1.0)


def test_own_max_new_tokens_replaces_the_tasks(adapter_of, tables):
    method = FakeMethod()
    adapter_of(method, tables, max_new_tokens=99).generate_until(requests_for(tables, {"max_new_tokens": 16})[:1])
    assert method.calls[0][1].max_new_tokens == 99


def test_beams_are_refused(adapter_of, tables):
    with pytest.raises(LareError, match="num_beams is 4"):
        adapter_of(FakeMethod(), tables).generate_until(requests_for(tables, {"num_beams": 4}))


def test_repeats_are_answered_once_if_greedy_and_each_if_sampled(adapter_of, tables):
    greedy, sampled = FakeMethod(), FakeMethod()
    one = requests_for({"pope": tables["pope"]})[:1]
    assert len(adapter_of(greedy, tables).generate_until(one * 3)) == 3
    assert greedy.asked == 1
    drawn = requests_for({"pope": tables["pope"]}, {"temperature": 1.0})[:1]
    adapter_of(sampled, tables).generate_until(drawn * 3)
    assert sampled.asked == 3
    assert len({sampling.seed for _, sampling in sampled.calls}) == 3


def bad_rows() -> Rows:
    rows = make_rows(8)
    rows[1] = OSError("image file is truncated (3 bytes not processed)")
    rows[2] = Image.DecompressionBombError("Image size (400000000 pixels) exceeds limit")
    rows[3]["image"] = None
    rows[4]["images"] = [rows[5]["image"], rows[6]["image"]]
    rows[5]["question"] = "  "
    rows[6]["question"] = "SPOILED " + "word " * 10_000
    return rows


def test_bad_questions_cost_the_others_nothing(adapter_of, tmp_path, capsys):
    good = make_rows(8)
    tables = {"pope": bad_rows(), "choice": make_rows(3, "choice")}
    replies = adapter_of(FakeMethod(), tables, batch_size=16, trace=tmp_path / "t").generate_until(requests_for(tables))
    expected = adapter_of(FakeMethod(), {"pope": good}).generate_until(requests_for({"pope": good}))
    assert replies[0] == expected[0] and replies[7] == expected[7]
    for text, counts in replies[1:7]:
        assert text == "" and counts["unanswered"] == 1 and counts["output_tokens"] == 0
    assert all("unanswered" not in counts for _, counts in replies[8:])
    trace = TraceReader(tmp_path / "t")
    reasons = {row: reason for row, reason in zip(trace.column("doc_id"), trace.column("stop_reason"), strict=True)
               if reason.startswith("error")}  # fmt: skip
    assert "truncated" in reasons[1] and "pixels" in reasons[2] and "0 images" in reasons[3]
    assert "2 images" in reasons[4] and "empty" in reasons[5] and "too long" in reasons[6]


def test_unanswered_choices_score_as_wrong_without_asking_anybody(adapter_of):
    rows = make_rows(1, "choice")
    rows[0]["images"] = []
    text, _ = adapter_of(FakeMethod(), {"choice": rows}).generate_until(requests_for({"choice": rows}))[0]
    assert text == "E"


def test_a_kept_answer_is_not_made_again(adapter_of, tables, tmp_path):
    first, second = FakeMethod(), FakeMethod()
    replies = adapter_of(first, tables, resume=tmp_path).generate_until(requests_for(tables))
    again = adapter_of(second, tables, resume=tmp_path).generate_until(requests_for(tables))
    assert again == replies and first.asked == 17 and second.asked == 0
    for other in (FakeMethod(version="2"), FakeMethod()):  # other weights; other arguments
        if other.version == "1":
            other.arguments = lambda: {"method": "fake", "iterations": 2}
        adapter_of(other, tables, resume=tmp_path).generate_until(requests_for(tables))
        assert other.asked == 17
    third = FakeMethod()
    adapter_of(third, tables, resume=tmp_path).generate_until(requests_for(tables, {"max_new_tokens": 3}))
    assert third.asked == 17


def test_other_pictures_and_missing_traces_are_asked_again(adapter_of, tables, tmp_path):
    adapter_of(FakeMethod(), tables, resume=tmp_path / "r").generate_until(requests_for(tables))
    tables["pope"][3]["image"] = Image.new("RGB", (8, 8))
    changed = FakeMethod()
    adapter_of(changed, tables, resume=tmp_path / "r").generate_until(requests_for(tables))
    assert changed.asked == 1
    traced = FakeMethod()
    for _ in range(2):
        options = {"resume": tmp_path / "r", "trace": tmp_path / "t"}
        adapter_of(traced, tables, **options).generate_until(requests_for(tables))
    assert traced.asked == 17 and len(TraceReader(tmp_path / "t")) == 17


def test_killed_evaluation_goes_on_where_it_stopped(adapter_of, tables, tmp_path):
    options = {"resume": tmp_path / "r", "trace": tmp_path / "t", "batch_size": 4}
    child = os.fork()
    if child == 0:  # pragma: no cover - dies by SIGKILL
        method = FakeMethod()
        answer = method.answer

        def killed(*arguments, **more):
            if len(method.calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer(*arguments, **more)

        method.answer = killed
        try:
            adapter_of(method, tables, **options).generate_until(requests_for(tables))
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(TraceReader(tmp_path / "t")) == 8
    method = FakeMethod()
    replies = adapter_of(method, tables, **options).generate_until(requests_for(tables))
    assert method.asked == 17 - 8
    assert replies == adapter_of(FakeMethod(), tables).generate_until(requests_for(tables))
    trace = TraceReader(tmp_path / "t")
    assert len(trace) == 17
    assert sorted(set(zip(trace.column("task"), trace.column("doc_id"), strict=True))) == sorted(
        (task, doc) for task, rows in tables.items() for doc in range(len(rows))
    )


def test_trace_holds_what_was_asked_and_answered(adapter_of, tables, tmp_path):
    adapter_of(FakeMethod(), tables, trace=tmp_path, batch_size=8).generate_until(requests_for(tables))
    reader = TraceReader(tmp_path)
    record = next(iter(reader.select(task="pope", doc_id=0)))
    assert record.method == "fake" and record.checkpoint == "weights1"
    assert record.question == tables["pope"][0]["question"]
    assert record.text.startswith("So it is") and record.answer in ("yes", "no")
    assert record.latents.shape == (2, 1, 8) and record.attention_shares.shape == (2, 2, 2, 4)
    assert record.meta["hops"] == 0 and record.meta["category"] == "random" and "image" not in record.meta
    assert reader.infos[0]["arguments"] == {"method": "fake"}


def test_a_model_can_be_evaluated_twice(adapter_of, tables):
    adapter = adapter_of(FakeMethod(), tables)
    replies = adapter.generate_until(requests_for(tables))
    adapter.clean()
    assert adapter.generate_until(requests_for(tables)) == replies


def test_arguments_are_checked_with_one_clear_message():
    from lare_eval.adapter import LareAdapter
    from lare_eval.models import lare, llava

    method = FakeMethod()
    for options, message in [
        ({"colour": "red", "wndow": 3}, "unknown --model_args colour, wndow; known are pretrained"),
        ({"batch_size": "many"}, "batch_size is 'many'"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"method": "nothing"}, "no method 'nothing'; choose from"),
        ({"stop": "cosin:3"}, "stop is 'cosin:3'"),
        ({"iterations": -1}, "iterations is -1"),
        ({"window": 2.5}, "window is 2.5"),
    ]:
        with pytest.raises(LareError, match=message):
            LareAdapter(model=method, **options)
    assert LareAdapter(model=method, batch_size="auto").batch_size == 16
    with pytest.raises(
        LareError, match="unknown --model_args iterations; known are pretrained, .* and of the method 'llava' image"
    ):
        llava(model=method, iterations=4)
    with pytest.raises(LareError, match="can't be read"):
        lare.create_from_arg_string("pretrained")
    with pytest.raises(LareError, match="no checkpoint folder"):
        lare.create_from_arg_string("pretrained=/nowhere/at/all", {"batch_size": 1, "device": None})


def test_model_args_win_over_flags():
    from lare_eval.adapter import LareAdapter

    adapter = LareAdapter.create_from_arg_string({"batch_size": 8, "model": FakeMethod()}, {"batch_size": 1})
    assert adapter.batch_size == 8


def test_the_registry_offers_every_method():
    from lmms_eval.models import get_model, list_available_models

    from lare.methods import method_names
    from lare_eval.manifest import manifests, model_id

    assert {manifest.model_id for manifest in manifests()} == {model_id(name) for name in method_names()}
    if "lare" in list_available_models():  # the package is installed, not just on the path
        assert get_model("lare").method_name == "lare" and get_model("lare_llava").method_name == "llava"


def test_unsupported_requests_are_refused(adapter_of, tables):
    adapter = adapter_of(FakeMethod(), tables)
    with pytest.raises(LareError, match="likelihood"):
        adapter.loglikelihood([])
    with pytest.raises(LareError, match="several rounds"):
        adapter.generate_until_multi_round([])
