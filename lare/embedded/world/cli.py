"""``lare world``: write mini tasks of the embedded world to a folder and print what is answerable blind."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lare.embedded.world.benchmark import SIZES_BY_TASK, TASKS, make_task
from lare.embedded.world.blind import blind_score, format_table
from lare.embedded.world.versions import WORLDS
from lare.errors import LareError
from lare.progress import progress


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lare world",
        description="Make a data set of the embedded world (PNG images and one JSONL a task), and its blind table.",
        epilog="example: lare world --split validation --n 100 --out world_data",
    )
    parser.add_argument("--split", choices=("train", "validation", "test"), default="validation")
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"comma-separated, of {', '.join(TASKS)}")
    parser.add_argument("--n", type=int, default=None, help=f"questions a task; default {SIZES_BY_TASK}")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--version", type=int, choices=tuple(WORLDS), default=1, help="of the world (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("world_data"))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Write the data set and print the blind table."""
    args = _parser().parse_args(argv)
    scores = []
    for task in args.tasks.split(","):
        rows = make_task(task, args.split, args.n, args.seed, version=args.version)
        folder = args.out / task
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "questions.jsonl", "w", encoding="utf8") as file:
                for i, row in enumerate(progress(rows, desc=task, leave=False)):
                    name = f"{i:05d}.png"
                    row["image"].save(folder / name)
                    file.write(json.dumps(row | {"image": name}) + "\n")
        except OSError as error:
            raise LareError(f"cannot write {folder}: {error.strerror}; name another folder with --out") from error
        scores.append(blind_score(task, rows, version=args.version))
    print(f"{args.out}: {sum(s.n for s in scores)} questions of the {args.split} split")
    print(format_table(scores))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
