"""Turn a finished run of an embedded model into a folder that ships: weights, processor, card with every figure.

``python -m lare.embedded.ship runs/embedded --out lare/checkpoints/embedded [--results FOLDER ...] [--note FILE]``

Results are folders of ``python -m lare_eval.demo``, on the validation split (``--tasks lare_mini_val``) and, asked
once, on the test split. ``--card FOLDER --results FOLDER ...`` writes the computed sections of a shipped card anew;
weights stay as they are. Stop heads that lie beside them (``lare halting fit FOLDER --data world``) get a section.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from transformers import ViTImageProcessor

from lare.commands import command
from lare.embedded.card import card, lineage, renewed
from lare.embedded.card_answers import Evaluation, family_figures, read_evaluation
from lare.embedded.encoder import MEAN, STD
from lare.embedded.parts import HISTORY, PARTS, last_entry
from lare.embedded.tokenizer import build_tokenizer
from lare.errors import LareError
from lare.files import save_text
from lare.loading import fingerprint, load_checkpoint
from lare.model import LareForConditionalGeneration, LareProcessor
from lare.training.plan.run_file import load_run_config

__all__ = ["build_processor", "main", "renew_card", "ship"]


def build_processor(image_size: int, lm_grid: int) -> LareProcessor:
    """The embedded model's processor: plain resize to a square, the world's tokenizer and chat template."""
    images = ViTImageProcessor(
        size={"height": image_size, "width": image_size}, image_mean=[MEAN] * 3, image_std=[STD] * 3, do_resize=True
    )
    return LareProcessor(images, build_tokenizer(), lm_grid=lm_grid)


def _evaluations(
    folders: Sequence[Path], model: LareForConditionalGeneration, image_processor: LareProcessor
) -> list[Evaluation]:
    """Evaluations of these weights, validation first.

    Raises:
        LareError: If one is of other weights, or two of one split.
    """
    found = sorted((read_evaluation(folder) for folder in folders), key=lambda one: one.split, reverse=True)
    weights = fingerprint(model, image_processor)
    for one in found:
        if one.weights != weights:
            raise LareError(
                f"the {one.split} evaluation is of other weights ({one.weights}) than {weights}; evaluate again"
            )
    if len({one.split for one in found}) < len(found):
        raise LareError("two evaluations of one split; give one of lare_mini_val and one of lare_mini")
    return found


def renew_card(checkpoint: Path, results: Sequence[Path], figures: Path | None = None) -> None:
    """Write the computed sections of a shipped checkpoint's card anew, and answers by family to `figures` (JSON).

    Raises:
        LareError: If the card or an evaluation is not of this checkpoint.
    """
    model, processor, _ = load_checkpoint(str(checkpoint), "cpu")
    path = checkpoint / "README.md"
    evaluations = _evaluations(results, model, processor)
    save_text(path, renewed(path.read_text("utf8"), evaluations, model.stop_heads))
    if figures is not None:
        save_text(figures, json.dumps(family_figures(evaluations), indent=1))


def ship(run: Path, out: Path, results: Sequence[Path] = (), note: str = "", command: str = "") -> None:
    """Write the model, its processor and its card.

    Args:
        run: Folder of a finished run.
        out: Folder to write.
        results: Folders of evaluations for the card.
        note: Further Markdown for the card.
        command: What trained the run, for the card; by default ``lare train`` on the run file of `out`'s name.

    Raises:
        LareError: If the run is not finished, one that it began with is gone, or a result is of other weights.
    """
    config = load_run_config(run / "run.yaml", [f"out={run}"])
    final = run / config.stages[-1].name / "final"
    if not (final / "meta.json").is_file():
        raise LareError(f"{str(run)!r} is not finished; go on with lare train --resume {run}")
    model = LareForConditionalGeneration.from_pretrained(final)
    processor = build_processor(model.config.image_size, model.config.lm_grid)
    first = lineage(run, config)[0][0]
    parts = {part: last_entry(first / part) for part in PARTS}
    # First what reads the run, so that a run that lacks something leaves an older checkpoint as it is.
    text = card(run, config, model, out.name, _evaluations(results, model, processor), note, command)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    save_text(out / HISTORY, json.dumps(parts, indent=1))
    save_text(out / "README.md", text.rstrip())


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Write a checkpoint folder from a finished run."""
    parser = argparse.ArgumentParser(prog="python -m lare.embedded.ship", description=main.__doc__)
    parser.add_argument("run", type=Path, nargs="?", help="folder of a finished run")
    parser.add_argument("--out", type=Path, default=Path("lare/checkpoints/embedded"))
    parser.add_argument("--card", type=Path, help="only write the computed sections of this checkpoint's card anew")
    parser.add_argument("--results", type=Path, nargs="+", default=[], help="folders of python -m lare_eval.demo")
    parser.add_argument("--figures", type=Path, help="with --card: write answers by family to this JSON file too")
    parser.add_argument("--note", type=Path, help="Markdown for the card, such as what was tried and did not learn")
    parser.add_argument("--command", default="", help="what trained the run, for the card (default: lare train)")
    args = parser.parse_args(arguments)
    if (args.run is None) == (args.card is None):
        parser.error("give a run, or --card")
    if args.card is not None:
        renew_card(args.card, args.results, args.figures)
    else:
        ship(args.run, args.out, args.results, args.note.read_text("utf8") if args.note else "", args.command)


if __name__ == "__main__":
    raise SystemExit(main())
