"""What a run needs, told without weights: parameters by part, memory and FLOPs of each stage.

    python -m lare.cost.sizes lare/configs/qwen2_5_7b.yaml ...     prints the table of docs/guides/clusters.md

Memory is told by `lare.cost.memory`, with the estimates in it named there; FLOPs are 2 a multiply-add, counted by
`lare.cost.flops`. A stage trains several methods (`StageConfig.methods`): FLOPs are those of the mean update, memory is
that of the largest row.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lare.backbones.published import FULL_SIZE
from lare.backbones.published_vlms import VLMS
from lare.commands import command
from lare.cost.flops import Row, gradients, row_work, without_encoder
from lare.cost.memory import memory_of, parameter_count, sharded
from lare.cost.skeleton import extra_modules, measured_costs, named_parts, skeleton
from lare.methods.layout import Layout
from lare.model import LareForConditionalGeneration
from lare.registry import DATA_FORMATS
from lare.training.plan.config import PARTS, RunConfig, StageConfig
from lare.training.plan.run_file import load_run_config

__all__ = ["LENGTHS", "Lengths", "main", "markdown", "run_report", "stage_row", "stage_rows"]

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
    from lare.training.plan.stages import parts_of

    return parts_of(stage)


def stage_rows(
    config: RunConfig, stage: StageConfig, model: LareForConditionalGeneration, lengths: Lengths, again: bool = False
) -> list[tuple[float, Row]]:
    """Lengths of a stage's rows by each of its methods, with the share of batches that it takes.

    Args:
        config: The run.
        stage: The plan's entry.
        model: The model, whose settings count.
        lengths: Assumed lengths.
        again: Whether a process takes several micro-batches an update.
    """
    return [
        (entry.share, _row(config, stage, model, lengths, entry.training.layout(stage, model.config), again))
        for entry in stage.mixture
    ]


def stage_row(
    config: RunConfig, stage: StageConfig, model: LareForConditionalGeneration, lengths: Lengths, again: bool = False
) -> Row:
    """Lengths of a stage's row as its main method has it."""
    return stage_rows(config, stage, model, lengths, again)[-1][1]


def _row(
    config: RunConfig,
    stage: StageConfig,
    model: LareForConditionalGeneration,
    lengths: Lengths,
    mode: Layout,
    again: bool,
) -> Row:
    weights = config.weights(stage)
    latents = bool(mode.iterations) and not mode.fetch
    thought = lengths.rationale or lengths.answer
    rationale = lengths.rationale - min(lengths.rationale, mode.replaced) if mode.rationale else 0
    side = mode.lm_grid or model.config.lm_grid
    return Row(
        prompt=lengths.question + side**2 + int(mode.delimiters),
        target=rationale + lengths.answer,
        iterations=mode.iterations,
        prefix=min(thought, mode.prefix) if latents and weights["text"] else 0,
        rationale=thought if latents and weights["alignment"] else 0,
        delimiters=mode.delimiters,
        image_share=config.image.share if latents and weights["image"] else 0.0,
        again=again,
        lm_grid=mode.lm_grid,
        fetch=mode.fetch,
        look=bool(weights["look"] and mode.iterations) and all(data.boxes for data in stage.data),
    )


def assumed_lengths(stage: StageConfig, given: Mapping[str, Lengths] | None = None) -> Lengths:
    """Lengths of a stage's rows: those given, those that its data format tells, or `LENGTHS`."""
    data = stage.data[0]
    if given is None and data.format in DATA_FORMATS:
        return Lengths(*DATA_FORMATS.get(data.format).lengths(data))
    return (given or LENGTHS)[stage.stage]


def run_report(
    config: RunConfig, lengths: Mapping[str, Lengths] | None = None, processes: int | None = None
) -> dict[str, Any]:
    """Describe a run.

    Args:
        config: The run.
        lengths: Assumed lengths by stage, instead of those that data formats tell, and of `LENGTHS` elsewhere.
        processes: Processes that share an update; None takes the run's own, or 8 (the paper's) for the published
            decoders, whose number ``accelerate launch`` decides.

    Returns:
        ``parameters`` by part and in total, ``processes``, ``precision``, and ``stages``: for each what it trains, its
        rows an update and a forward pass, assumed lengths (``row`` as the stage answers in the end, ``rows`` of each
        way with its share), memory in bytes of one process (``sharded``: as FSDP does it, see `lare.cost.memory`),
        and FLOPs of the mean update by part (``total``, and ``without_encoder``: with features that are kept).

    Raises:
        LareError: If the model's shapes are not at hand.
    """
    model = skeleton(config.model)
    extras = extra_modules(config, int(model.config.text_config.hidden_size))
    modules = named_parts(model, extras)
    costs = measured_costs(model, extras, config.image.size)
    parameters = {name: parameter_count(module) for name, module in modules.items()}
    launched = config.processes == 1 and (config.model.text in FULL_SIZE or config.model.vlm in VLMS)
    processes = processes or (_LAUNCHED if launched else config.processes)
    stages = [
        _stage(config, stage, model, modules, costs, assumed_lengths(stage, lengths), processes)
        for stage in config.stages
    ]
    return {
        "parameters": {"total": sum(parameters.values()), **parameters},
        "processes": processes,
        "precision": config.precision,
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
    again = rows < share
    row = stage_row(config, stage, model, lengths, again)
    every = stage_rows(config, stage, model, lengths, again)
    flows = [gradients(model, parts, one.iterations, one.fetch) for _, one in every]
    half = config.precision != "fp32"
    again_made = config.gradient_checkpointing
    memories = [
        memory_of(modules, model, one, grad, rows, half, again_made, config.model.quantise, config.optimiser.matrices)
        for (_, one), grad in zip(every, flows, strict=True)
    ]
    memory = max(memories, key=lambda one: sum(one.values()))
    whole = config.precision == "fp16" or config.model.quantise is not None  # see `check_sharded`
    shared = None if whole else sharded(memory, processes)
    held: dict[str, int | None] = {**memory, "total": sum(memory.values()), "sharded": shared}
    flops: dict[str, dict[str, float]] = {"forward": {}, "backward": {}}
    for (part_of_batches, one), grad in zip(every, flows, strict=True):
        work = row_work(model, one, grad, costs)
        for way, counted in (("forward", work.forward), ("backward", work.backward)):
            for part, count in counted.items():
                flops[way][part] = flops[way].get(part, 0.0) + 2 * stage.batch * part_of_batches * count
    return {
        "name": stage.name,
        "stage": stage.stage,
        "trains": {part: parameter_count(modules[part]) for part in parts},
        "trained": sum(parameter_count(modules[part]) for part in parts),
        "batch": stage.batch,
        "micro_batch": rows,
        "row": vars(row) | {"question": lengths.question, "answer": lengths.answer},
        "rows": [{"share": round(part_of_batches, 6), **vars(one)} for part_of_batches, one in every],
        "memory": held,
        "flops": flops
        | {
            "total": sum(sum(found.values()) for found in flops.values()),
            "without_encoder": sum(without_encoder(found) for found in flops.values()),
        },
    }


# The table -------------------------------------------------------------------------------------------------

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
            held = " | ".join(_told(stage["memory"][key], 1, 1e9) for key in _COLUMNS)
            lines.append(
                f"| {name} | {stage['name']} | {stage['trained'] / 1e6:,.1f} M | {stage['micro_batch']} | {held} "
                f"| {_told(stage['flops']['total'] / 1e15, 2)} |"
            )
    return "\n".join(lines)


def _told(value: float | None, digits: int, unit: float = 1.0) -> str:
    """A number with `digits` decimals; one below that precision with one significant digit; a dash for none."""
    if value is None:
        return "-"
    value /= unit
    return f"{value:.{digits}f}" if not value or value >= 10.0**-digits else f"{value:.1g}"


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of some run files."""
    parser = argparse.ArgumentParser(prog="python -m lare.cost.sizes", description=main.__doc__)
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG.yaml")
    options = parser.parse_args(arguments)
    print(markdown({path.stem: run_report(load_run_config(path)) for path in options.configs}))


if __name__ == "__main__":
    raise SystemExit(main())
