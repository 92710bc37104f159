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
from typing import Any, cast

import torch
from torch import nn

from lare.errors import LareError
from lare.model import LareConfig, LareForConditionalGeneration
from lare.model.assemble import load_text_config, meta_model, with_defaults
from lare.model.encoders import encoder_defaults, load_vision_config
from lare.model.published import published
from lare.training.config import PARTS, ModelConfig, RunConfig, StageConfig, load_run_config
from lare.training.flops import Row, gradients, measured, row_work
from lare.training.memory import memory_of, parameter_count

__all__ = ["LENGTHS", "Lengths", "main", "markdown", "run_report", "skeleton", "stage_row"]

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


def skeleton(model: ModelConfig) -> LareForConditionalGeneration:
    """The run's model on the meta device (the embedded one, being small, for real).

    Raises:
        LareError: If neither its parts' configurations nor published ones of their names are at hand.
    """
    if model.checkpoint is not None:
        with torch.device("meta"):
            return LareForConditionalGeneration(LareConfig.from_pretrained(model.checkpoint))
    if model.text == "embedded":
        return _embedded(model)
    assert model.text is not None and model.vision is not None
    known = published(model.text)
    text = known.config(added=True) if known else load_text_config(model.text, model.trust_remote_code)
    if known is None:
        text.vocab_size += 3  # at most: spare rows of the table would be used first
    known = published(model.vision)
    vision = known.config() if known else load_vision_config(model.vision)
    return meta_model(text, vision, with_defaults(model.settings, *encoder_defaults(vision, model.settings)))


def _embedded(model: ModelConfig) -> LareForConditionalGeneration:
    from lare.model.vision_conv import LareVisionConfig, LareVisionModel
    from lare.training.embedded_model import Sizes, build_model
    from lare.training.tokenizer import build_tokenizer

    sizes = Sizes(**model.sizes, overrides=dict(model.settings))
    return build_model(sizes, LareVisionModel(LareVisionConfig()), build_tokenizer().get_vocab())


# Parts --------------------------------------------------------------------------------------------------------------


def _extras(config: RunConfig, hidden: int) -> dict[str, nn.Module]:
    """What training adds to the model, on the meta device: alignment heads, U-Net with its projection, tokenizer."""
    from lare.semantics.alignment import AlignmentHeads
    from lare.semantics.image import build_unet
    from lare.semantics.image_codes import build_tokenizer, downscaling
    from lare.semantics.image_tokenizer import small_tokenizer

    used = {name for stage in config.stages for name, weight in config.weights(stage).items() if weight}
    found: dict[str, nn.Module] = {}
    with torch.device("meta"):
        if "alignment" in used:
            found["alignment"] = AlignmentHeads(hidden, hidden, config.losses.shared_dim)
        if "image" in used:
            # KL-16's shape stands for any other tokenizer.
            tokenizer = small_tokenizer() if config.image.tokenizer == "embedded" else build_tokenizer("kl16")
            channels = int(tokenizer.config["latent_channels"])
            unet = build_unet(config.image.unet, channels, config.image.size // downscaling(tokenizer))
            project = nn.Linear(hidden, int(unet.config["cross_attention_dim"]))
            found["unet"] = nn.ModuleDict({"unet": unet, "project": project})
            found["image_tokenizer"] = tokenizer
    return found


def _modules(model: LareForConditionalGeneration, extras: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    own = {name: getattr(model, name) for name in ("projector", "refocus_projector", "extractor", "language_model")}
    every = {"vision_encoder": model.vision_tower, **own, **extras}
    return {name: module for name, module in every.items() if module is not None}


def _costs(model: LareForConditionalGeneration, extras: Mapping[str, nn.Module], size: int) -> dict[str, float]:
    """Forward multiply-adds of the convolutional and transformer parts that torch counts itself, one image each."""
    side, device = model.config.image_size, model.device
    costs = {"vision_encoder": measured(model.vision_tower, torch.empty(1, 3, side, side, device=device))}
    if "unet" in extras:
        unet = cast(Any, extras["unet"])["unet"]
        tokenizer = cast(Any, extras["image_tokenizer"])
        crop = torch.empty(1, 3, size, size, device="meta")
        costs["image_tokenizer"] = measured(tokenizer.encoder, crop)
        side = int(unet.config.sample_size)
        code = torch.empty(1, unet.config.in_channels, side, side, device="meta")
        latents = model.config.latents_per_iteration
        condition = torch.empty(1, latents, unet.config.cross_attention_dim, device="meta")
        costs["unet"] = measured(unet, code, torch.zeros(1, device="meta"), encoder_hidden_states=condition)
    return costs


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
        processes: Processes that share an update; None takes the run's own, or 8 (the paper's) where ``accelerate
            launch`` decides.

    Returns:
        ``parameters`` by part and in total, ``processes``, and ``stages``: for each what it trains, its rows an update
        and a forward pass, assumed lengths, memory in bytes of one process (``sharded``: with weights, gradients and
        optimiser split over all processes, and no bf16 copies), and FLOPs of an update by part.

    Raises:
        LareError: If the model's shapes are not at hand.
    """
    model = skeleton(config.model)
    extras = _extras(config, int(model.config.text_config.hidden_size))
    modules = _modules(model, extras)
    costs = _costs(model, extras, config.image.size)
    parameters = {name: parameter_count(module) for name, module in modules.items()}
    alone = config.processes == 1 and config.model.text != "embedded"
    processes = processes or (_LAUNCHED if alone else config.processes)
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
    states = sum(memory[name] for name in ("weights", "gradients", "optimiser"))
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
        "memory": memory | {"total": sum(memory.values()), "sharded": states // processes + memory["activations"]},
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
