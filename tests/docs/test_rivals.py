"""The table against the rivals says what the committed rows say."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / "docs" / "blocks").exists(), reason="runs in a checkout only")


@pytest.fixture(scope="module")
def blocks():
    sys.path.insert(0, str(ROOT / "docs"))
    from blocks import rivals
    from blocks.source import Reports

    return rivals, Reports(ROOT / "reports")


def many(arm, start):
    """Share of right test answers to questions of two hops or more, out of a row's sums."""
    (path,) = (ROOT / "reports/experiments/comparison/rows").glob(f"{arm}__{start}__0__*K4.test.json")
    hops = json.loads(path.read_text())["by"]["hops"]
    kept = [(count, count * share) for name, (count, share) in hops.items() if int(name) > 1]
    return 100 * sum(right for _, right in kept) / sum(count for count, _ in kept)


def test_the_primary_row_is_the_mean_over_starts_of_paired_differences(blocks):
    rivals, reports = blocks
    starts = [f"neutral2-{number}" for number in range(1, 7)]
    gaps = [many("lare", start) - many("random", start) for start in starts]
    (line,) = (one for one in rivals._comparison_rivals(reports).splitlines() if "random windows" in one)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == "6"
    assert float(cells[3]) == pytest.approx(np.mean([many("random", start) for start in starts]), abs=0.06)
    assert float(cells[5]) == pytest.approx(np.mean(gaps), abs=0.06)
    low, high = (float(end) for end in cells[6].split(" to "))
    assert low < float(cells[5]) < high


def test_a_single_start_carries_no_interval(blocks, monkeypatch):
    rivals, reports = blocks
    kept = rivals.gather

    def first(plan, split):
        found = kept(plan, split)
        return [_with_one_start(one) if one.name == "random" else one for one in found]

    monkeypatch.setattr(rivals, "gather", first)
    (line,) = (one for one in rivals._comparison_rivals(reports).splitlines() if "random windows" in one)
    assert [cell.strip() for cell in line.strip("|").split("|")][6:9] == ["", "", ""]


def _with_one_start(one):
    from dataclasses import replace

    return replace(one, asked=replace(one.asked, starts=one.asked.starts[:1], values=one.asked.values[:1]))
