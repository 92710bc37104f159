"""What a run needs, told without weights: parameters by part, memory and FLOPs of each stage.

    python -m lare.training.sizes lare/configs/qwen2_5_7b.yaml ...     prints the table of the README

Memory is told by `lare.training.memory`, with the estimates in it named there; FLOPs are 2 a multiply-add, counted by
`lare.training.flops`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lare.errors import LareError
from lare.model import LareForConditionalGeneration
from lare.model.published import FULL_SIZE
from lare.training.config import PARTS, RunConfig, StageConfig
from lare.training.flops import Row, gradients, row_work
from lare.training.memory import memory_of, parameter_count, sharded
from lare.training.run_file import load_run_config
from lare.training.skeleton import extra_modules, measured_costs, named_parts, skeleton

__all__ = ["LENGTHS", "Lengths", "main", "markdown", "run_report", "stage_row"]

_LAUNCHED = 8  # processes, as in the paper


@dataclass(frozen=True)
class Lengths:
    """Assumed mean lengths in tokens.

    Attributes:
        question: Prompt without image tokens and <|latent_start|>.
        rationale: Ground-truth rationale; 0 where samples have none.
        answer: Answer.
    """

    question: int
    rationale: int
    answer: int


LENGTHS = {"I": Lengths(32, 0, 32), "II": Lengths(64, 0, 128), "III": Lengths(64, 0, 128), "IV": Lengths(96, 384, 64)}
"""By stage, assumptions and not measurements: captions in I, LLaVA's mix in II and III, rationales in IV."""


# Stages -------------------------------------------------------------------------------------------------------------


def stage_parts(stage: StageConfig) -> tuple[str, ...]:
    """The parts that a stage trains."""
    from lare.training.stages import parts_of

    return parts_of(stage)


def stage_row(
    config: RunConfig, stage: StageConfig, model: LareForConditionalGeneration, lengths: Lengths, again: bool = False
) -> Row:
    """Lengths of a stage's row with latents (those without, see text_share and direct_share, are cheaper).

    Args:
        config: The run.
        stage: The plan's entry.
        model: For its settings.
        lengths: Assumed lengths.
        again: Whether a process takes several micro-batches an update.
    """
    settings, weights = model.config, config.weights(stage)
    first = stage.stage == "I"
    iterations = 0 if first else settings.iterations if stage.iterations is None else stage.iterations
    thought = lengths.rationale or lengths.answer
    replaced = settings.text_prefix if stage.replaced is None else stage.replaced
    left_out = min(lengths.rationale, replaced) if iterations else 0
    return Row(
        prompt=lengths.question + settings.lm_grid**2 + (0 if first else 1),
        target=lengths.rationale - left_out + lengths.answer,
        iterations=iterations,
        prefix=min(thought, settings.text_prefix) if iterations and weights["text"] else 0,
        rationale=thought if iterations and weights["alignment"] else 0,
        delimiters=not first,
        image_share=config.image.share if iterations and weights["image"] else 0.0,
        again=again,
    )


def run_report(
    config: RunConfig, lengths: Mapping[str, Lengths] | None = None, processes: int | None = None
) -> dict[str, Any]:
    """Describe a run.

    Args:
        config: The run.
        lengths: Assumed lengths by stage, instead of `LENGTHS`.
        processes: Processes that share an update; None takes the run's own, or 8 (the paper's) for the published
            decoders, whose number ``accelerate launch`` decides.

    Returns:
        ``parameters`` by part and in total, ``processes``, and ``stages``: for each what it trains, its rows an update
        and a forward pass, assumed lengths, memory in bytes of one process (``sharded``: as FSDP does it, see
        `lare.training.memory`), and FLOPs of an update by part.

    Raises:
        LareError: If the model's shapes are not at hand.
    """
    model = skeleton(config.model)
    extras = extra_modules(config, int(model.config.text_config.hidden_size))
    modules = named_parts(model, extras)
    costs = measured_costs(model, extras, config.image.size)
    parameters = {name: parameter_count(module) for name, module in modules.items()}
    launched = config.processes == 1 and config.model.text in FULL_SIZE
    processes = processes or (_LAUNCHED if launched else config.processes)
    stages = [
        _stage(config, stage, model, modules, costs, (lengths or LENGTHS)[stage.stage], processes)
        for stage in config.stages
    ]
    return {
        "parameters": {"total": sum(parameters.values()), **parameters},
        "processes": processes,
        "stages": stages,
    }


def _stage(
    config: RunConfig,
    stage: StageConfig,
    model: LareForConditionalGeneration,
    modules: Mapping[str, nn.Module],
    costs: Mapping[str, float],
    lengths: Lengths,
    processes: int,
) -> dict[str, Any]:
    parts = [part for part in PARTS if part in stage_parts(stage) and part in modules]
    share = max(1, stage.batch // processes)
    rows = min(share, stage.micro_batch or share)
    row = stage_row(config, stage, model, lengths, again=rows < share)
    grad = gradients(model, parts, row.iterations)
    memory = memory_of(modules, model, row, grad, rows, config.precision == "bf16")
    memory |= {"total": sum(memory.values()), "sharded": sharded(memory, processes)}
    work = row_work(model, row, grad, costs)
    flops = {
        way: {part: 2 * stage.batch * count for part, count in found.items()}
        for way, found in (("forward", work.forward), ("backward", work.backward))
    }
    return {
        "name": stage.name,
        "stage": stage.stage,
        "trains": {part: parameter_count(modules[part]) for part in parts},
        "trained": sum(parameter_count(modules[part]) for part in parts),
        "batch": stage.batch,
        "micro_batch": rows,
        "row": vars(row) | {"question": lengths.question, "answer": lengths.answer},
        "memory": memory,
        "flops": flops | {"total": sum(sum(found.values()) for found in flops.values())},
    }


# The README's table -------------------------------------------------------------------------------------------------

_COLUMNS = ("weights", "gradients", "optimiser", "autocast", "activations", "total", "sharded")


def markdown(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of several runs, one line a stage."""
    lines = [
        "| run | stage | trained parameters | rows a pass | weights | gradients | AdamW | bf16 copies | activations "
        "| sum, GB | sharded, GB | PFLOPs an update |",
        "|---|---|" + "---:|" * 10,
    ]
    for name, report in reports.items():
        for stage in report["stages"]:
            held = " | ".join(f"{stage['memory'][key] / 1e9:.1f}" for key in _COLUMNS)
            lines.append(
                f"| {name} | {stage['name']} | {stage['trained'] / 1e6:,.1f} M | {stage['micro_batch']} | {held} "
                f"| {stage['flops']['total'] / 1e15:.2f} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of some run files."""
    parser = argparse.ArgumentParser(prog="python -m lare.training.sizes", description=main.__doc__)
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG.yaml")
    options = parser.parse_args(arguments)
    print(markdown({path.stem: run_report(load_run_config(path)) for path in options.configs}))
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except LareError as error:
        raise SystemExit(f"lare: {error}") from None
