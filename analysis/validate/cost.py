"""What the suite costs on a model of any size: ``python -m analysis.validate.cost RUN.yaml``.

FLOPs are counted from the shapes of a run file's model, without weights (`lare.cost.flops`): one question under every
setting, with shared prefixes counted once, as the suite asks them. Hours follow from a card's peak and an assumed share
of it; batched decoding reaches a small one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lare.commands import command
from lare.errors import require
from lare.files import save_text
from lare.interventions import Intervention, get_intervention, intervention_names

if TYPE_CHECKING:
    from lare.model import LareForConditionalGeneration

__all__ = ["CARDS", "main", "suite_flops"]

_NAME = "python -m analysis.validate.cost"

CARDS = {"A100 (312 TFLOP/s in bf16)": 312e12, "H100 (989 TFLOP/s in bf16)": 989e12}
"""Peaks of dense products, as the vendor states them."""
SHARES = (0.05, 0.2)
"""Shares of the peak that are assumed."""


def suite_flops(
    model: LareForConditionalGeneration, question: int, written: int, rationale: int, iterations: int
) -> dict[str, float]:
    """FLOPs of one question.

    Args:
        model: The model; on the meta device it has no weights.
        question: Text tokens of a prompt.
        written: Text tokens of an answer.
        rationale: Text tokens of an answer with its rationale.
        iterations: Latent steps K.

    Returns:
        ``answer``, one natural answer; ``suite``, all settings; ``unshared``, the same without shared prefixes.
    """
    from lare.cost.flops import answer_work

    prompt = question + int(model.config.lm_grid) ** 2

    def work(text: int, steps: int, marks: bool = True) -> float:
        return 2 * sum(answer_work(model, prompt, text, steps, marks).values())

    def alone(one: Intervention) -> float:
        return work(written, iterations if one.steps is None else one.steps(iterations), one.marks)

    prefix = work(0, 0)
    entries = [get_intervention(name) for name in intervention_names()]
    apart = [one for one in entries if one.group == "own" or one.exchanges or not one.marks]
    oracles = [one for one in entries if "boxes" in one.needs]
    replaced = [one for one in entries if one not in apart and one not in oracles]
    text = work(rationale, 0, False)
    shared = sum(prefix + sum(alone(one) - prefix for one in group) for group in (replaced, oracles))
    return {
        "answer": work(written, iterations),
        "suite": shared + sum(alone(one) for one in apart) + text,
        "unshared": sum(alone(one) for one in entries) + text,
    }


def _report(run: Path, questions: int, question: int, written: int, rationale: int, iterations: int) -> dict[str, Any]:
    """Numbers of a run file's model, see `suite_flops`; `questions` are asked in all."""
    from lare.cost.memory import parameter_count
    from lare.cost.skeleton import skeleton
    from lare.training.plan.run_file import load_run_config

    counts = {"question": question, "written": written, "rationale": rationale, "iterations": iterations}
    require(min(questions, *counts.values()) >= 1, "numbers of questions, tokens and steps are 1 or more")
    model = skeleton(load_run_config(run).model)
    flops = suite_flops(model, question, written, rationale, iterations)
    whole = questions * flops["suite"]
    hours = [
        {"card": card, "share": share, "hours": round(whole / peak / share / 3600, 4)}
        for card, peak in CARDS.items()
        for share in SHARES
    ]
    visual = int(model.config.lm_grid) ** 2
    about = {"form": "lare-validate-cost/1", "run": run.name, "parameters": parameter_count(model)}
    about |= {"visual_tokens": visual, "questions": questions}
    return {**about, **counts, "flops": flops, "whole": whole, "hours": hours}


@command(_NAME)
def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=_NAME,
        description=(__doc__ or "").split("\n\n")[1],
        epilog="example: python -m analysis.validate.cost lare/configs/qwen2_5_7b.yaml --out cost.json",
    )
    parser.add_argument("run", type=Path, metavar="RUN.yaml", help="a run file; its model counts")
    parser.add_argument("--questions", type=int, default=500, metavar="N", help="default: %(default)s")
    parser.add_argument("--question", type=int, default=64, metavar="T", help="text tokens of a prompt, %(default)s")
    parser.add_argument("--written", type=int, default=32, metavar="T", help="tokens of an answer, %(default)s")
    parser.add_argument("--rationale", type=int, default=192, metavar="T", help="with its rationale, %(default)s")
    parser.add_argument("--iterations", type=int, default=4, metavar="K", help="latent steps, %(default)s")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the numbers; default: only print them")
    options = vars(parser.parse_args(arguments))
    out = options.pop("out")
    found = _report(**options)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_text(out, json.dumps(found, indent=1) + "\n")
    one, all_ = found["flops"]["answer"], found["flops"]["suite"]
    print(f"{found['run']}: {one / 1e12:.2f} TFLOP an answer, {all_ / 1e12:.2f} the suite ({all_ / one:.1f} answers), "
          f"{found['whole'] / 1e15:.2f} PFLOP for {found['questions']} questions")  # fmt: skip
    for line in found["hours"]:
        print(f"  {line['card']} at {line['share']:.0%} of its peak: {60 * line['hours']:.1f} minutes")


if __name__ == "__main__":
    sys.exit(main())
