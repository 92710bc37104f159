"""``python -m lare.embedded.world``: a sheet of scenes with questions about them, to look at."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from lare.commands import command
from lare.embedded.world.items import ItemSampler
from lare.embedded.world.render import render_image
from lare.embedded.world.scene import IMAGE_SIZE
from lare.embedded.world.versions import WORLDS, World, world
from lare.errors import LareError

__all__ = ["main", "sheet"]

_SCALE, _LINE, _WIDTH, _LETTERS = 2, 13, 470, 75
"""Enlargement of a picture, pixels a line of text and a column of text, letters a line."""


def _told(made: World, split: str, seed: int, questions: int) -> tuple[Image.Image, list[str]]:
    """A scene's picture, and lines of text: each question with its rationale, answer and difficulty."""
    scene = made.sample_scene(split, seed)
    sampler = ItemSampler(dict.fromkeys(made.families, 1.0), {"open": 1.0}, (seed, questions), made.version)
    lines = [scene.name]
    for item in sampler.sample(scene, questions):
        asked = item.question
        text = f"{asked.stem} {' '.join(asked.rationale)} -> {item.final} [{asked.family}, {item.difficulty}]"
        lines += textwrap.wrap(text, _LETTERS, subsequent_indent="   ")
    return render_image(scene), lines


def sheet(version: int = 2, split: str = "train", scenes: int = 12, questions: int = 4, first: int = 0) -> Image.Image:
    """Scenes in two columns, each picture enlarged beside its questions.

    Args:
        version: Version of the world.
        split: Split of the scenes.
        scenes: How many.
        questions: Questions about each.
        first: Number of the first scene.
    """
    side = _SCALE * IMAGE_SIZE
    made = [_told(world(version), split, first + i, questions) for i in range(scenes)]
    height = max([side, *(_LINE * len(lines) for _, lines in made)]) + 8
    canvas = Image.new("RGB", (2 * (side + _WIDTH), height * ((scenes + 1) // 2)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (picture, lines) in enumerate(made):
        left, top = number % 2 * (side + _WIDTH), number // 2 * height
        canvas.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, top))
        for i, line in enumerate(lines):
            draw.text((left + side + 6, top + _LINE * i), line, fill="black")
    return canvas


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Write a sheet of scenes with questions."""
    parser = argparse.ArgumentParser(
        prog="python -m lare.embedded.world",
        description=main.__doc__,
        epilog="example: python -m lare.embedded.world --version 2 --scenes 12 --out sheet.png",
    )
    parser.add_argument("--version", type=int, choices=tuple(WORLDS), default=max(WORLDS))
    parser.add_argument("--split", choices=("train", "validation", "test"), default="train")
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--questions", type=int, default=4, help="about each scene")
    parser.add_argument("--first", type=int, default=0, help="number of the first scene")
    parser.add_argument("--out", type=Path, default=Path("world.png"))
    args = parser.parse_args(arguments)
    if args.scenes < 1 or args.questions < 1:
        raise LareError("--scenes and --questions are at least 1")
    try:
        sheet(args.version, args.split, args.scenes, args.questions, args.first).save(args.out)
    except (OSError, ValueError) as error:
        raise LareError(
            f"cannot write {args.out} ({error}); name another file with --out, such as sheet.png"
        ) from error
    print(f"{args.out}: {args.scenes} scenes of the {args.split} split, version {args.version}")


if __name__ == "__main__":
    raise SystemExit(main())
