"""Turn a finished embedded run into the folder that ships: weights, processor, model card with every figure.

``python -m lare.training.ship runs/embedded --out lare/checkpoints/embedded [--results results/demo/RUN/summary.txt]``
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
from transformers import ViTImageProcessor

from lare.errors import LareError
from lare.model import LareForConditionalGeneration, LareProcessor
from lare.training.encoder import MEAN, STD
from lare.training.phases import phases
from lare.training.tokenizer import build_tokenizer


def build_processor(image_size: int, lm_grid: int) -> LareProcessor:
    """The embedded model's processor: plain resize to a square, the world's tokenizer and chat template."""
    images = ViTImageProcessor(
        size={"height": image_size, "width": image_size}, image_mean=[MEAN] * 3, image_std=[STD] * 3, do_resize=True
    )
    return LareProcessor(images, build_tokenizer(), lm_grid=lm_grid)


def read_history(run: Path) -> list[dict[str, Any]]:
    """All rows of the decoder phases' history, in order."""
    rows = []
    for phase in phases():
        path = run / phase.name / "history.jsonl"
        if not path.is_file():
            raise LareError(f"{path} is missing: the run is not finished; go on with `lare train-embedded --out {run}`")
        rows += [json.loads(line) for line in path.read_text("utf8").splitlines()]
    return rows


def _history_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| phase | questions | minutes | loss | validation % (phase's K) | K = 0 | all text |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        direct, text = (
            "" if row.get(key) is None else f"{100 * row[key]:.1f}" for key in ("validation_k0", "validation_text")
        )
        lines.append(
            f"| {row['phase']} | {row['questions']:,} | {row['minutes']:.1f} | {row['loss']:.3f} "
            f"| {100 * row['validation']['all']:.1f} | {direct} | {text} |"
        )
    return "\n".join(lines)


def _family_table(row: dict[str, Any]) -> str:
    families = {k: v for k, v in row["validation"].items() if k != "all"}
    lines = ["| family | validation % |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {100 * value:.0f} |" for name, value in families.items()])


def card(run: Path, model: LareForConditionalGeneration, results: str, note: str = "") -> str:
    """The model card (Markdown) of a finished run."""
    recipe = json.loads((run / "recipe.json").read_text("utf8"))
    history = read_history(run)
    encoder = json.loads((run / "encoder" / "history.jsonl").read_text("utf8").splitlines()[-1])
    minutes = encoder["minutes"] + sum(
        max(r["minutes"] for r in history if r["phase"] == phase.name) for phase in phases()
    )
    parameters = sum(p.numel() for p in model.parameters())
    dense = ", ".join(f"{k} {100 * encoder[k]:.1f} %" for k in ("kind", "colour", "size", "direction", "label"))
    plan = [
        {
            "phase": p.name,
            "questions": p.questions,
            "K": p.iterations,
            "share of K = 0": p.direct_share,
            "trained": p.train,
        }
        for p in phases(recipe["scale"])
    ]
    return f"""---
license: apache-2.0
library_name: lare
---
# LaRe, embedded

A {parameters / 1e6:.2f} M-parameter LaRe (latent refocusing, K = {model.config.iterations},
`refocus_source={model.config.refocus_source}`) for the embedded world. It reads 128 x 128 pictures of that world and
nothing else; its scores on `lare_mini_*` are no scores on the benchmarks whose formats those tasks borrow.

## How it was made
`lare train-embedded --out {recipe["out"]} --seed {recipe["seed"]} --scale {recipe["scale"]}`,
{minutes:.0f} minutes on two processes ({platform.machine()}, torch {torch.__version__}), seed {recipe["seed"]},
one run. Drawings of three vendors and digits of the training part only; the test split holds a fourth vendor's
drawings and other digits. Validation scenes use the training vendors.

Encoder: {encoder["images"]:,} pictures, dense validation accuracy: {dense}.

Recipe: `{json.dumps(recipe)}`

Phases: `{json.dumps(plan)}`

{note}

## Learning curve
Teacher-forced exact match of the whole target (rationale and answer, every token) on validation questions of each
phase's own mix, in percent; for captions the share of right tokens. K = 0: answered at once. All text: the whole
rationale written behind empty delimiters. A target longer by one sentence is harder to get wholly right, so these
columns do not compare answers; the test results below do.

{_history_table(history)}

Last row by question family:

{_family_table(history[-1])}

## Test results
{"```" + chr(10) + results.rstrip() + chr(10) + "```" if results else "(none were given)"}
"""


def ship(run: Path, out: Path, results: str = "", note: str = "") -> None:
    """Write the model, its processor and its card to `out`.

    Raises:
        LareError: the run is not finished.
    """
    if not (run / "final" / "model.safetensors").is_file():
        raise LareError(f"{run} holds no finished model; go on with `lare train-embedded --out {run}`")
    model = LareForConditionalGeneration.from_pretrained(run / "final")
    model.save_pretrained(out)
    build_processor(model.config.image_size, model.config.lm_grid).save_pretrained(out)
    (out / "README.md").write_text(card(run, model, results, note), encoding="utf8")


def main(argv: list[str] | None = None) -> int:
    """Write a checkpoint folder from a finished run."""
    parser = argparse.ArgumentParser(prog="python -m lare.training.ship", description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("lare/checkpoints/embedded"))
    parser.add_argument(
        "--results", type=Path, help="text that goes under the test results, such as summary.txt of the demo"
    )
    parser.add_argument("--note", type=Path, help="Markdown that goes into the card, e.g. what was changed on the way")
    args = parser.parse_args(argv)
    results, note = (path.read_text("utf8") if path else "" for path in (args.results, args.note))
    ship(args.run, args.out, results, note)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
