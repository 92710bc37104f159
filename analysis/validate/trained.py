"""Planted models that are trained: real weights whose verdict follows from how they were trained.

``python -m analysis.validate.trained`` starts from a checkpoint of the embedded world, the shipped one by default, and
trains its decoder (and Extractor) for a few hundred updates on training questions of that world, each update under the
rules of its kind (`analysis.validate.rules`):

- ``copies``: the model makes its own latents, and then the picture is exchanged for another question's, under the same
  text, before the answer. So the latents alone tell what the right picture showed; all else tells of the wrong one.
- ``ignores``: latents are replaced by noise, in any number from none to twice the usual, with and without marks. The
  answer is always the right one.
- ``counts``: latents are replaced by noise. The right answer belongs to the usual number alone; for any other number,
  and without marks, it is the word `OTHER`.
- ``marks``: latents are replaced by noise in any number, also none. The right answer belongs to marks; without them it
  is the word `OTHER`.

Noise knows nothing of the question: see `analysis.validate.rules.NOISES`. So latents of the last three kinds can't
matter, whatever they hold. A seed is another order of questions, rules and noise; all begin with the same weights.
Whether the rule was learnt is told by training questions (`analysis.validate.learnt`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from analysis.validate.learnt import conditions, has_learnt, shares
from analysis.validate.planted import PLANTED
from analysis.validate.rules import KINDS, Noise, Rule, answered, draw_rules, read
from lare.commands import command
from lare.embedded.batches import WorldBatches, cache_world_features
from lare.embedded.vision_conv import LareVisionModel
from lare.embedded.world_data import WorldData
from lare.errors import LareError, require
from lare.files import save_text
from lare.loading import load_checkpoint
from lare.methods.layout import Layout
from lare.model.thinking import think
from lare.progress import progress
from lare.training.feeding.loader import Split
from lare.training.plan.config import StageConfig

if TYPE_CHECKING:
    from torch import Tensor

    from lare.model import LareForConditionalGeneration, LareProcessor

__all__ = ["OTHER", "Planting", "Questions", "main", "plant", "plant_in", "told_of"]

_NAME = "python -m analysis.validate.trained"

OTHER = "unknown"
"""The answer where a kind's rule withholds the right one."""

FORM = "lare-validate-planted/3"

RENEWED = 10
"""Updates for which noise takes latents of the same batch of questions, made by the weights as they are then."""


@dataclass(frozen=True)
class Planting:
    """How a model is planted.

    Attributes:
        kind: One of `analysis.validate.rules.KINDS`.
        seed: Seed of questions, rules and noise.
        updates: Updates of the weights.
        batch: Questions of an update.
        per_image: Questions about one picture.
        scenes: Training scenes that are drawn from.
        rate: Peak learning rate.
        checked: Batches of training questions that tell whether the rule was learnt.
        start: Checkpoint to start from; None is the shipped one.
    """

    kind: str
    seed: int = 0
    updates: int = 600
    batch: int = 32
    per_image: int = 4
    scenes: int = 4_000
    rate: float = 1e-3
    checked: int = 64
    start: str | None = None

    def __post_init__(self) -> None:
        require(self.kind in KINDS, f"no planted model {self.kind!r} is trained; choose from {', '.join(KINDS)}")
        require(self.updates >= 1 and self.scenes >= 1, "give at least 1 update and 1 scene")


class Questions:
    """Training questions of the world in the formats of the mini tasks, and the noise that goes with them.

    Args:
        model: The model.
        processor: Its processor.
        how: Kind, seed and length.
        cache: Folder for the encoder's features of the scenes; None encodes pictures anew each time.
    """

    def __init__(
        self, model: LareForConditionalGeneration, processor: LareProcessor, how: Planting, cache: Path | None = None
    ) -> None:
        styles = dict.fromkeys(("mmbench", "mmstar", "mmvp", "scienceqa", "pope"), 1.0)
        data = WorldData(styles=styles, per_image=how.per_image)
        stage = StageConfig(stage="IV", data=(data,), batch=how.batch)
        encoder, features = model.vision_tower.encoder, None
        if cache is not None and isinstance(encoder, LareVisionModel):
            cache.mkdir(parents=True, exist_ok=True)
            path = cache / f"features_train_{how.scenes}.npy"
            features = cache_world_features(encoder, path, "train", how.scenes)
        self.model, self.usual = model, int(model.config.iterations)
        self.batches = WorldBatches(data, stage, processor, model.config, Split(), how.seed, features, how.scenes)
        self.generator = torch.Generator().manual_seed(how.seed)
        ids = processor.tokenizer([f" Answer: {OTHER}{processor.tokenizer.eos_token}"], add_special_tokens=False)
        self._other = torch.tensor(ids["input_ids"])

    def inputs(self, number: int, rule: Rule) -> dict[str, Any]:
        """A batch in the layout of a rule, with its answers and (B,) scenes."""
        scenes, items, _ = self.batches.drawn(number)
        batch = self.batches.encode(scenes, items, 0, Layout(iterations=rule.slots, delimiters=rule.marks))
        inputs: dict[str, Any] = {**batch.inputs, "scenes": _each(scenes, len(items))}
        if not rule.right:
            inputs["target_ids"] = self._other.repeat(len(items), 1)
            inputs["target_mask"] = torch.ones_like(inputs["target_ids"])
        return inputs

    def noise(self, number: int) -> Noise:
        """Noise that takes the latents of a batch, made by the weights as they are; twice the usual number."""
        inputs = self.inputs(number, Rule(slots=self.usual))
        with torch.no_grad():
            latents = think(self.model, read(self.model, inputs), 2 * self.usual, "fixed").latents
        embeddings = cast("Tensor", self.model.get_input_embeddings().weight)
        return Noise(latents, inputs["scenes"], embeddings, self.generator)


def _each(scenes: Sequence[int], rows: int) -> Tensor:
    return torch.tensor(scenes).repeat_interleave(rows // len(scenes))


_NOISE, _CHECK = 1_000_000, 2_000_000
"""Numbers of the first batches for noise, and for telling what was learnt; those of updates begin at 0."""


def plant(
    model: LareForConditionalGeneration, processor: LareProcessor, how: Planting, cache: Path | None = None
) -> list[float]:
    """Train a model into a planted one, in place.

    Args:
        model: Where it starts.
        processor: Its processor.
        how: Kind, seed and length.
        cache: Folder for the encoder's features of the scenes; None encodes pictures anew each time.

    Returns:
        The loss of each update, a mean over target tokens and rules.

    Raises:
        LareError: If the model makes no latents, or reads pictures of another size than the world's.
    """
    require(int(model.config.iterations) >= 1, "the checkpoint makes no latents; start from one that does")
    questions = Questions(model, processor, how, cache)
    rng = np.random.default_rng((how.seed, 77))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("language_model.", "extractor.")))
    weights = [one for one in model.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(weights, how.rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, how.rate, total_steps=how.updates + 1, pct_start=0.1)
    losses, noise = [], questions.noise(_NOISE)
    for step in progress(range(how.updates), desc=f"{how.kind} {how.seed}", unit="update", leave=False):
        if step % RENEWED == 0:
            noise = questions.noise(_NOISE + step)
        rules = draw_rules(how.kind, questions.usual, rng)
        loss = torch.stack([_loss(model, questions.inputs(step, rule), rule, noise) for rule in rules]).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def _loss(model: LareForConditionalGeneration, inputs: dict[str, Any], rule: Rule, noise: Noise) -> Tensor:
    made = answered(model, inputs, rule, noise).lm_loss
    assert made is not None
    return made[0] / made[1]


def told_of(
    model: LareForConditionalGeneration, processor: LareProcessor, how: Planting, cache: Path | None = None
) -> dict[str, Any]:
    """What training questions tell of a planted model: "shares" by condition, and whether the rule was "learnt".

    Args:
        model: The model.
        processor: Its processor.
        how: Kind, seed and length.
        cache: Folder for the encoder's features of the scenes; None encodes pictures anew each time.
    """
    questions = Questions(model, processor, how, cache)
    usual = questions.usual
    found = shares(
        model,
        how.checked,
        lambda number, rule: questions.inputs(_CHECK + number, rule),
        lambda number: questions.noise(_CHECK + how.checked + number),
        conditions(how.kind, usual),
    )
    return {"shares": found, "learnt": has_learnt(how.kind, usual, found)}


def plant_in(folder: Path, how: Planting, cache: Path | None = None) -> dict[str, Any]:
    """Train a planted model and save it as a checkpoint; a folder that holds the very same is left as it is.

    Returns:
        What stands in the folder's ``planted.json``: verdict, settings, loss at the beginning and end, and what
        `told_of` tells.

    Raises:
        LareError: If the folder holds another model.
    """
    told, settings = folder / "planted.json", asdict(how)
    if told.is_file():
        kept: dict[str, Any] = json.loads(told.read_text("utf8"))
        if kept.get("form") != FORM or kept.get("settings") != settings:
            raise LareError(f"{str(folder)!r} holds a model that was planted otherwise; choose another folder")
        return kept
    model, processor, _ = load_checkpoint(how.start, device="cpu")
    losses = plant(model, processor, how, cache)
    model.train(False)
    model.save_pretrained(folder)
    cast(Any, processor).save_pretrained(folder)
    first, last = (round(float(np.mean(part)), 4) for part in (losses[:20], losses[-20:]))
    found = {"form": FORM, "truth": PLANTED[how.kind], "settings": settings, "loss": {"first": first, "last": last}}
    found |= told_of(model, processor, how, cache)
    save_text(told, json.dumps(found, indent=1) + "\n")
    return found


@command(_NAME)
def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line; returns the exit code."""
    example = f"example: {_NAME} --kind marks --seed 0 --out runs/planted/marks-0"
    parser = argparse.ArgumentParser(prog=_NAME, description="Train one planted model.", epilog=example)
    defaults = Planting("copies")
    parser.add_argument("--kind", required=True, choices=KINDS, help="how it is trained")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of order and noise (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=defaults.updates, metavar="N", help="default: %(default)s")
    parser.add_argument("--start", metavar="PATH", help="checkpoint to start from (default: the shipped one)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new checkpoint")
    options = parser.parse_args(arguments)
    how = Planting(options.kind, options.seed, options.updates, start=options.start)
    found = plant_in(options.out, how, options.out.parent)
    print(f"loss {found['loss']['first']} to {found['loss']['last']}; training questions answered as the rule wants:")
    print(", ".join(f"{name} {100 * share:.1f} %" for name, share in found["shares"].items()))
    learnt = "was learnt" if found["learnt"] else "was not learnt, so no verdict is known of it"
    print(f"the rule {learnt}; the verdict that belongs to it is {found['truth']}")
    print(f"python analysis/validate.py --checkpoint {options.out} --limit 100")


if __name__ == "__main__":
    sys.exit(main())
