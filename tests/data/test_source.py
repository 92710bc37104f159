"""Every kind of bad row is counted, listed and skipped, or refused; good rows become samples."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from lare.cli import main
from lare.data import Report, Source, Turn, guess_format
from lare.data.pictures import Pictures
from lare.data.sample import BadRow
from lare.errors import LareError


def png(seed: int = 0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def row(name, image="a.png", conversation=None, **changes):
    return {"id": name, "image": image, "conversations": conversation or turns("<image>\nWhat?", "A cat.")} | changes


BAD_ROWS = {
    "not_object": ["a text"],
    "no_conversations": [{"id": "c", "image": "a.png"}],
    "conversations_no_list": [row("d", conversations="hello")],
    "no_turns": [row("e", conversations=[]), row("e2", conversations=[{"from": "system", "value": "Be kind."}])],
    "turn_not_object": [row("f", conversations=["hello", "you"])],
    "unknown_role": [row("g", conversations=[{"from": "robot", "value": "x"}]), row("g2", conversations=[{}])],
    "text_no_string": [row("h", conversations=[{"from": "human", "value": 3}])],
    "wrong_order": [row("i", conversation=turns("Q")), row("i2", conversations=turns("Q", "A", "Q"))],
    "several_images": [row("j", ["a.png", "b.png"]), row("j2", conversation=turns("<image><image>Q", "A"))],
    "mark_without_image": [row("k", None)],
    "bad_id": [row(["l"]), row(True)],
    "bad_image": [row("m", 7), row("m2", "  ")],
    "broken_text": [row("n", conversation=turns("<image>\n\ud800", "A"))],
    "null_character": [row("o", conversation=turns("<image>\nWhat\0?", "A"))],
    "empty_question": [row("p", conversation=turns("<image>\n ", "A"))],
    "empty_answer": [row("q", conversation=turns("<image>\nQ", "  "))],
    "mark_in_reply": [row("r", conversation=turns("Q", "see <image>"))],
    "image_missing": [row("s", "none.png")],
    "image_empty": [row("t", "empty.png")],
    "image_damaged": [row("u", "cut.png"), row("u2", "text.png")],
    "image_outside": [row("v", "../secret.png"), row("v2", "/etc/passwd"), row("v3", "link.png")],
    "double_row": [row("good")],
}


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "data"
    inside.mkdir()
    (tmp_path / "secret.png").write_bytes(png())
    (inside / "a.png").write_bytes(png())
    (inside / "empty.png").write_bytes(b"")
    (inside / "cut.png").write_bytes(png()[:900])
    (inside / "text.png").write_text("no image")
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    return inside


def write(folder, rows, name="data.json"):
    path = folder / name
    path.write_text(json.dumps(rows))
    return path


def test_every_kind_of_bad_row_is_counted(folder):
    """Over 200 bad rows of 23 kinds between good ones: a listed count, and every good row is there."""
    expected = {kind: 7 * len(rows) for kind, rows in BAD_ROWS.items()}
    text = [json.dumps(row("good"))]
    for i in range(7):
        text += [json.dumps(bad) for rows in BAD_ROWS.values() for bad in rows]
        text += ['{"id": "broken", "image": oops}', json.dumps(row(f"fine{i}"))]
    path = folder / "data.json"
    path.write_text("[" + ",\n".join(text) + "]")
    report = Report()
    samples = list(Source(path, "llava", check_images="decode").samples(report))
    assert report.kinds == expected | {"not_json": 7} and report.bad >= 200 and len(report.kinds) >= 20
    assert [sample.id for sample in samples] == ["good", *(f"fine{i}" for i in range(7))]
    assert len(report.problems) == report.bad and report.rows == len(text)
    lines = {int(problem.where.split(":")[1]) for problem in report.problems}
    assert 1 not in lines and 2 in lines


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_refusing_names_the_row_and_the_mend(folder, kind):
    path = write(folder, [row("good"), BAD_ROWS[kind][0]])
    with pytest.raises(LareError, match=r"data\.json:2: .*--on-bad skip"):
        list(Source(path, "llava", check_images="decode", on_bad="refuse").samples())


def test_turns_become_samples_with_their_history(folder):
    conversation = [
        {"from": "system", "value": "Be brief."},
        *turns("<image>\nWhat is it?", "A cat.", "Its colour?", "Red."),
    ]
    path = write(folder, [row("x", conversation=conversation)])
    report = Report()
    first, second = Source(path, turns="each").samples(report)
    assert (first.id, first.question, first.answer, first.history) == ("x#0", "What is it?", "A cat.", ())
    assert (second.question, second.history) == ("Its colour?", (("What is it?", "A cat."),))
    assert first.system == second.system == "Be brief." and second.image == "a.png"
    assert first.later == second.later == () and (report.samples, report.answers) == (2, 2)
    assert list(Source(path, turns="last").samples()) == [second]
    (whole,) = Source(path).samples(report := Report())
    assert whole.later == (Turn("Its colour?", "Red."),) and whole.history == () and whole.id == "x"
    assert (whole.question, whole.answer, whole.system) == (first.question, first.answer, first.system)
    assert (report.rows, report.samples, report.answers) == (1, 1, 2)


def test_seventy_one_conversations_are_seventy_one_samples(folder):
    rows = []
    for i in range(71):
        said = [text for turn in range(2 + i % 4) for text in (f"Question {turn} of {i}?", f"Answer {turn} of {i}.")]
        rows.append(row(str(i), conversation=turns(f"<image>\n{said[0]}", *said[1:])))
    counted = {}
    for which in ("all", "last", "each"):
        samples = list(Source(write(folder, rows), turns=which).samples(report := Report()))
        counted[which] = (len(samples), report.answers)
    answers = sum(2 + i % 4 for i in range(71))
    assert counted == {"all": (71, answers), "last": (71, 71), "each": (answers, answers)}


def test_a_conversation_that_begins_with_an_answer_loses_that_turn(folder):
    said = [{"from": "gpt", "value": "Hello."}, *turns("<image>\nWhat?", "A cat.")]
    for conversation in (said, [{"from": "system", "value": "Be kind."}, *said]):
        (sample,) = Source(write(folder, [row("x", conversation=conversation)])).samples()
        assert (sample.question, sample.answer, sample.later) == ("What?", "A cat.", ())
    report = Report()
    assert not list(Source(write(folder, [row("y", conversation=said[:1])])).samples(report))
    assert report.kinds == {"wrong_order": 1}


def test_rows_of_one_id_are_double_only_if_they_say_the_same(folder):
    """LLaVA's mix has some 250,000 rows that share their id, which is the image's, with another."""
    rows = [row("1"), row("1", conversation=turns("<image>\nWhat?", "A dog.")), row("1"), row("1", "empty.png")]
    report = Report()
    assert len(list(Source(write(folder, rows)).samples(report))) == 3 and report.kinds == {"double_row": 1}


def test_text_only_rows_are_kept(folder):
    (sample,) = Source(write(folder, [row("x", None, turns("Hello", "Hi"))])).samples()
    assert sample.image is None


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("<think>It is red.</think> Red", ("It is red.", "Red")),
        ("<think>\nA.\nB.\n</think>\n\n<answer> (C) </answer>", ("A.\nB.", "(C)")),
        ("Red", "no_think"),
        ("<think>It is red.", "open_think"),
        ("<think> </think>Red", "empty_rationale"),
        ("<think>Red.</think>  ", "empty_answer"),
    ],
)
def test_vision_r1_replies(folder, reply, expected):
    source = Source(write(folder, [row("x", conversation=turns("<image>Q", reply))]), "vision_r1")
    report = Report()
    found = [(sample.rationale, sample.answer) for sample in source.samples(report)]
    assert found == [expected] if isinstance(expected, tuple) else report.kinds == {expected: 1}


def test_other_spellings_and_parquet_images(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    messages = [{"role": "user", "content": "<image>Q"}, {"role": "assistant", "content": "<think>R</think>A"}]
    rows = [{"images": [{"bytes": png(), "path": "x.png"}], "messages": messages}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data.parquet")
    (sample,) = Source(folder / "data.parquet", check_images="decode").samples()
    assert (sample.rationale, sample.answer, sample.image) == ("R", "A", png())


def test_formats_are_told_apart(folder):
    assert guess_format(write(folder, [row("x")])) == "llava"
    assert guess_format(write(folder, ["bad", row("x", conversation=turns("Q", "<think>R</think>A"))])) == "vision_r1"
    puzzle = {"image": "a.png", "question": "Q?", "options": [1, 2], "answer": 2}
    puzzle |= {"caption": "C.", "explanation": "E.", "deduction": "D."}
    (sample,) = Source(write(folder, [puzzle])).samples()
    assert (sample.question, sample.answer, sample.rationale) == ("Q?\nOptions: A: 1, B: 2", "B", "C. E. D.")
    nlvr = {"identifier": "7", "sentence": "There is a box.", "label": "true", "images": ["a.png", "b.png"]}
    samples = list(Source(write(folder, [nlvr])).samples())
    assert [(one.id, one.answer, one.image) for one in samples] == [("7#0", "yes", "a.png"), ("7#1", "yes", "b.png")]
    with pytest.raises(LareError, match="name it: llava"):
        guess_format(write(folder, [{"x": 1}]))


@pytest.mark.parametrize("changes", [{"label": "maybe"}, {"images": "a.png"}, {"sentence": ""}])
def test_bad_nlvr_rows(folder, changes):
    rows = [{"sentence": "S", "label": "true", "images": ["a.png"]} | changes]
    report = Report()
    assert not list(Source(write(folder, rows), "nlvr").samples(report)) and report.bad == 1


def test_pictures_from_archives(folder):
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        archive.writestr("inside/b.png", png(1))
    pictures = pickle.loads(pickle.dumps(Pictures(folder)))  # as worker processes get it
    assert pictures.read("inside/b.png") == png(1) and pictures.read("a.png") == png()
    with pytest.raises(BadRow, match="no image 'b.png'"):
        pictures.read("b.png")
    (folder / "images.zip").write_bytes(b"PK nothing")
    with pytest.raises(LareError, match="zip archive"):
        Pictures(folder)
    with pytest.raises(LareError, match="--images"):
        Pictures(folder / "none")


LOOKS = {"a.png": None, "none.png": "image_missing", "empty.png": "image_empty", "link.png": "image_outside"}
LOOKS |= {"../secret.png": "image_outside", "sub/inside.png": None, "out/secret.png": "image_outside"}
LOOKS |= {"loop.png": "image_missing", "sub": "image_missing", "good_link.png": None, "zipped.png": None}
LOOKS |= {"zipped_empty.png": "image_empty", "no\0name": "image_missing"}


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_at_an_image_says_what_reading_it_says(folder, name):
    (folder / "sub").mkdir()
    (folder / "sub" / "inside.png").write_bytes(png())
    (folder / "out").symlink_to(folder.parent)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "good_link.png").symlink_to(folder / "sub" / "inside.png")
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        archive.writestr("zipped.png", png(1))
        archive.writestr("zipped_empty.png", b"")
    for ask in (Pictures(folder).check, Pictures(folder).read):
        try:
            ask(name)
            found = None
        except BadRow as bad:
            found = bad.kind
        assert found == LOOKS[name], ask


def test_looking_for_images_reads_none(folder, monkeypatch):
    path = write(folder, [row("good"), row("bad", "none.png"), row("worse", "empty.png")])
    monkeypatch.setattr(Pictures, "read", lambda *_: pytest.fail("read"))
    report = Report()
    assert len(list(Source(path, "llava", check_images="exist").samples(report))) == 1
    assert report.kinds == {"image_missing": 1, "image_empty": 1}


def test_every_image_of_a_row_is_looked_at(folder):
    nlvr = {"sentence": "S", "label": "true", "images": ["a.png", "none.png"]}
    report = Report()
    assert not list(Source(write(folder, [nlvr]), "nlvr", check_images="exist").samples(report))
    assert report.kinds == {"image_missing": 1}


def test_unknown_options_are_refused(folder):
    with pytest.raises(LareError, match="on_bad is 'maybe'; choose one of skip, refuse"):
        Source(folder / "x.json", on_bad="maybe")


def test_the_command_counts_lists_and_tells_by_its_exit_code(folder, capsys):
    path = write(folder, [row("good"), row("bad", "none.png"), row("worse", conversation=turns("<image>", "A"))])
    assert main(["data", "check", str(path), "--list", str(folder / "bad.jsonl")]) == 1
    printed = capsys.readouterr().out
    assert "3 rows, 1 samples" in printed and "image_missing" in printed
    assert "data.json:3: a question is empty" in printed
    lines = (folder / "bad.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["image_missing", "empty_question"]
    assert main(["data", "check", str(path), "--on-bad", "refuse"]) == 2
    assert main(["data", "check", str(write(folder, [row("good")])), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["with_image"] == 1
    assert main(["data", "check", str(folder / "none.json")]) == 2
    assert main(["data", "check", str(path), "--list", str(folder / "no" / "bad.jsonl")]) == 2
