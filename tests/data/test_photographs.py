"""Questions about photographs say what captions, boxes and key points say, the same ones always, split by image."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lare.cli import main
from lare.data import Report, Sample, Source, guess_format
from lare.data.animals import ANIMAL_FAMILIES, parse_animals
from lare.data.blind import QuestionOnly, blind_scores
from lare.data.captions import CAPTION_FAMILIES, Captions, captions_of
from lare.data.sample import BadRow
from lare.data.source import FAMILIES, FORMATS
from lare.data.splits import SPLITS, split_of
from lare.data.things import THINGS, named_in, phrase
from lare.errors import LareError
from tests.data.photographs import CAT, DOG, animal, animal_rows, caption_rows, daquar_rows, write_source

ROWS = {"animals": animal_rows, "captions": caption_rows, "daquar": daquar_rows}
BOX = "abc"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("photographs")
    return {name: write_source(folder / name, f"{name}.jsonl", rows(60)) for name, rows in ROWS.items()}


def all_of(path: Path, **options: Any) -> list[Sample]:
    report = Report()
    found = list(Source(path, check_images="exist", **options).samples(report))
    assert not report.bad
    return found


# Every source --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_a_folder_of_the_layout_is_read(sources: dict[str, Path], name: str) -> None:
    assert guess_format(sources[name]) == name and name in FORMATS
    samples = all_of(sources[name])
    assert {one.family for one in samples} <= set(FAMILIES[name]) and samples == all_of(sources[name])
    assert all(one.question and one.answer and one.image for one in samples)
    ids = Counter(one.id for one in samples)
    assert max(ids.values()) == 1
    for one in samples:  # one box a step, each inside
        assert not one.boxes or len(one.boxes) == len(one.rationale.rstrip(".").split(". "))
        assert all(0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1 for box in one.boxes if box)


@pytest.mark.parametrize("name", ROWS)
def test_splits_hold_each_image_once_and_whole(sources: dict[str, Path], name: str) -> None:
    whole, parts = all_of(sources[name]), {split: all_of(sources[name], split=split) for split in SPLITS}
    images = [{one.image for one in part} for part in parts.values()]
    assert sum(map(len, images)) == len(set.union(*images)) and all(images)
    assert sorted(one.id for part in parts.values() for one in part) == sorted(one.id for one in whole)


@settings(max_examples=20, deadline=None)
@given(st.text())
def test_a_split_depends_on_the_name_alone(name: str) -> None:
    assert split_of(name) == split_of(name) in SPLITS


def test_splits_have_their_sizes() -> None:
    found = Counter(split_of(f"{number}.jpg") for number in range(4000))
    assert abs(found["train"] - 3200) < 100 and abs(found["test"] - 400) < 60


def test_a_share_of_a_family_is_taken(sources: dict[str, Path]) -> None:
    whole = Counter(one.family for one in all_of(sources["captions"]))
    taken = all_of(sources["captions"], format="captions", take={"caption": 1.0, "presence_random": 0.5})
    counts = Counter(one.family for one in taken)
    assert set(counts) == {"caption", "presence_random"} and counts["caption"] == whole["caption"]
    assert 0.3 < counts["presence_random"] / whole["presence_random"] < 0.7


@pytest.mark.parametrize(
    ("name", "take", "message"),
    [
        ("captions", {"which": 1.0}, "take names which, and the format 'captions' has the question families caption"),
        ("llava", {"x": 1.0}, "'llava' has no question families; formats that have some are daquar"),
        ("animals", {"which": 2.0}, "shares from 0 to 1"),
        ("animals", {"which": 0.0}, "one above 0"),
    ],
)
def test_impossible_shares_are_refused(name: str, take: dict[str, float], message: str) -> None:
    with pytest.raises(LareError, match=message):
        Source(Path("x.jsonl"), name, take=take)


BAD: list[tuple[str, Any, str]] = [
    ("animals", [], "not_object"),
    ("animals", {"image": "a.jpg", "size": [1], "animals": [DOG]}, "bad_size"),
    ("animals", {"image": "a.jpg", "size": [200, 200], "animals": []}, "missing_field"),
    ("animals", {"image": "", "size": [200, 200], "animals": [DOG]}, "bad_image"),
    ("animals", {"image": "a.jpg", "size": [200, 200], "animals": ["dog"]}, "not_object"),
    ("animals", {"image": "a.jpg", "size": [200, 200], "animals": [DOG | {"box": [1, 2]}]}, "bad_boxes"),
    ("animals", {"image": "a.jpg", "size": [200, 200], "animals": [DOG | {"box": [300, 0, 400, 9]}]}, "bad_boxes"),
    ("animals", {"image": "a.jpg", "size": [200, 200], "animals": [DOG | {"keypoints": [1]}]}, "bad_keypoints"),
    ("captions", {"image": "a.jpg"}, "missing_field"),
    ("captions", {"image": "a.jpg", "captions": [3]}, "bad_caption"),
    ("captions", {"image": "a.jpg", "captions": [" . "]}, "missing_field"),
    ("daquar", {"image": "a.jpg", "question": "what?"}, "missing_field"),
    ("daquar", {"question": "what?", "answer": "a"}, "bad_image"),
]


@pytest.mark.parametrize(("name", "row", "kind"), BAD)
def test_bad_rows_are_named(name: str, row: Any, kind: str) -> None:
    with pytest.raises(BadRow) as caught:
        FORMATS[name](row)
    assert caught.value.kind == kind


# DAQUAR --------------------------------------------------------------------------------------------------------------


def test_answers_of_daquar_are_plain_words(sources: dict[str, Path]) -> None:
    first, second, third = all_of(sources["daquar"])[:3]
    assert (first.answer, first.family) == ("book, tape dispenser", "thing")
    assert (second.answer, second.family) == ("2", "number") and (third.answer, third.family) == ("red", "colour")
    assert first.question.startswith("what is on the desk?\n")


# Captions ------------------------------------------------------------------------------------------------------------


def test_negatives_are_never_named(sources: dict[str, Path]) -> None:
    captions = {row["image"]: row["captions"] for row in caption_rows(60)}
    asked = defaultdict(list)
    for one in all_of(sources["captions"]):
        if one.family.startswith("presence"):
            thing = next(
                name
                for name in THINGS
                if one.question == f"Is there {phrase(name)} in the image?\nAnswer with yes or no."
            )
            words = {word.strip(".").lower() for text in captions[one.image] for word in text.split()}
            assert bool(words & THINGS[thing].words) == (one.answer == "yes")
            assert one.answer == "yes" or not words & THINGS[thing].open
            asked[one.image, one.family].append(one.answer)
    assert {family for _, family in asked} == {name for name in CAPTION_FAMILIES if name.startswith("presence")}
    for answers in asked.values():  # as many of each answer, as in POPE
        assert answers.count("yes") == answers.count("no") > 0


def test_popular_and_adversarial_negatives_are_counted_on_the_train_split(tmp_path: Path) -> None:
    rows = [
        *({"image": f"a{i}.jpg", "captions": ["A dog with a ball in the snow ."]} for i in range(40)),
        *({"image": f"b{i}.jpg", "captions": ["A bridge and a fountain ."]} for i in range(60)),
        *({"image": f"c{i}.jpg", "captions": ["A dog ."]} for i in range(10)),
    ]
    reader = captions_of(write_source(tmp_path, "captions.jsonl", rows, archive=False))
    assert reader.common is not None
    trained = sum(split_of(f"b{i}.jpg") == "train" for i in range(60))
    assert reader.common.alone["bridge"] == trained < 60
    no = {
        one.family: one.question
        for one in reader({"image": "new.jpg", "captions": ["A dog ."]})
        if one.family.startswith("presence") and one.answer == "no"
    }
    assert "a bridge" in no["presence_popular"] and "a ball" in no["presence_adversarial"]
    assert not any(one.family == "presence_popular" for one in Captions()(rows[0]))


def test_a_wider_word_leaves_a_thing_open() -> None:
    named = named_in(["An animal stands next to a vehicle .", "Someone looks on ."])
    assert not {"dog", "cat", "horse", "car", "bus", "man", "woman"} & {*named.there, *named.absent}
    assert "guitar" in named.absent and named_in(["Two puppies."]).there == ("dog",)


def test_choices_have_one_right_letter(sources: dict[str, Path]) -> None:
    found = [one for one in all_of(sources["captions"]) if one.family == "choice"]
    assert len({one.answer for one in found}) > 2
    captions = {row["image"]: row["captions"] for row in caption_rows(60)}
    for one in found:
        options = dict(line.split(". ") for line in one.question.split("\n")[1:-1])
        there = named_in(captions[one.image]).there
        assert [letter for letter, name in options.items() if name in there] == [one.answer] and len(options) == 4


def test_a_caption_is_the_rationale(sources: dict[str, Path]) -> None:
    samples = all_of(sources["captions"])
    yes = next(one for one in samples if "a beach" in one.question and one.answer == "yes")
    assert yes.rationale == "A black dog runs on the beach." and yes.hops == 1
    assert next(one for one in samples if one.family == "caption").rationale == ""


# Animals -------------------------------------------------------------------------------------------------------------


def asked(*animals: dict[str, Any], image: str = "a.jpg") -> dict[str, list[Sample]]:
    found = defaultdict(list)
    for one in parse_animals({"image": image, "size": [200, 200], "animals": list(animals)}):
        found[one.family].append(one)
    return found


def test_one_animal() -> None:
    found = asked(DOG)
    assert set(found) - {"how_many"} == {"which", "side", "head", "faces"}
    (which,), (side,), (head,), (faces,) = (found[name] for name in ("which", "side", "head", "faces"))
    assert which.answer == "dog" and which.boxes == ((0.05, 0.25, 0.45, 0.75),) and which.hops == 1
    assert side.answer == "left" and side.rationale == "The dog is at the left."
    assert head.answer == "top left" and head.hops == 2 and head.rationale.endswith("Its head is at the top left.")
    left, top, right, bottom = head.boxes[1]
    assert left < 15 / 200 < 20 / 200 < right and top < 60 / 200 < 70 / 200 < bottom
    assert faces.answer == "left" and "nose of the dog is on its left side" in faces.rationale
    (nose, tail) = faces.boxes
    assert nose[0] < 15 / 200 < nose[2] < tail[0] < 85 / 200 < tail[2]


def test_the_mirrored_picture_has_the_mirrored_answers() -> None:
    mirrored = animal("dog", (110, 50, 190, 150), nose=(185, 70), tailbase=(115, 80), left_eye=(180, 60))
    for family, place in (("side", ""), ("faces", ""), ("head", "top ")):
        answers = asked(DOG)[family][0].answer, asked(mirrored)[family][0].answer
        assert answers == (f"{place}left", f"{place}right")


def test_an_animal_that_faces_the_camera_is_not_asked_where_it_faces() -> None:
    assert "faces" not in asked(animal("dog", (10, 50, 90, 150), nose=(50, 70), tailbase=(55, 60)))
    assert "faces" not in asked(animal("dog", (10, 50, 90, 150), nose=(50, 70)))


def test_two_of_different_kinds() -> None:
    found = asked(DOG, CAT)
    assert "which" not in found and "faces_of_two" not in found
    assert [one.answer for one in found["left_of"]] == ["left", "right"]
    assert found["left_of"][0].question.startswith("Is the dog left or right of the cat?")
    assert len(found["head"]) == len(found["faces"]) == 2 and found["faces"][1].answer == "right"
    assert "larger" not in found  # too much alike


def test_two_of_one_kind() -> None:
    small = animal("dog", (120, 40, 150, 90), nose=(148, 50), tailbase=(122, 60), left_eye=(146, 45))
    found = asked(small, DOG)  # in any order
    assert not {"side", "head", "faces", "left_of"} & set(found) and found["which"][0].answer == "dog"
    (larger,) = found["larger"]
    assert larger.answer == "left dog" and larger.boxes[0] == (0.05, 0.25, 0.45, 0.75)
    assert [one.answer for one in found["faces_of_two"]] == ["left", "right"]
    assert found["faces_of_two"][1].hops == 3 and len(found["faces_of_two"][1].boxes) == 3
    assert found["how_many"][0].answer == "2" and len(found["how_many"][0].boxes) == 2


def test_single_animals_are_counted_in_one_of_seven_photographs() -> None:
    share = sum("how_many" in asked(DOG, image=f"{number}.jpg") for number in range(700)) / 700
    assert abs(share - 1 / 7) < 0.04
    assert "how_many" not in asked(*[DOG] * 7)


def test_families_are_all_reached(sources: dict[str, Path]) -> None:
    assert {one.family for one in all_of(sources["animals"])} == set(ANIMAL_FAMILIES)


def test_steps_of_the_rationale_are_the_trainers_steps(sources: dict[str, Path]) -> None:
    """The trainer tells a step's end by the tokens; there are as many as boxes."""
    import lare
    from lare.model import LareProcessor
    from lare.training.feeding.rows import step_ends

    processor = LareProcessor.from_pretrained(lare.default_checkpoint())
    for one in all_of(sources["animals"])[:12]:
        ids = processor.encode_text([processor.user_text.escape(one.rationale)])[0]
        assert len(step_ends(processor.tokenizer, ids)) == len(one.boxes), one.rationale


# Blind baselines -----------------------------------------------------------------------------------------------------


def sample(question: str, answer: str, family: str = "f") -> Sample:
    return Sample("", question, answer, image="a", family=family)


def test_the_majority_and_the_words_are_learnt() -> None:
    train = [*[sample("Is there a dog?", "yes")] * 30, *[sample("Is there a cat?", "no")] * 20]
    asked = [sample("Is there a dog?", "yes"), sample("Is there a cat?", "no")]
    (score,) = blind_scores(train, asked)
    assert (score.majority, score.question_only, score.n, score.n_train, score.answers) == (0.5, 1.0, 2, 50, 2)


def test_options_are_judged_by_their_text_and_not_by_their_letter() -> None:
    guesser = QuestionOnly().fit([sample(f"Which?\nA. {BOX[i % 3]}\nB. dog", "B") for i in range(30)])
    assert guesser.answer(sample("Which?\nA. dog\nB. c", "A")) == "A"


def test_families_are_scored_apart() -> None:
    train = [sample("Q", "x", "one"), sample("Q", "y", "two")]
    scores = {one.family: one.majority for one in blind_scores(train, train)}
    assert scores == {"one": 1.0, "two": 1.0, "all": 1.0}


@pytest.mark.parametrize("name", ROWS)
def test_the_command_prints_counts_and_blind_baselines(
    sources: dict[str, Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "questions", str(sources[name]), "--show", "1"]) == 0
    printed = capsys.readouterr().out
    assert "bad rows: 0" in printed and "question only %" in printed and '"question": ' in printed
    assert main(["data", "questions", str(sources[name]), "--json"]) == 0
    scores = {one["family"]: one for one in json.loads(capsys.readouterr().out)}
    assert set(scores) <= {*FAMILIES[name], "all"} and all(0 <= one["majority"] <= 1 for one in scores.values())


def test_too_few_rows_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_source(tmp_path, "animals.jsonl", animal_rows(1))
    assert main(["data", "questions", str(path)]) == 2
    assert "give more rows" in capsys.readouterr().err


# The true folders ----------------------------------------------------------------------------------------------------

TRUE = {
    "animals": ("animals/animals.jsonl", 4608, ANIMAL_FAMILIES),
    "captions": ("flickr8k_1000/captions.jsonl", 1000, CAPTION_FAMILIES),
    "daquar": ("daquar/daquar.jsonl", 795, FAMILIES["daquar"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUE)
def test_the_true_folders_have_no_bad_row(name: str) -> None:
    """LARE_PHOTOGRAPHS names the folder in which those of the data sets lie."""
    place, images, families = TRUE[name]
    path = Path(os.environ.get("LARE_PHOTOGRAPHS", "")) / place
    if "LARE_PHOTOGRAPHS" not in os.environ or not path.is_file():
        pytest.skip("LARE_PHOTOGRAPHS names no folder with the data sets")
    samples = all_of(path)
    assert len({one.image for one in samples}) == images and {one.family for one in samples} == set(families)
    parts = [[one for one in samples if split_of(str(one.image)) == part] for part in ("train", "test")]
    scores = {one.family: one.majority for one in blind_scores(parts[0], parts[1])}
    assert all(0.3 < scores[one] < 0.7 for one in scores if one.startswith(("presence", "faces", "side")))
