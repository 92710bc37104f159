"""The tables on photographs say what the committed rows say, beside what the question's words give away."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "reports/experiments"

pytestmark = pytest.mark.skipif(not (ROOT / "docs" / "blocks").exists(), reason="runs in a checkout only")


@pytest.fixture(scope="module", params=["photographs", "photographs_longer", "photographs_often"])
def grid(request):
    return request.param


@pytest.fixture(scope="module")
def lines(grid):
    """Cells of each table's lines."""
    sys.path.insert(0, str(ROOT / "docs"))
    from blocks import photos
    from blocks.source import Reports

    def cells(made):
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in made.splitlines()[2:]]

    reports = Reports(ROOT / "reports")
    return {"results": cells(photos.results(reports, grid)), "families": cells(photos.families(reports, grid))}


def _split(grid):
    """Validation rows stand there until test questions have been asked."""
    return "test" if any((EXPERIMENTS / grid / "rows").glob("*.test.json")) else "validation"


def test_an_arm_s_line_is_the_mean_of_its_rows(lines, grid):
    paths = sorted((EXPERIMENTS / grid / "rows").glob(f"lare__*__K2.{_split(grid)}.json"))
    rows = [json.loads(path.read_text()) for path in paths]
    assert rows
    (line,) = (one for one in lines["results"] if one[0] == rows[0]["title"])
    assert line[1] == str(len(rows))
    for task, cell in zip(rows[0]["scores"], line[2:5], strict=True):
        share = 100 * sum(row["scores"][task] for row in rows) / len(rows)
        value, _, span = cell.partition(" ")
        low, high = (float(end) for end in span.strip("[]").split(", "))
        assert float(value) == pytest.approx(share, abs=0.051) and low < share < high
        assert high - low > 2  # photographs are drawn, not questions


def test_families_add_up_to_their_task(lines):
    (total,) = (one for one in lines["results"] if one[0].startswith("LaRe, soft"))
    tasks = dict.fromkeys(line[0].strip("`") for line in lines["families"])
    for task, cell in zip(tasks, total[2:5], strict=True):
        kept = [line for line in lines["families"] if line[0] == f"`{task}`"]
        count = sum(int(line[2].replace(",", "")) for line in kept)
        right = sum(int(line[2].replace(",", "")) * float(line[4].partition(" ")[0]) for line in kept)
        assert right / count == pytest.approx(float(cell.partition(" ")[0]), abs=0.1)


def test_the_words_alone_are_the_blind_baseline(lines, grid):
    file = "blind_daquar.json" if _split(grid) == "test" else "blind_daquar_validation.json"
    blind = {row["family"]: row for row in json.loads((ROOT / "reports/photos" / file).read_text())}
    (line,) = (one for one in lines["results"] if one[0].startswith("the likeliest"))
    assert f"{100 * blind['all']['question_only']:.1f}" in line
