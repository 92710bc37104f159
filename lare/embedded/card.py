"""The model card of an embedded checkpoint: its sections, written for a new checkpoint or anew for a shipped one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lare.embedded.card_answers import Evaluation, family_section
from lare.embedded.parts import PARTS, last_entry
from lare.errors import LareError
from lare.halting.cli import told
from lare.losses.base import loss_names
from lare.training.plan.mixture import typical_layout
from lare.training.plan.run_file import load_run_config, run_config_from
from lare.training.saving.checkpoints import read_meta

if TYPE_CHECKING:
    from lare.model import LareForConditionalGeneration
    from lare.model.stop_head import StopHeads
from lare.training.plan.config import RunConfig

__all__ = ["beyond", "card", "history", "lineage", "read_log", "renewed"]

BEYOND, CURVE, ANSWERS, RUN_FILE = "Beyond the paper", "Learning curve", "Answers by question family", "Run file"
STOPS = "Learned stop rules"
RESULTS = {"validation": "Validation results", "test": "Test results"}


def read_log(stage: Path) -> list[dict[str, Any]]:
    """The rows of a stage's ``log.jsonl``.

    Raises:
        LareError: If there is none.
    """
    path = stage / "log.jsonl"
    if not path.is_file():
        raise LareError(f"{str(path)!r} is missing: the run is not finished; go on with lare train --resume RUN")
    return [json.loads(line) for line in path.read_text("utf8").splitlines()]


def lineage(run: Path, config: RunConfig) -> list[tuple[Path, RunConfig]]:
    """The runs that made a checkpoint, first to last: this one after those whose weights it began with.

    Raises:
        LareError: If a run that it began with is gone.
    """
    if config.start is None:
        return [(run, config)]
    before = Path(config.start).parent
    return [*lineage(before, load_run_config(before / "run.yaml", [f"out={before}"])), (run, config)]


def history(run: Path, config: RunConfig) -> str:
    """The learning curve as a table: every validation, or the end of a stage without one, and the losses beside it.

    Raises:
        LareError: If the run was to be validated and never was.
    """
    lines = [
        "| stage | samples | minutes | L_lm | align | image | text | look | validation % | direct | as text |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for folder, one in lineage(run, config):
        for stage in one.stages:
            lines += [_row(stage.name, row) for row in _told(read_log(folder / stage.name))]
    validated = any("validation" in row for row in read_log(run / config.stages[-1].name))
    if not validated and (config.validate_every or config.start is None):
        raise LareError(f"{str(run)!r} was never validated, so its card has no curve; train it with validate_every=500")
    return "\n".join(lines)


def _told(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with a validation; the last one of a stage that has none."""
    return [row for row in log if "validation" in row] or list(log[-1:])


def _row(stage: str, row: Mapping[str, Any]) -> str:
    losses = [_number(row["losses"].get(name), 3) for name in loss_names()]
    found = [_number(row.get("validation", {}).get(name), 1) for name in ("all", "direct", "text")]
    return "| " + " | ".join([stage, f"{row['samples']:,}", f"{row['seconds'] / 60:.1f}", *losses, *found]) + " |"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def beyond(config: RunConfig) -> str:
    """What a run does that the paper does not, as a Markdown list: from its run file, and what is always so."""
    sizes, settings, stages = config.model.sizes, config.model.settings, config.stages
    embedded = config.model.text == "embedded"
    layouts = [typical_layout(entry, stage) for stage in stages for entry in stage.mixture]
    weights = [getattr(config.losses, "look", 0.0), *(stage.losses.get("look", 0.0) for stage in stages)]
    found = {
        "The vision encoder was trained on the world's labels (kind, colour, size, direction and digit of every cell), "
        "the words that answers are made of; the paper's is a CLIP that never saw them.": (
            config.model.vision == "embedded"
        ),
        "Before stage I the projector is regressed onto the decoder's own embeddings of those words and of the places' "
        "names (`lare.embedded.projector_warmup`).": embedded and config.start is None,
        "Box supervision: `losses.look` pulls the attention that chooses a window to the box that a reasoning step "
        "needs; the paper's data have no boxes.": any(weights),
        "Fetch start: the fine tokens of those boxes stand in place of latents in a share of the batches "
        "(`fetch`), before and while the Extractor learns to make any.": any(layout.fetch for layout in layouts),
        "Batches that write the rationale as text, answer directly, or read all fine tokens (`cot`, `llava`).": any(
            not layout.iterations and (layout.delimiters or not layout.rationale) for layout in layouts
        ),
        "Stage I trains the decoder too: it has no pre-trained weights.": embedded
        and any(stage.stage == "I" and "language_model" in stage.train for stage in stages),
        "The decoder starts mimetically (first layers: keys equal to queries, outputs the transpose of values).": (
            embedded and bool(sizes.get("mimetic_layers", 2))
        ),
        "The Extractor starts mimetically, as a look-up by likeness.": bool(sizes.get("mimetic_extractor")),
        "The decoder reads a pooled grid and the Extractor the fine one; the paper's Extractor looks at the decoder's "
        "own tokens.": "fine" in (embedded and sizes.get("refocus_source", "fine"), settings.get("refocus_source")),
        "Soft windows while training (`window: soft:T`): a mixture of windows lets a gradient reach the attention that "
        "chooses them; answers take the arg-max.": any(stage.window.startswith("soft") for stage in stages),
        "Each latent tells its own step of the rationale (`by_step`); the paper's all tell its beginning (eq. 8).": (
            any(layout.by_step for layout in layouts)
        ),
        "Adapters (LoRA) in place of training all of the decoder's weights.": bool(settings.get("lora")),
        "One projector makes the tokens of both grids.": bool(settings.get("shared_projector")),
        "Muon for matrices in place of AdamW alone.": config.optimiser.matrices == "muon",
        f"Precision {config.precision} in place of FP16.": config.precision != "fp16",
        f"`image.prediction={config.image.prediction}`: the U-Net does not predict the noise.": (
            config.image.prediction != "epsilon"
        ),
        f"`image.cells={config.image.cells}`: the rebuilt crop is a cell's surroundings, not the window.": (
            config.image.cells > 0
        ),
        "A residual connection around the Extractor's feed-forward network.": True,
        "Latents are normalised before the U-Net reads them (eq. 7).": True,
    }
    return "\n".join(f"- {line}" for line, holds in found.items() if holds)


def _beyond_section(config: RunConfig) -> str:
    first = "What this run does and the paper does not, so that no result here is one of the paper's method alone:"
    return f"{first}\n\n{beyond(config)}"


def _answers_section(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return "(no evaluation was given)"
    asked = "; ".join(f"{one.split} asked {one.time}" for one in evaluations)
    return (
        "Share of right answers in percent, as the model writes them by itself with its latent steps (Wilson\n"
        "intervals; differences by drawing scenes). The guess is the likeliest option by the question's words, learnt\n"
        "from training questions. Validation scenes have the training vendors' drawings, test scenes a fourth\n"
        "vendor's; "
        f"{asked}.\n\n"
        f"{family_section(evaluations)}"
    )


def _stops(heads: StopHeads) -> str:
    """What ``stop=learned`` reaches, and how to fit it again."""
    facts = heads.facts
    return (
        "`stop=learned` ends the thinking of a question by itself. Heads and thresholds, on questions of training and\n"
        f"validation scenes; `lare halting fit CHECKPOINT --data world --limit {facts['questions']} --validation "
        f"{facts['validation']} --steps {len(facts['accuracy'])}` fits them again.\n\n"
        f"```\n{told(facts, heads.chosen)}\n```"
    )


def _results(evaluation: Evaluation) -> str:
    return f"{len(evaluation.total.right):,} {evaluation.split} questions.\n\n```\n{evaluation.text.rstrip()}\n```"


def card(
    run: Path,
    config: RunConfig,
    model: LareForConditionalGeneration,
    name: str,
    evaluations: Sequence[Evaluation] = (),
    note: str = "",
    command: str = "",
) -> str:
    """The model card (Markdown) of a finished run.

    Args:
        run: Folder of the run.
        config: The run.
        model: Its model.
        name: Name of the checkpoint.
        evaluations: Evaluations of these weights.
        note: Further Markdown, such as what was tried and did not learn.
        command: What trained it; by default ``lare train`` on the run file of the checkpoint's name.
    """
    sections = {
        "How it was made": _made(run, config, command or f"lare train lare/configs/{name}.yaml"),
        BEYOND: f"{_beyond_section(config)}\n\n{note}\n",
        CURVE: f"{_CURVE_WORDS}\n\n{history(run, config)}\n",
        ANSWERS: f"{_answers_section(evaluations)}\n",
    }
    text = "\n".join(f"## {heading}\n{body}" for heading, body in sections.items())
    results = "\n\n".join(f"## {RESULTS[one.split]}\n{_results(one)}" for one in evaluations)
    settings = yaml.safe_dump(config.to_dict(), sort_keys=False, width=110).rstrip()
    return f"{_head(model, name)}\n{text}\n{results}\n\n## {RUN_FILE}\n```yaml\n{settings}\n```\n"


def _head(model: LareForConditionalGeneration, name: str) -> str:
    """Metadata, title and what the checkpoint is."""
    config, parameters = model.config, sum(p.numel() for p in model.parameters())
    return f"""---
license: apache-2.0
library_name: lare
---
# LaRe, {name}

A {parameters / 1e6:.2f} M-parameter LaRe (latent refocusing, K = {config.iterations},
`refocus_source={config.refocus_source}`, {config.lm_grid**2} visual tokens in the decoder's context, a
window of {config.window} x {config.window} of {config.grid} x {config.grid} cells) for the
embedded world. It reads 128 x 128 pictures of that world and nothing else; its scores on `lare_mini_*` are no scores
on the benchmarks whose formats those tasks borrow.
"""


def _made(run: Path, config: RunConfig, command: str) -> str:
    """Commands, time, machine, and how its encoder and image tokenizer came out."""
    runs = lineage(run, config)
    metas = [read_meta(folder / stage.name / "final") for folder, one in runs for stage in one.stages]
    encoder, tokenizer = (last_entry(runs[0][0] / part) for part in PARTS)
    minutes = [encoder["minutes"], tokenizer["minutes"], sum(meta["seconds"] for meta in metas) / 60]
    dense = ", ".join(f"{k} {100 * encoder[k]:.1f} %" for k in ("kind", "colour", "size", "direction", "label"))
    seeds = " and ".join(dict.fromkeys(str(one.seed) for _, one in runs))
    return f"""`{command}`, seed {seeds}, one run on {config.processes} processes:
{minutes[0]:.0f} minutes for the encoder, {minutes[1]:.0f} for the image tokenizer, {minutes[2]:.0f} for the stages
({metas[-1]["machine"]}, torch {metas[-1]["torch"]}, commit {metas[-1]["commit"]}; other work shared the two cores).
Then `python -m lare.embedded.ship`.

Drawings of three vendors and digits of the training part only; the test split holds a fourth vendor's drawings and
other digits. Validation scenes use the training vendors.

Encoder: {encoder["images"]:,} pictures, dense validation accuracy: {dense}. Image tokenizer: {tokenizer["images"]:,}
crops, {tokenizer["psnr"]:.1f} dB.
"""


_CURVE_WORDS = """Teacher-forced exact match of the whole text (rationale and answer, every token) on validation questions of each stage's
own mix, in percent; for captions the share of right tokens. Direct: the answer alone. As text: the whole rationale
written after empty delimiters. A text longer by a sentence is harder to get wholly right, so these columns do not
compare answers; the answers below do."""  # noqa: E501


# A shipped card anew -------------------------------------------------------------------------------------------------

_HEADING = re.compile(r"^## (.+)$")


def _sections(text: str) -> list[tuple[str, str]]:
    """A card's sections, (heading, body); the first has no heading. Lines inside code blocks are no headings."""
    found: list[tuple[str, list[str]]] = [("", [])]
    inside = False
    for line in text.splitlines():
        inside ^= line.startswith("```")
        match = None if inside else _HEADING.match(line)
        if match:
            found.append((match[1], []))
        else:
            found[-1][1].append(line)
    return [(heading, "\n".join(lines).strip("\n")) for heading, lines in found]


def renewed(text: str, evaluations: Sequence[Evaluation], heads: StopHeads | None = None) -> str:
    """A card whose computed sections are made anew: beyond the paper, learned stop rules, answers by family, results.

    Args:
        text: The card; its run file tells how the checkpoint was trained.
        evaluations: Evaluations of the same weights; without one what the card says of answers stays.
        heads: Stop heads that lie beside the weights.

    Raises:
        LareError: If the card has no run file.
    """
    sections = _sections(text)
    run_file = dict(sections).get(RUN_FILE, "").strip("`\n").removeprefix("yaml\n")
    if not run_file:
        raise LareError(f"the card has no section {RUN_FILE!r}; it was not written by python -m lare.embedded.ship")
    config = run_config_from(yaml.safe_load(run_file))
    new = {BEYOND: _beyond_section(config)}
    if heads is not None:
        new[STOPS] = _stops(heads)
    if evaluations:
        new[ANSWERS] = _answers_section(evaluations)
    new |= {RESULTS[one.split]: _results(one) for one in evaluations}
    after = {BEYOND: "How it was made", STOPS: BEYOND, ANSWERS: CURVE}
    after |= dict.fromkeys(RESULTS.values(), ANSWERS)
    for heading, body in new.items():
        names = [name for name, _ in sections]
        if heading in names:
            sections[names.index(heading)] = (heading, body)
        else:
            place = names.index(after[heading]) + 1 if after[heading] in names else len(sections) - 1
            sections.insert(place, (heading, body))
    return "\n\n".join(f"## {heading}\n{body}" if heading else body for heading, body in sections)
