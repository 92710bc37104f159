"""Turn a finished run of an embedded model into a folder that ships: weights, processor, card with every figure.

``python -m lare.training.ship runs/embedded --out lare/checkpoints/embedded [--results FILE] [--note FILE]``
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from transformers import ViTImageProcessor

from lare.errors import LareError
from lare.files import save_text
from lare.model import LareForConditionalGeneration, LareProcessor
from lare.training.checkpoints import read_meta
from lare.training.config import RunConfig
from lare.training.encoder import MEAN, STD
from lare.training.parts import HISTORY, PARTS, last_entry
from lare.training.run_file import load_run_config
from lare.training.tokenizer import build_tokenizer

__all__ = ["build_processor", "card", "main", "read_log", "ship"]


def build_processor(image_size: int, lm_grid: int) -> LareProcessor:
    """The embedded model's processor: plain resize to a square, the world's tokenizer and chat template."""
    images = ViTImageProcessor(
        size={"height": image_size, "width": image_size}, image_mean=[MEAN] * 3, image_std=[STD] * 3, do_resize=True
    )
    return LareProcessor(images, build_tokenizer(), lm_grid=lm_grid)


def read_log(stage: Path) -> list[dict[str, Any]]:
    """The rows of a stage's ``log.jsonl``.

    Raises:
        LareError: If there is none.
    """
    path = stage / "log.jsonl"
    if not path.is_file():
        raise LareError(f"{str(path)!r} is missing: the run is not finished; go on with lare train --resume RUN")
    return [json.loads(line) for line in path.read_text("utf8").splitlines()]


def _history(run: Path, config: RunConfig) -> str:
    """The learning curve as a table: every validation, and the losses beside it."""
    lines = [
        "| stage | samples | minutes | L_lm | align | image | text | look | validation % | direct | as text |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for stage in config.stages:
        for row in read_log(run / stage.name):
            if "validation" not in row:
                continue
            losses = [_number(row["losses"].get(name), 3) for name in ("lm", "alignment", "image", "text", "look")]
            found = [_number(row["validation"].get(name), 1) for name in ("all", "direct", "text")]
            cells = [stage.name, f"{row['samples']:,}", f"{row['seconds'] / 60:.1f}", *losses, *found]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _families(row: dict[str, Any]) -> str:
    found = {k.removeprefix("family/"): v for k, v in row["validation"].items() if k.startswith("family/")}
    return "\n".join(["| family | validation % |", "|---|---|", *(f"| {k} | {v:.0f} |" for k, v in found.items())])


def card(
    run: Path, config: RunConfig, model: LareForConditionalGeneration, name: str, results: str = "", note: str = ""
) -> str:
    """The model card (Markdown) of a finished run."""
    metas = [read_meta(run / stage.name / "final") for stage in config.stages]
    encoder, tokenizer = (last_entry(run / part) for part in PARTS)
    minutes = [encoder["minutes"], tokenizer["minutes"], sum(meta["seconds"] for meta in metas) / 60]
    parameters = sum(p.numel() for p in model.parameters())
    dense = ", ".join(f"{k} {100 * encoder[k]:.1f} %" for k in ("kind", "colour", "size", "direction", "label"))
    last = [row for row in read_log(run / config.stages[-1].name) if "validation" in row][-1:]
    if not last:
        raise LareError(f"{str(run)!r} was never validated, so its card has no curve; train it with validate_every=500")
    return f"""---
license: apache-2.0
library_name: lare
---
# LaRe, {name}

A {parameters / 1e6:.2f} M-parameter LaRe (latent refocusing, K = {model.config.iterations},
`refocus_source={model.config.refocus_source}`, {model.config.lm_grid**2} visual tokens in the decoder's context, a
window of {model.config.window} x {model.config.window} of {model.config.grid} x {model.config.grid} cells) for the
embedded world. It reads 128 x 128 pictures of that world and nothing else; its scores on `lare_mini_*` are no scores
on the benchmarks whose formats those tasks borrow.

## How it was made
`lare train lare/configs/{name}.yaml`, seed {config.seed}, one run on {config.processes} processes:
{minutes[0]:.0f} minutes for the encoder, {minutes[1]:.0f} for the image tokenizer, {minutes[2]:.0f} for the stages
({metas[-1]["machine"]}, torch {metas[-1]["torch"]}, commit {metas[-1]["commit"]}; other work shared the two cores).
Then `python -m lare.training.ship`.

Drawings of three vendors and digits of the training part only; the test split holds a fourth vendor's drawings and
other digits. Validation scenes use the training vendors.

Encoder: {encoder["images"]:,} pictures, dense validation accuracy: {dense}. Image tokenizer: {tokenizer["images"]:,}
crops, {tokenizer["psnr"]:.1f} dB.

{note}

## Learning curve
Teacher-forced exact match of the whole text (rationale and answer, every token) on validation questions of each stage's
own mix, in percent; for captions the share of right tokens. Direct: answered at once. As text: the whole rationale
written behind empty delimiters. A text longer by a sentence is harder to get wholly right, so these columns do not
compare answers; the test results below do.

{_history(run, config)}

Last row by question family:

{_families(last[0])}

## Test results
{"```" + chr(10) + results.rstrip() + chr(10) + "```" if results else "(none were given)"}

## Run file
```yaml
{yaml.safe_dump(config.to_dict(), sort_keys=False, width=110).rstrip()}
```
"""


def ship(run: Path, out: Path, results: str = "", note: str = "") -> None:
    """Write the model, its processor and its card to `out`.

    Raises:
        LareError: If the run is not finished.
    """
    config = load_run_config(run / "run.yaml", [f"out={run}"])
    final = run / config.stages[-1].name / "final"
    if not (final / "meta.json").is_file():
        raise LareError(f"{str(run)!r} is not finished; go on with lare train --resume {run}")
    model = LareForConditionalGeneration.from_pretrained(final)
    # First what reads the run, so that a run that lacks something leaves an older checkpoint as it is.
    text = card(run, config, model, out.name, results, note)
    model.save_pretrained(out)
    build_processor(model.config.image_size, model.config.lm_grid).save_pretrained(out)
    save_text(out / HISTORY, json.dumps({part: last_entry(run / part) for part in PARTS}, indent=1))
    save_text(out / "README.md", text.rstrip())


def main(argv: list[str] | None = None) -> int:
    """Write a checkpoint folder from a finished run."""
    parser = argparse.ArgumentParser(prog="python -m lare.training.ship", description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("lare/checkpoints/embedded"))
    parser.add_argument("--results", type=Path, help="text under the test results, such as summary.txt of the demo")
    parser.add_argument("--note", type=Path, help="Markdown for the card, such as what was tried and did not learn")
    args = parser.parse_args(argv)
    results, note = (path.read_text("utf8") if path else "" for path in (args.results, args.note))
    try:
        ship(args.run, args.out, results, note)
    except LareError as error:
        print(f"lare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
