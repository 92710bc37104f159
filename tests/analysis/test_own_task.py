"""Every analysis that asks a model runs on somebody else's task, with its own scorer and no drawn world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.adaptive.measure import AdaptiveOptions
from analysis.adaptive.page import compute as adaptive
from analysis.attention.measure import AttentionOptions
from analysis.attention.page import compute as attention
from analysis.controls.measure import ControlsOptions
from analysis.controls.page import compute as controls
from analysis.heatmaps.measure import HeatmapsOptions
from analysis.heatmaps.page import NO_BOXES
from analysis.heatmaps.page import compute as heatmaps
from analysis.probe.measure import NO_RATIONALES, ProbeOptions
from analysis.probe.page import compute as probe
from analysis.reconstruct.measure import NO_TRAINING, ReconstructOptions
from analysis.reconstruct.page import compute as reconstruct
from analysis.shared.questions import AskingOptions, gather_questions, halves, load_questions
from lare.errors import LareError
from lare.methods import get_method, load_method
from lare_eval.task_questions import task_questions
from tests.analysis import own_task

pytestmark = pytest.mark.filterwarnings("ignore")

TASK = "own_squares"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_task.write(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same task whose rows have neither boxes nor rationales."""
    return own_task.write(tmp_path_factory.mktemp("bare"), boxes=False, rationales=False)


@pytest.fixture(scope="module")
def traced(folder: Path, bare: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Traces of both tasks in both settings, as an evaluation writes them."""
    thinking = load_method("lare")
    direct = get_method("llava")(thinking.model, thinking.processor)
    root = tmp_path_factory.mktemp("traces")
    made = {}
    for name, place in (("own", folder), ("bare", bare)):
        for setting, method in (("K4", thinking), ("K0", direct)):
            made[f"{name}-{setting}"] = own_task.traces(place, root / name / "traces" / setting, method)
    return made


def tables(document: Any) -> dict[str, Any]:
    assert document.from_json(document.to_json()) is not None
    assert not document.stand_in
    return {one.id: one for one in document.tables}


def test_questions_pictures_and_scores_are_the_tasks(folder: Path) -> None:
    found = task_questions([TASK], folder)
    rows = own_task.rows()
    assert found.problems == [] and len(found.questions) == len(rows) == 60
    for number, (one, row) in enumerate(zip(found.questions, rows, strict=True)):
        assert (one.task, one.doc_id, one.text, one.target) == (TASK, number, row["question"], row["answer"])
        assert np.array_equal(np.asarray(one.image), np.asarray(row["image"]))
        assert one.sampling.max_new_tokens == 24 and one.facts["rationale"] == row["rationale"]
        assert one.judge(f"It is so. Answer: {row['answer']}").score == 1
        assert one.judge("Answer: Z").score == 0
    assert len({one.picture for one in found.questions}) == own_task.PICTURES
    assert [one.doc_id for one in task_questions([TASK], folder, rows={TASK: [3, 8]}).questions] == [3, 8]
    unreadable = found.questions[0].judge("a horse")
    assert unreadable.score == 0 and not unreadable.readable


@pytest.mark.slow
def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LareError, match="no tasks no_such_task"):
        task_questions(["no_such_task"], folder)
    with pytest.raises(LareError, match="which is no folder"):
        task_questions([TASK], tmp_path / "nowhere")


def test_a_damaged_picture_is_left_out_and_named(tmp_path: Path) -> None:
    import datasets

    place = own_task.write(tmp_path, "damaged")
    plain = datasets.load_dataset("parquet", data_files=str(place / "damaged.parquet"), split="train")
    broken = plain.cast_column("image", datasets.Image(decode=False)).map(
        lambda row, i: {"image": {"bytes": b"none", "path": None}} if i == 4 else row, with_indices=True
    )
    broken.cast_column("image", datasets.Image()).to_parquet(str(place / "damaged.parquet"))
    gathered = gather_questions(AskingOptions(tasks=("damaged",), include_path=str(place)))
    assert len(gathered.questions) == 59
    assert "1 rows could not be asked" in gathered.warnings[0] and "damaged 4" in gathered.warnings[0]


def test_boxes_and_clusters_come_from_the_row(folder: Path) -> None:
    one, second, third, other = gather_questions(AskingOptions(tasks=(TASK,), include_path=str(folder))).questions[:4]
    assert one.scene == second.scene == third.scene != other.scene
    left, top, right, bottom = one.boxes[0]
    assert right - left == pytest.approx(40 / own_task.SIDE) and bottom - top == pytest.approx(40 / own_task.SIDE)
    pixels = np.asarray(one.image)[round(top * own_task.SIDE), round(left * own_task.SIDE)]
    assert tuple(pixels) == own_task.COLOURS["red"]


def test_halves_share_no_picture(folder: Path) -> None:
    every = gather_questions(AskingOptions(tasks=(TASK,), include_path=str(folder))).questions
    first, second = halves(every, 1, 3)
    assert len({one.scene for one in first}) == 5 and len(first) + len(second) == len(every)
    assert not {one.scene for one in first} & {one.scene for one in second}


@pytest.mark.slow
def test_the_stand_ins_through_lmms_eval_are_those_that_are_drawn() -> None:
    """The default's questions, pictures, facts and scores, against the task objects of lmms-eval."""
    theirs = gather_questions(AskingOptions(tasks=("lare_mini",)), limit=4)
    found = {(one.task, one.doc_id): one for one in theirs.questions}
    mine = load_questions(limit=4)
    assert len(found) == len(mine) == 20
    for one in mine:
        other = found[one.task, one.doc_id]
        assert (one.text, one.scene, one.hops, one.sort, one.rationale, one.max_new_tokens) == (
            other.text, other.scene, other.hops, other.sort, other.rationale, other.max_new_tokens,
        )  # fmt: skip
        assert np.array_equal(np.asarray(one.image), np.asarray(other.image))


@pytest.mark.slow
def test_controls(folder: Path) -> None:
    document, arrays = controls(ControlsOptions(tasks=(TASK,), include_path=str(folder), samples=2, now="then"))
    found = tables(document)
    assert len(arrays["right_own"]) == 60 and set(arrays["task"]) == {TASK}
    assert "by-hops" not in found and [one.id for one in document.figures] == ["drops"]
    assert found["controls"].rows[0]["accuracy"] == pytest.approx(100 * arrays["right_own"].mean())


@pytest.mark.slow
def test_controls_of_the_questions_of_traces(folder: Path, traced: dict[str, Path]) -> None:
    """The very questions of a trace, whose own answers are what asking again without a change gives."""
    given = ControlsOptions(traces=(str(traced["own-K4"]),), include_path=str(folder), limit=12, samples=0, now="then")
    _, arrays = controls(given)
    from lare.trace import TraceReader

    reader = TraceReader(traced["own-K4"])
    rows, answers = own_task.rows(), dict(zip(reader.column("doc_id"), reader.column("answer"), strict=True))
    traced_right = [answers[doc].lower() == rows[doc]["answer"].lower() for doc in arrays["doc_id"].tolist()]
    assert arrays["doc_id"].tolist() == list(range(12)) and arrays["right_own"].tolist() == traced_right
    with pytest.raises(LareError, match="no tasks own_squares"):
        controls(ControlsOptions(traces=(str(traced["own-K4"]),)))


@pytest.mark.slow
def test_adaptive(folder: Path, tmp_path: Path) -> None:
    given = AdaptiveOptions(
        tasks=(TASK,), include_path=str(folder), limit=40, validation=20, steps=4, samples=2, cache=str(tmp_path),
        now="then",
    )  # fmt: skip
    document, arrays = adaptive(given)
    assert {"rules", "fixed-tasks", "apart"} <= set(tables(document))
    assert arrays["right"].shape[1] == 5 and 30 <= len(arrays["right"]) <= 50
    again, _ = adaptive(given)
    assert again.tables == document.tables and len(list(tmp_path.glob("*/*.npz"))) == 2


@pytest.mark.slow
def test_reconstruct(folder: Path) -> None:
    given = ReconstructOptions(
        tasks=(TASK,), include_path=str(folder), rows=60, candidates=8, draws=1, denoising=2, samples=1, now="then"
    )
    document, arrays = reconstruct(given)
    found = tables(document)
    assert NO_TRAINING in document.warnings and "copied" not in {one.key for one in found["conditions-more"].columns}
    assert arrays["found_own"].shape == (16, 4) and len(set(arrays["scene"])) == 16
    with pytest.raises(LareError, match="20 pictures"):
        reconstruct(ReconstructOptions(tasks=(TASK,), include_path=str(folder), rows=60, candidates=16))


@pytest.mark.slow
@pytest.mark.parametrize("reasoned", [True, False])
def test_probe(folder: Path, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reasoned: bool) -> None:
    monkeypatch.chdir(tmp_path)
    given = ProbeOptions(
        tasks=(TASK,), include_path=str(folder if reasoned else bare), pairs=40, seeds=(0,) if reasoned else (0, 1),
        jobs=1, dim=16, now="then",
    )  # fmt: skip
    document, arrays = probe(given)
    found = tables(document)
    assert set(arrays["modality"]) == ({"vision", "text"} if reasoned else {"vision"})
    assert (NO_RATIONALES in document.warnings) == (not reasoned)
    keys = {one.key for one in found["table-6"].columns}
    assert "vision" in keys and ("text" in keys) == reasoned
    assert reasoned or "in" in document.answer and "rationale" not in document.answer


def test_probe_without_recurring_questions_says_what_it_lacks() -> None:
    from analysis.probe.pairs import draw_split

    image = np.array([f"i{number // 3}" for number in range(60)])
    question = np.array([f"q{number}" for number in range(60)])
    with pytest.raises(LareError, match="same question, other image"):
        draw_split(image, question, question, 0, 24)
    made = draw_split(image, question, question, 0, 24, lenient=True)
    assert set(made.train.kind.tolist()) == set(made.test.kind.tolist()) == {0, 1, 3}
    assert any("'same question, other image'" in line for line in made.short)
    for side in (made.train, made.test):
        assert sorted(side.left[side.kind == 0].tolist()) == sorted(side.left[side.kind > 0].tolist())


@pytest.mark.slow
def test_heat_maps_and_their_sanity_checks(folder: Path, bare: Path, traced: dict[str, Path]) -> None:
    given = {"samples": 2, "sanity_questions": 10, "now": "then"}
    document, arrays = heatmaps(HeatmapsOptions(traces=(str(traced["own-K4"]),), include_path=str(folder), **given))
    found = tables(document)
    assert {"steps", "tasks", "apart", "sanity", "cascade"} <= set(found) and "hops" not in found
    assert arrays["mass_own"].shape == (60, 4)
    assert found["steps"].rows[0]["area"] == pytest.approx(100 * (40 / own_task.SIDE) ** 2, rel=0.02)
    names = [row["check"] for row in found["sanity"].rows]
    assert "whole model with random weights" in names and not any("mirrored" in name for name in names)
    assert all(one.picture is not None for one in document.samples)
    document, arrays = heatmaps(HeatmapsOptions(traces=(str(traced["bare-K4"]),), include_path=str(bare), **given))
    found = tables(document)
    assert NO_BOXES in document.warnings and set(found) == {"shape", "sanity", "cascade"}
    assert "mass" not in {one.key for one in found["sanity"].columns} and document.answer
    document, _ = heatmaps(HeatmapsOptions(traces=(str(traced["own-K4"]),), **given))
    assert any("not at hand" in line for line in document.warnings)


@pytest.mark.slow
def test_attention_with_its_live_part(folder: Path, traced: dict[str, Path]) -> None:
    given = AttentionOptions(
        traces=(str(traced["own-K4"]), str(traced["own-K0"])), task=TASK, include_path=str(folder), live=8, draws=1,
        samples=2, now="then",
    )  # fmt: skip
    document, _ = attention(given)
    assert {"masking", "sinks", "forced"} <= set(tables(document))
    assert not any("read otherwise" in line or "not at hand" in line for line in document.warnings)
