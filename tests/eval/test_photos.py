"""Tasks on photographs: made of the files that runs train on, held-back photographs alone, scored as they should be."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lare import LareError
from lare.data.splits import split_of
from lare_eval import TASKS, wups
from lare_eval.categories import of_samples
from lare_eval.cider import cider, words_of
from lare_eval.photos import FOLDER, daquar_results, photo, photo_rows
from lare_eval.wups import exact, items_of
from tests.data.photographs import animal_rows, caption_rows, daquar_rows, write_source

from .conftest import FakeMethod, evaluate

NAMES = ("pope", "daquar", "captions", "animals")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three sources, with few photographs."""
    write_source(tmp_path / "animals", "animals.jsonl", animal_rows())
    write_source(tmp_path / "flickr8k_1000", "captions.jsonl", caption_rows())
    write_source(tmp_path / "daquar", "daquar.jsonl", daquar_rows(80))
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


def right(rows: dict[str, list[dict[str, Any]]]) -> FakeMethod:
    """What a model would write that knows every answer."""
    told = {(photo(row)[0].tobytes(), row["question"]): row["answer"] for of_task in rows.values() for row in of_task}
    return FakeMethod(lambda image, question: f"So it is. Answer: {told[image.tobytes(), question]}")


def test_right_answers_score_one_in_every_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lare_eval.adapter import LareAdapter

    monkeypatch.setattr("lare_eval.photos.wordnet", lambda: None)
    rows = {name: photo_rows(name) for name in NAMES}
    for name, of_task in rows.items():
        assert of_task and {split_of(row["photograph"]) for row in of_task} == {"test"}, name
    results = evaluate(LareAdapter(model=right(rows), batch_size=16), ["lare_photos"], str(TASKS), log_samples=True)
    scores = results["results"]
    for name in ("pope", "daquar", "animals"):
        assert scores[f"lare_photos_{name}"]["score,none"] == 1.0, name
    assert scores["lare_photos_pope"]["pope_f1_score,none"] == 1.0
    assert scores["lare_photos_daquar"]["wups_0.9,none"] != scores["lare_photos_daquar"]["wups_0.9,none"]  # not known
    assert scores["lare_photos_captions"]["cider,none"] > 1
    found = {(one.task, one.by, one.category): one for one in of_samples(results["samples"])}
    kinds = {category for task, by, category in found if by == "kind"}
    assert kinds == {"random", "popular", "adversarial"}
    families = {category for task, by, category in found if task == "lare_photos_animals" and by == "question family"}
    assert {"which", "head", "faces"} <= families
    cell = found["lare_photos_captions", "measure", "cider"]
    assert cell.accuracy == pytest.approx(scores["lare_photos_captions"]["cider,none"]) and cell.low <= cell.accuracy
    assert ("lare_photos_daquar", "measure", "wups_0.9") not in found
    own = results["samples"]["lare_photos_pope"][0]["doc"]
    assert own["photograph"] and json.loads(own["boxes"]) == [] and own["rationale"]


def test_the_validation_split_is_another(folder: Path) -> None:
    asked = {split: {row["photograph"] for row in photo_rows("pope", split)} for split in ("validation", "test")}
    assert asked["validation"] and not asked["validation"] & asked["test"]


def test_a_missing_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "nowhere"))
    with pytest.raises(LareError, match=r"no photographs at .*captions\.jsonl.*LARE_PHOTOGRAPHS"):
        photo_rows("pope")


def test_intervals_are_by_photograph(folder: Path) -> None:
    """Questions about one photograph are not independent: were all of one right or wrong together, n would be few."""
    samples = [
        {"doc_id": n, "score": float(n // 10 % 2), "doc": {"photograph": f"{n // 10}.jpg", "category": "which"}}
        for n in range(60)
    ]
    together = {one.by: one for one in of_samples({"lare_photos_animals": samples})}["question family"]
    for number, sample in enumerate(samples):
        sample["doc"] = sample["doc"] | {"photograph": f"{number}.jpg"}
    apart = {one.by: one for one in of_samples({"lare_photos_animals": samples})}["question family"]
    assert together.accuracy == apart.accuracy == 0.5
    assert together.high - together.low > 2 * (apart.high - apart.low)
    right = [sample | {"score": 1.0} for sample in samples]
    assert of_samples({"lare_photos_animals": right})[0].low < 1.0


# WUPS ----------------------------------------------------------------------------------------------------------------

NEAR = {("chair", "armchair"): 0.95, ("chair", "bed"): 0.8, ("lamp", "bed"): 0.3}


def similarity(one: str, other: str) -> float:
    return NEAR.get((one, other), NEAR.get((other, one), 0.0))


def test_wups_by_hand() -> None:
    def score(answer: str, truth: str, threshold: float) -> float:
        return wups.wups(items_of(answer), items_of(truth), threshold, similarity)

    assert score("chair", "chair", 0.9) == score("Tape dispenser.", "tape_dispenser", 0.9) == 1.0
    assert score("armchair", "chair", 0.9) == 0.95 and score("bed", "chair", 0.9) == pytest.approx(0.08)
    assert score("bed", "chair", 0.0) == 0.8
    assert score("chair, lamp", "chair, bed", 0.0) == pytest.approx(min(1.0 * 0.3, 1.0 * 0.8))
    assert score("chair", "chair, bed", 0.0) == 0.8  # what is missing counts
    assert score("chair, lamp", "chair", 0.9) == score("", "chair", 0.0) == 0.0  # and so does what is too much
    assert exact(items_of("bed, chair"), items_of("chair,bed")) == 1.0 and exact(["bed"], ["bed", "chair"]) == 0.0


WORDS = st.lists(st.sampled_from(["chair", "bed", "lamp", "armchair"]), min_size=1, max_size=3, unique=True)


@given(WORDS, WORDS)
def test_wups_is_symmetric_and_between_exact_match_and_one(one: list[str], other: list[str]) -> None:
    strict, loose = (wups.wups(one, other, threshold, similarity) for threshold in (0.9, 0.0))
    assert exact(one, other) <= strict <= loose <= 1.0
    assert loose == pytest.approx(wups.wups(other, one, 0.0, similarity))


PARENTS = {
    "entity": "",
    "furniture": "entity",
    "seat": "furniture",
    "chair": "seat",
    "armchair": "chair",
    "bed": "furniture",
}


def write_wordnet(folder: Path) -> None:
    """A little WordNet of nouns, in its own format: each line of data.noun begins with its place in the file."""
    folder.mkdir()
    lines = {
        name: f"{{}} 06 n 01 {name} 0 {'001 @ {} n 0000' if parent else '000'} | a thing  \n"
        for name, parent in PARENTS.items()
    }
    places, at = {}, 0
    for name, line in lines.items():
        places[name] = f"{at:08}"
        at += len(line.format(*["0" * 8] * 2))
    data = "".join(line.format(places[n], places.get(PARENTS[n], "")) for n, line in lines.items())
    index = "".join(f"{name} n 1 1 @ 1 0 {places[name]}  \n" for name in sorted(PARENTS))
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"data.{part}").write_text(data if part == "noun" else "")
        (folder / f"index.{part}").write_text(index if part == "noun" else "")
        (folder / f"{part}.exc").write_text("")


def test_similarities_are_wu_and_palmers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the depth of the nearest common word over the sum of depths, from Debian's files; none is nothing."""
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(wups, "DEBIAN", tmp_path / "wordnet")
    for cached in (wups.wordnet, wups.wup):
        cached.cache_clear()
    try:
        assert wups.wordnet() is None
        assert daquar_results({"answer": "bed"}, ["bed"])["wups_0.9"] != 1.0
        wups.wordnet.cache_clear()
        write_wordnet(tmp_path / "wordnet")
        assert wups.wup("chair", "bed") == pytest.approx(2 * 2 / (4 + 3))
        assert wups.wup("chair", "armchair") == pytest.approx(2 * 4 / (4 + 5)) and wups.wup("chair", "sofa") == 0.0
        assert wups.wup("chairs", "armchair") == wups.wup("chair", "armchair")  # a plural is its singular
        made = daquar_results({"answer": "chair"}, ["Armchair."])
        assert made == {"score": 0.0, "exact_match": 0.0, "wups_0.9": pytest.approx(0.8 / 9), "wups_0.0": 8 / 9}
    finally:
        for cached in (wups.wordnet, wups.wup):
            cached.cache_clear()


@pytest.mark.slow
def test_similarities_of_the_authors() -> None:
    """Examples of Malinowski and Fritz's paper, in WordNet 3.0."""
    if wups.wordnet() is None:
        pytest.skip("neither nltk's WordNet nor Debian's wordnet-base is installed")
    assert round(wups.wup("curtain", "blinds"), 2) == 0.94 and round(wups.wup("carton", "box"), 2) == 0.94
    assert round(wups.wup("stove", "fire_extinguisher"), 2) == 0.82
    assert wups.wup("chair", "unknownword") == 0.0
    made = daquar_results({"answer": "curtain"}, ["Blinds"])
    assert made["score"] == 0.0 and round(made["wups_0.9"], 2) == 0.94


# CIDEr ---------------------------------------------------------------------------------------------------------------


def test_captions_like_the_human_ones_score_higher() -> None:
    references = [
        ["A dog runs on the beach.", "A black dog near the sea"],
        ["Two women at a table", "Ladies eat lunch."],
    ]
    same = cider([one[0] for one in references], references)
    other = cider([references[1][0], references[0][0]], references)
    assert min(same) > 2 and max(other) < 0.5 and cider([], []) == []
    assert words_of("A dog's (black) \"ball\", isn't red.") == "a dog 's black ball is n't red"


# The real photographs ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_folder_asks_what_it_should() -> None:
    """LARE_PHOTOGRAPHS names the folder that holds animals, flickr8k_1000 and daquar."""
    if FOLDER not in os.environ or not Path(os.environ[FOLDER]).is_dir():
        pytest.skip("LARE_PHOTOGRAPHS names no folder")
    from lare_eval.adapter import LareAdapter

    rows = {name: photo_rows(name) for name in NAMES}
    kinds = [row["category"] for row in rows["pope"]]
    assert {kinds.count(kind) > 200 for kind in ("random", "popular", "adversarial")} == {True}
    answers = [row["answer"] for row in rows["pope"]]
    assert answers.count("yes") == answers.count("no")
    assert len(rows["captions"]) > 70 and len(rows["daquar"]) > 400 and len(rows["animals"]) > 800
    results = evaluate(LareAdapter(model=right(rows), batch_size=64), ["lare_photos_daquar"], str(TASKS))
    # People answered some questions about a photograph twice, and not alike; one of the answers is known here.
    assert results["results"]["lare_photos_daquar"]["score,none"] > 0.97
