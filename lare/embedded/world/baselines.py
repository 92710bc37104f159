"""What can be reached without looking, by question family and answer format: chance, majority, a blind guesser.

The majority answer knows a question's family and options and takes what is most often right among training questions.
The blind guesser (`lare.embedded.world.blind`) reads the words too. The oracle reads the words and the scene and says
whether the world's answers are right at all. A family that is answerable blind above chance tells nothing about vision.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lare.commands import command
from lare.embedded.world.blind import Blind, BlindBaseline
from lare.embedded.world.concepts import CATEGORIES, COLOUR_NAMES, DIRECTIONS, FUNCTIONS, KINDS
from lare.embedded.world.items import STYLES, Item, ItemSampler
from lare.embedded.world.scene import CELLS
from lare.embedded.world.v2.oracle import oracle
from lare.embedded.world.versions import world
from lare.embedded.world.wording import place
from lare.errors import LareError

__all__ = ["Baselines", "baselines", "main", "markdown", "open_options", "totals"]

_OPEN = {
    "kind": KINDS,
    "colour": COLOUR_NAMES,
    "direction": DIRECTIONS,
    "digit": tuple("0123456789"),
    "place": tuple(place(cell) for cell in range(CELLS)),
    "function": tuple(FUNCTIONS.values()),
    "category": tuple(CATEGORIES),
    "yesno": ("yes", "no"),
}
"""Type of an answer -> everything that it may be; questions of other types name their options themselves."""


def open_options(item: Item) -> tuple[str, ...]:
    """What an item's answer may be: its options, else every answer of its type."""
    return item.choices or item.question.options or _OPEN[item.question.answer_type]


@dataclass(frozen=True)
class Baselines:
    """Shares in [0, 1] of one family in one format.

    Attributes:
        family: Question family; `all` for every one together.
        style: Answer format; `all` for every one together.
        n: Questions asked.
        chance: One over the number of options, on average.
        majority: Right with the commonest answer of the family among those offered.
        blind: Right with the blind guesser.
        oracle: Right with the oracle.
    """

    family: str
    style: str
    n: int
    chance: float
    majority: float
    blind: float
    oracle: float


def _items(version: int, split: str, family: str, style: str, n: int, first: int) -> Iterator[Item]:
    """`n` questions of a family in a format, at most two a scene."""
    made = world(version)
    sampler = ItemSampler({family: 1.0}, {style: 1.0}, (first, family, style), version)
    seen = number = 0
    while seen < n and number < 30 * n:
        scene = made.sample_scene(split, first + number)
        for item in (sampler.draw(scene, style), sampler.draw(scene, style)):
            if item is not None and seen < n and item.style == style:
                seen += 1
                yield item
        number += 1


def _view(item: Item) -> Blind:
    options = open_options(item)
    return Blind(item.question.stem, options, options.index(item.final))


def _score(family: str, style: str, train: Sequence[Blind], items: Sequence[Item]) -> Baselines:
    guesser, common = BlindBaseline().fit(train), Counter(one.options[one.index] for one in train)
    views = [_view(item) for item in items]
    n = len(views)
    most = [max(view.options, key=lambda option: common[option]) == view.options[view.index] for view in views]
    told = [oracle(item.scene, item.question.stem) == item.final for item in items if item.scene is not None]
    return Baselines(
        family,
        style,
        n,
        sum(1 / len(view.options) for view in views) / n,
        sum(most) / n,
        sum(guesser.answer(view) == view.index for view in views) / n,
        sum(told) / n,
    )


def baselines(
    version: int = 2, split: str = "validation", n: int = 400, n_train: int = 3_000, styles: Sequence[str] = STYLES
) -> list[Baselines]:
    """The baselines of every family in every format that holds it.

    Args:
        version: Version of the world; the oracle reads version 2.
        split: Split of the questions that are asked; the guessers learn from the train split.
        n: Questions a family and format.
        n_train: Questions that the guessers learn from, each family and format.
        styles: Formats.
    """
    found = []
    for family in world(version).families:
        for style in styles:
            items = list(_items(version, split, family, style, n, 500_000))
            if items:
                train = [_view(item) for item in _items(version, "train", family, style, n_train, 600_000)]
                found.append(_score(family, style, train, items))
    return found


def _mean(rows: Sequence[Baselines], family: str, style: str) -> Baselines:
    n = sum(row.n for row in rows)
    parts = (sum(getattr(row, name) * row.n for row in rows) / n for name in ("chance", "majority", "blind", "oracle"))
    return Baselines(family, style, n, *parts)


def totals(rows: Sequence[Baselines]) -> list[Baselines]:
    """Each family over its formats, then each format over its families, then all."""
    families: defaultdict[str, list[Baselines]] = defaultdict(list)
    styles: defaultdict[str, list[Baselines]] = defaultdict(list)
    for row in rows:
        families[row.family].append(row)
        styles[row.style].append(row)
    return [
        *(_mean(part, family, "all") for family, part in families.items()),
        *(_mean(part, "all", style) for style, part in styles.items()),
        _mean(rows, "all", "all"),
    ]


def markdown(rows: Sequence[Baselines], version: int, split: str) -> str:
    """The table as Markdown, families over all formats first, then formats, then both."""
    lines = [
        f"# What version {version} of the embedded world gives away without looking",
        "",
        f"Per cent right on the {split} split; made by `python -m lare.embedded.world.baselines`. Majority: the",
        "commonest answer of the family among those offered. Blind: a guesser that reads the words. Oracle: reads",
        "words and scene.",
        "",
        "| family | format | questions | chance | majority | blind | blind - chance | oracle |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in [*totals(rows), *rows]:
        shares = (row.chance, row.majority, row.blind, row.blind - row.chance, row.oracle)
        lines.append(f"| {row.family} | {row.style} | {row.n} | " + " | ".join(f"{100 * s:.1f}" for s in shares) + " |")
    return "\n".join(lines) + "\n"


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table: ``python -m lare.embedded.world.baselines --out reports/world2_baselines.md``."""
    parser = argparse.ArgumentParser(prog="python -m lare.embedded.world.baselines", description=main.__doc__)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--n", type=int, default=400, help="questions a family and format (default: %(default)s)")
    parser.add_argument("--n-train", type=int, default=3_000, help="of the guessers' (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reports/world2_baselines.md"))
    args = parser.parse_args(arguments)
    text = markdown(baselines(2, args.split, args.n, args.n_train), 2, args.split)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf8")
    except OSError as error:
        raise LareError(f"cannot write {args.out}: {error.strerror}; name another file with --out") from error
    print(text)


if __name__ == "__main__":
    raise SystemExit(main())
