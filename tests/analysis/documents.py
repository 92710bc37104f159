"""Reports made up for tests: every kind of column, figure and sample, with texts of the caller's choice."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from analysis.shared.report.document import (
    Column,
    Document,
    Figure,
    Picture,
    Reproduce,
    Sample,
    Series,
    Step,
    Table,
    View,
)

GRID = 8


def bytes64(values: np.ndarray) -> str:
    return base64.b64encode(np.asarray(values, np.uint8).tobytes()).decode()


def picture(side: int = 64, seed: int = 0) -> Picture:
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), np.ones((side // 8, side // 8, 1), np.uint8))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return Picture("A made-up picture", base64.b64encode(file.getvalue()).decode())


def steps(count: int, words: Sequence[str], seed: int = 0) -> tuple[Step, ...]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        inside = np.zeros((GRID, GRID))
        top, left = rng.integers(0, 5, 2)
        inside[top : top + 4, left : left + 4] = 1
        made.append(
            Step(
                label=f"step {i + 1} of {count}",
                map=bytes64(rng.integers(0, 256, (GRID, GRID)) * inside),
                scale=0.1 * (i + 1),
                inside=bytes64(inside),
                window=(int(top), int(left), 4, 4),
                boxes=((0.1, 0.2, 0.4, 0.5),),
                text=words[i % len(words)],
                numbers={"entropy": 2.0 + i, "travel": None if i == 0 else 1.5},
            )
        )
    return tuple(made)


def sample(i: int, words: Sequence[str], image: Picture | None = None) -> Sample:
    def word(k: int) -> str:
        return words[(i + k) % len(words)]

    thinking = View(
        "thinking",
        word(0),
        i % 2 == 0,
        word(1),
        steps(4, [word(2), word(3)], i),
        GRID,
        {"tokens": 10 + i, "stop": "fixed"},
    )
    direct = View("direct", word(4), i % 3 == 0, word(5))
    return Sample(
        id=f"s{i:04d}",
        task=f"task {i % 3} {words[0]}",
        question=word(6),
        target=word(7),
        views=(thinking, direct),
        picture=image or picture(seed=i),
        facts={"hops": i % 4, "sort": word(8)},
        chosen="discordant" if i % 2 else "random",
    )


def tables(words: Sequence[str]) -> tuple[Table, ...]:
    columns = (
        Column("name", "Model", help="Which weights answered"),
        Column("share", "Accuracy", "percent", 1, help="Share of right answers"),
        Column("interval", "95 % interval", "interval", 1),
        Column("n", "n", "count"),
        Column("p", "p", "p"),
        Column("right", "Held", "mark"),
        Column("value", "Effect", "number", 3),
        Column("words", "Words"),
    )
    rows = [
        {
            "name": word, "share": 79.84, "interval": (78.2, 81.4), "n": 2404, "p": 1e-310 if i else 0.0312,
            "right": bool(i % 2), "value": -0.1234, "words": word,
        }
        for i, word in enumerate(words)
    ]  # fmt: skip
    empty = {"name": "nothing known", "share": None, "interval": None, "n": None, "p": None, "right": None}
    return (
        Table("main-table", "What was measured.", columns, (*rows, empty), "Read with care.", main=True),
        Table("second", "More of it.", columns[:4], tuple(rows)),
    )


def figures(word: str = "a name") -> tuple[Figure, ...]:
    steps_at, low, high = (1.0, 2.0, 3.0, 4.0), (0.1, 0.2, 0.3, None), (0.3, 0.4, 0.5, None)
    line = Series(word, steps_at, (0.2, 0.3, 0.4, None), low, high)
    bars = Series(word, ("one hop", "two hops", "three"), (1.0, 2.0, 1.5), (0.8, 1.8, 1.2), (1.2, 2.2, 1.8))
    other = Series("the other", ("one hop", "two hops", "three"), (0.5, 1.0, 0.7))
    rows = tuple(Series(f"layer {i}", ("h1", "h2", "h3"), (0.1 * i, -0.2, 0.3)) for i in range(4))
    return (
        Figure("curve", f"Curve {word}", "Rises with the steps.", "lines", (line, line), "step", "share", 0.25),
        Figure("bars", "Bars", "Taller is more.", "bars", (bars, other), "hops", "share"),
        Figure("stack", "Stacked", "Adds up.", "stacked", (bars, other), "hops", "share"),
        Figure("hist", "Histogram", "Counts.", "histogram", (Series("x", (0.0, 1.0, 2.0), (3.0, 5.0)),), "x", "n"),
        Figure("grid", "Heads", "Brighter is more.", "grid", rows, "head", "layer", diverging=True),
        Figure("forest", "Intervals", "Right of 0 is more.", "intervals", (bars,), "difference", "", 0.0),
    )


def document(words: Sequence[str], count: int = 30, charts: bool = True) -> Document:
    return Document(
        name="made",
        title=f"A made-up report {words[0]}",
        verdict=f"Thinking is ahead by 33.6 points [31.2, 36.0], n = 2,404. {words[-1]}",
        reproduce=Reproduce(
            f"python -m analysis.made --out {words[0]}",
            "abc123-dirty",
            (0, 1),
            {"numpy": "2"},
            {"weights": "c0ffee"},
            "noon",
        ),
        warnings=(f"There are few clusters. {words[-1]}",),
        tables=tables(words),
        figures=figures(words[0]) if charts else (),
        samples=tuple(sample(i, words) for i in range(count)),
        sampling=f"{count} of {count}.",
        methods=("What was computed.", words[0]),
    )
