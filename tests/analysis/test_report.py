"""Documents, how they are rendered and written, and the analyses' shared command."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.shared.cli import reproduce, run
from analysis.shared.options import Options
from analysis.shared.report.answers import Answer, answered, numbers, row
from analysis.shared.report.document import Claim, Column, Document, Table
from analysis.shared.report.index import main as index_main
from analysis.shared.report.index import write_index
from analysis.shared.report.render import environment, render
from analysis.shared.report.values import csv_cells, plain_text, shown
from lare.errors import LareError
from tests.analysis.documents import document
from tests.analysis.hostile import HOSTILE

WORDS = ("What color is it?", "a1 red cup.", "white", "yes")


class Elements(HTMLParser):
    """Collects elements with their attributes, and refuses what a browser would mend silently."""

    VOID = {"meta", "input", "br", "img", "link", "wbr"}

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"


def elements(text: str) -> Elements:
    parser = Elements()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def test_the_same_document_gives_the_same_bytes_also_through_json() -> None:
    made = document(WORDS, 3)
    assert render(made) == render(made) == render(Document.from_json(made.to_json()))


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    made = document(WORDS, 2)
    (tmp_path / "made.json").write_text(made.to_json(), encoding="utf-8")
    code = (
        "import sys; from analysis.shared.report.document import Document;"
        "from analysis.shared.report.render import render;"
        "sys.stdout.buffer.write(render(Document.from_json(open(sys.argv[1], encoding='utf-8').read())).encode())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "made.json")], capture_output=True, check=True)
    assert done.stdout.decode() == render(made)


def test_markup_is_whole_and_ids_are_unique() -> None:
    found = elements(render(document(WORDS, 3))).found
    ids = [one["id"] for _, one in found if "id" in one]
    assert len(ids) == len(set(ids))
    for _, attributes in found:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert set((attributes.get(name) or "").split()) <= {*ids, "viewer-title"}
    assert dict(found)["html"] == {"lang": "en"}


def test_ids_that_the_page_or_another_block_has_are_given_once() -> None:
    """Tables and figures may be called as the page's own parts are, or as one another; the rest keeps its names."""
    made = document(WORDS, 3)
    named = dict(enumerate(("more", made.figures[0].id)))
    tables = tuple(replace(one, id=named.get(place, one.id)) for place, one in enumerate(made.tables))
    figures = (made.figures[0], replace(made.figures[1], id="warnings"), *made.figures[2:])
    text = render(replace(made, tables=tables, figures=figures))
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert {"more", "more-table", f"{made.figures[0].id}-figure", "warnings-figure"} <= set(ids)
    for names in re.findall(r'aria-labelledby="([^"]+)"', text):
        assert set(names.split()) <= {*ids, "viewer-title"}  # which the script makes
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_no_address_outside_is_named() -> None:
    for tag, attributes in elements(render(document(HOSTILE, 5))).found:
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster", "data"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("#", "data:")), (tag, name, value)
        assert not [name for name in attributes if name.startswith("on")]


def test_hostile_texts_make_no_element() -> None:
    plain, hostile = (
        elements(render(document(words, 4, charts=False))).found for words in (("x",) * len(HOSTILE), HOSTILE)
    )
    assert all(not attributes for tag, attributes in hostile if tag == "wbr")  # where long words may be broken
    assert [tag for tag, _ in plain if tag != "wbr"] == [tag for tag, _ in hostile if tag != "wbr"]


def test_long_words_of_a_table_break_after_slashes_and_stay_escaped() -> None:
    breakable = environment().filters["breakable"]
    assert breakable("a/b_c") == "a/b_c" and breakable("x" * 40) == "x" * 40
    path = "reports/experiments/some_grid/rows/arm.json"
    assert str(breakable(path)) == path.replace("/", "/<wbr>").replace("_", "_<wbr>")
    made = str(breakable("<script>alert('a/b_c/d_e/f_g/h')</script>"))
    assert "<script" not in made and made.replace("<wbr>", "").count("<") == 0


def test_order_answer_samples_numbers_figures_tables_methods_reproduce() -> None:
    made = document(WORDS, 3)
    first, second = (figure.id for figure in made.figures[:2])
    rest = f"samples viewer list numbers warnings-title main-table figures {second} more methods reproduce"
    for lead, parts in (("figure", f"verdict-title {first} {rest}"), ("samples", f"verdict-title {rest}")):
        text = render(replace(made, lead=lead))
        places = [text.index(f'id="{name}"') for name in parts.split()]
        assert places == sorted(places)
        assert text.index('id="samples"') < text.index('id="numbers"')
        assert (text.index(f'id="{first}"') < text.index('id="samples"')) == (lead == "figure")


def test_the_answer_stands_first_with_the_papers_claim_and_whether_it_is_seen() -> None:
    made = replace(document(WORDS, 0), question="Does it <i>help</i>?", answer="It helps", details=("All of it.",))
    text = render(replace(made, claim=Claim("It helps a lot (Table 9).", "undecided", "Too few questions.")))
    places = [text.index(words) for words in ("Does it &lt;i&gt;help", "It helps.", "Too few questions.", "All of it.")]
    assert places == sorted(places) and "Undecided here" in text
    assert "seen here" not in render(made).lower()


def test_unknown_words_for_seen_and_lead_are_refused() -> None:
    with pytest.raises(LareError, match="perhaps"):
        Claim("x", "perhaps", "y")
    with pytest.raises(LareError, match="table"):
        replace(document(WORDS, 0, charts=False), lead="table")


def test_reports_of_version_1_are_read_and_answered(tmp_path: Path) -> None:
    content = json.loads(document(WORDS, 1, charts=False).to_json())
    for name in ("question", "answer", "claim", "details", "lead"):
        del content[name]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(content | {"version": 1}))

    def answer(made: Document) -> Answer:
        return Answer("Is it so?", f"It is, {row(made, 'main-table')['n']} times", "It is so.")

    assert run(MadeOptions, compute, "Makes a report up.", ["--from", str(path)], answer) == 0
    text = path.with_suffix(".html").read_text(encoding="utf-8")
    assert "Is it so?" in text and content["verdict"] in text, "the long verdict is kept among the details"
    assert run(MadeOptions, compute, "Makes a report up.", ["--from", str(path)]) == 0


def test_a_report_without_the_needed_table_stays_as_it_is() -> None:
    made = document(WORDS, 0, charts=False)
    assert answered(made, lambda one: Answer("q", str(row(one, "no such table")), "v")) == made


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("K4 against K0, L2 and 4 steps", ["4"]),
        ("-10.3 points [-11.9, -8.6].", ["-10.3", "-11.9", "-8.6"]),
        ("1,500 questions, 7 % of it", ["1,500", "7"]),
        ("p = 1e-300", ["1e-300"]),
    ],
)
def test_numbers_of_a_verdict_are_counted(text, found) -> None:
    assert numbers(text) == found


def test_a_stand_in_is_named_beside_the_verdict_and_only_then() -> None:
    made = document(WORDS, 0, charts=False)
    words = "not results on the benchmarks"
    assert words in render(made)
    assert words not in render(replace(made, stand_in=False))


def test_a_report_without_samples_has_no_script() -> None:
    text = render(document(WORDS, 0, charts=False))
    assert "<script" not in text and 'id="samples"' not in text


@pytest.mark.parametrize(
    ("value", "column", "words"),
    [
        (None, Column("x", "x", "number"), "–"),
        (math.nan, Column("x", "x", "percent"), "–"),
        (math.inf, Column("x", "x", "number"), "–"),
        (-0.1234, Column("x", "x", "number", 2), "−0.12"),
        (-0.001, Column("x", "x", "number", 2), "0.00"),
        (79.84, Column("x", "x", "percent", 1), "79.8 %"),
        (2404, Column("x", "x", "count"), "2,404"),
        (1e-320, Column("x", "x", "p"), "< 1e-300"),
        (0.0, Column("x", "x", "p"), "< 1e-300"),
        (0.00042, Column("x", "x", "p"), "4.2e-04"),
        (0.0312, Column("x", "x", "p"), "0.031"),
        ((-1.25, 3), Column("x", "x", "interval", 1), "[−1.2, 3.0]"),
        ((None, 3), Column("x", "x", "interval", 1), "–"),
        (True, Column("x", "x", "mark"), "✓ right"),
        (False, Column("x", "x", "mark"), "✗ wrong"),
        ("words", Column("x", "x", "number"), "words"),
    ],
)
def test_values_are_shown_as_their_column_says(value, column, words) -> None:
    assert shown(value, column) == words


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.floats(), st.none() | st.booleans()), max_size=5))
def test_any_texts_and_numbers_survive_json_and_rendering(rows) -> None:
    columns = (Column("a", "A"), Column("b", "B", "number"), Column("c", "C", "mark"))
    table = Table("t", "Anything.", columns, tuple({"a": a, "b": b, "c": c} for a, b, c in rows))
    made = replace(document(WORDS, 0, charts=False), tables=(table,))
    again = Document.from_json(made.to_json())
    assert [row["a"] for row in again.tables[0].rows] == [row[0] for row in rows]
    assert render(made) == render(again)


def test_csv_keeps_full_precision_and_splits_intervals() -> None:
    columns = (Column("name", "Name"), Column("x", "X", "number", 1), Column("i", "I", "interval"))
    table = Table("t", "c", columns, ({"name": "a", "x": 0.123456789, "i": (1.5, 2.5)}, {"name": "b"}))
    assert csv_cells(table) == [["name", "x", "i_low", "i_high"], ["a", 0.123456789, 1.5, 2.5], ["b", None, None, None]]


def test_plain_text_is_aligned() -> None:
    table = Table(
        "t", "c", (Column("n", "Name"), Column("x", "X", "number", 1)), ({"n": "longer", "x": 1}, {"n": "b", "x": 22})
    )
    assert plain_text(table).splitlines() == ["Name       X", "------  ----", "longer   1.0", "b       22.0"]


# --- The command ---------------------------------------------------------------------------------------------------


def compute(options: Options):
    made = replace(document(WORDS, 2, charts=False), reproduce=reproduce(options, {"weights": "c0ffee"}))
    return made, {"scores": np.arange(3)}


class MadeOptions(Options):
    name, example = "made", "python -m analysis.made"


def test_the_command_writes_every_file_and_renders_again_the_same(tmp_path: Path, capsys) -> None:
    out = tmp_path / "deep" / "made.html"
    assert run(MadeOptions, compute, "Makes a report up.", ["--out", str(out), "--now", "noon"]) == 0
    printed = capsys.readouterr().out
    assert "33.6 points" in printed and "warning: There are few clusters" in printed and printed.endswith(f"{out}\n")
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "index.html", "made.csv", "made.html", "made.json", "made.npz", "made.second.csv",
    ]  # fmt: skip
    with (out.parent / "made.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.reader(file))[:3] == ["name", "share", "interval_low"]
    with np.load(out.with_suffix(".npz"), allow_pickle=False) as arrays:
        assert arrays["scores"].tolist() == [0, 1, 2]
    first = out.read_bytes()
    out.unlink()
    assert run(MadeOptions, compute, "Makes a report up.", ["--from", str(out.with_suffix(".json"))]) == 0
    assert out.read_bytes() == first
    assert (
        run(
            MadeOptions,
            compute,
            "Makes a report up.",
            ["--from", str(out.with_suffix(".json")), "--out", str(tmp_path / "other.html")],
        )
        == 0
    )
    assert (tmp_path / "other.html").read_bytes() == first


def test_two_runs_at_a_fixed_time_are_equal(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    contents = []
    for _ in range(2):
        assert run(MadeOptions, compute, "Makes a report up.", ["--out", str(tmp_path / "made.html")]) == 0
        contents.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert contents[0] == contents[1]
    content = json.loads(contents[0]["made.json"])["reproduce"]
    assert content["time"] == "1970-01-02 00:00 UTC"
    assert content["command"].startswith("python -m analysis.made --out ")
    assert re.fullmatch(r"([0-9a-f]{12}(-dirty)?)?", content["commit"])
    assert content["versions"]["numpy"] == np.__version__ and content["seeds"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "can't be read"),
        ("{", "no JSON"),
        ("[]", "no report"),
        ('{"format": "lare-report", "version": 99}', "version 99"),
        ('{"format": "lare-report", "version": 1, "name": "x"}', "damaged"),
    ],
)
def test_a_bad_report_file_is_one_line_on_stderr(tmp_path: Path, capsys, content, words) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    assert run(MadeOptions, compute, "Makes a report up.", ["--from", str(path)]) == 2
    caught = capsys.readouterr()
    assert words in caught.err and "bad.json" in caught.err and caught.err.count("\n") == 1 and not caught.out
    assert not path.with_suffix(".html").exists()


def test_an_analysis_that_fails_writes_nothing(tmp_path: Path, capsys) -> None:
    def broken(options):
        raise LareError("the trace is empty; evaluate again")

    assert run(MadeOptions, broken, "Makes a report up.", ["--out", str(tmp_path / "made.html")]) == 2
    assert capsys.readouterr().err == "python -m analysis.made: the trace is empty; evaluate again\n"
    assert not list(tmp_path.iterdir())


def test_an_impossible_target_is_refused(tmp_path: Path, capsys) -> None:
    assert run(MadeOptions, compute, "Makes a report up.", ["--out", str(tmp_path / "made.pdf")]) == 2
    assert ".html" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run(MadeOptions, compute, "Makes a report up.", ["--out", str(tmp_path / "file" / "made.html")]) == 2
    assert "can't be written" in capsys.readouterr().err


# --- The index -----------------------------------------------------------------------------------------------------


def test_the_index_links_every_report_beside_it_and_names_what_it_cannot(tmp_path: Path) -> None:
    for name, title in (("one", "First <b>"), ("two two", "Second")):
        made = replace(document(WORDS, 0, charts=False), name=name, title=title)
        (tmp_path / f"{name}.json").write_text(made.to_json(), encoding="utf-8")
        (tmp_path / f"{name}.html").write_text(render(made), encoding="utf-8")
    (tmp_path / "other.json").write_text('{"rows": []}')
    (tmp_path / "cut.json").write_text('{"format": "lare-rep')
    (tmp_path / "cut.html").write_text("")
    text = write_index(tmp_path).read_text(encoding="utf-8")
    links = [one["href"] for tag, one in elements(text).found if tag == "a" and one.get("class") != "skip"]
    assert links == ["one.html", "two%20two.html"]
    assert "First &lt;b&gt;" in text and "33.6 points" in text and "noon" in text
    assert "cut.json" in text and "other.json" not in text


def test_the_index_command(tmp_path: Path, capsys) -> None:
    assert index_main([str(tmp_path)]) == 0
    assert "no report here yet" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert index_main([str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().err
