"""Do latents hold the picture? Crops are sampled from them and must be told from those of other scenes (eq. 7, Fig. 4).

``python -m lare.embedded.identify runs/embedded_unet`` draws, for validation scenes, the crop at one iteration from
that iteration's latents (the mean of four samples), and asks which of 16 scenes' crops it is nearest to. Beside the own
latents stand another scene's and noise of their norm, which should be at chance, one in 16.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lare.commands import command
from lare.embedded.batches import WorldBatches
from lare.embedded.feed import VALIDATION_SCENES, WorldFeed
from lare.embedded.world_data import world_of
from lare.errors import LareError
from lare.losses.image_loss import image_crop
from lare.losses.image_sampling import (
    choose_crop,
    control_latents,
    crop_windows,
    identify,
    sample_images,
)
from lare.methods.layout import Layout
from lare.progress import progress
from lare.training.feeding.loader import Split
from lare.training.feeding.mode import main_layout
from lare.training.model import TrainingModel
from lare.training.plan.run_file import load_run_config
from lare.training.prepare import Prepared
from lare.training.saving.checkpoints import load_final

__all__ = ["identification", "main"]

CANDIDATES = 16
DRAWS = 4


@torch.no_grad()
def identification(run: Path, rows: int = 512, steps: int = 20, seed: int = 0) -> dict[str, dict[str, float]]:
    """Accuracy of identification among 16 scenes, by condition.

    Args:
        run: Folder of a finished run.
        rows: Scenes, a multiple of 16; one question each.
        steps: Steps of the sampler.
        seed: Seed of questions, iterations and noise.

    Returns:
        For ``own``, ``wrong`` and ``noise``: accuracy, standard_error, chance, n.

    Raises:
        LareError: If the run has no image reconstruction.
    """
    config = replace(load_run_config(run / "run.yaml", [f"out={run}"]), processes=1)
    prepared = Prepared(config)
    model = prepared.model
    load_final(run / config.stages[-1].name, model)
    if model.image is None:
        raise LareError(f"{str(run)!r} trained no image reconstruction (losses.image); there is nothing to sample with")
    model.train(False)
    stage = replace(config.stages[-1], batch=CANDIDATES, methods={})
    data = replace(world_of(stage), per_image=1)
    features = WorldFeed(prepared.run).features("validation", data)
    batches = WorldBatches(
        data,
        stage,
        prepared.processor,
        model.lare.config,
        Split(),
        seed + 77,
        features,
        VALIDATION_SCENES,
        "validation",
        True,
    )
    right: dict[str, list[float]] = {}
    generator = torch.Generator().manual_seed(seed)
    for step in progress(range(rows // CANDIDATES), desc="identifying"):
        layout = main_layout(stage, model.lare.config)
        for name, hits in _one(model, batches, step, steps, generator, layout).items():
            right.setdefault(name, []).extend(hits.tolist())
    return {name: _share(hits) for name, hits in right.items()}


def _share(hits: list[float]) -> dict[str, float]:
    mean = sum(hits) / len(hits)
    error = (mean * (1 - mean) / len(hits)) ** 0.5
    return {"accuracy": mean, "standard_error": error, "chance": 1 / CANDIDATES, "n": len(hits)}


def _one(
    model: TrainingModel, batches: WorldBatches, step: int, steps: int, generator: torch.Generator, mode: Layout
) -> dict[str, Tensor]:
    """Sixteen scenes: each is sampled under every condition and compared with the crops of all sixteen.

    The candidates are the sixteen scenes' own crops, so before anything is known of a row's latents each is as likely
    as the other, and a control that knows nothing is right once in sixteen. The wrong latents are those of scenes that
    are no candidates; were they another candidate's, they would rightly point there.
    """
    latents, crops = _seen(model, batches, 2 * step, generator, mode)
    others, _ = _seen(model, batches, 2 * step + 1, generator, mode)
    assert model.image is not None
    count = len(latents)
    order = (torch.arange(count)[:, None] + torch.arange(count)[None]) % count  # candidate 0 is the row's own
    conditions = control_latents(latents, generator) | {"wrong": others}
    found = {name: torch.zeros(count) for name in conditions}
    noises = [model.image.draw(count, generator)[0] for _ in range(DRAWS)]
    for name, condition in conditions.items():
        # The mean over draws comes close to what the latents say of each pixel; one draw adds what they don't say.
        samples = torch.stack([sample_images(model.image, condition, steps, noise=noise) for noise in noises]).mean(0)
        found[name] = identify(samples, crops[order], model.image.tokenizer).right.float()
    return found


def _seen(
    model: TrainingModel, batches: WorldBatches, step: int, generator: torch.Generator, mode: Layout
) -> tuple[Tensor, Tensor]:
    """A batch's latents at one iteration (B, m, d) and the crops (B, 3, S, S) in [0, 1] that they have to rebuild."""
    scenes, items, _ = batches.draw(step)
    batch = batches.encode(scenes, items, 0, mode)
    inputs: dict[str, Any] = {
        name: value for name, value in batch.inputs.items() if not name.startswith(("target", "prefix"))
    }
    thoughts = model.lare(**inputs).thoughts
    rows = torch.arange(len(scenes))
    taken, corners = choose_crop(thoughts.windows, torch.rand(len(scenes), generator=generator))
    assert batch.pictures is not None and model.image is not None
    corners, side = image_crop(model.lare.config, model.image.config.cells, thoughts, rows, taken, corners)
    crops = crop_windows(batch.pictures.float() / 255, corners, side, model.lare.config.grid, model.image.size)
    return thoughts.latents[rows, taken].float(), crops


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print how well scenes are told by the pictures sampled from latents."""
    parser = argparse.ArgumentParser(
        prog="python -m lare.embedded.identify",
        description=main.__doc__,
        epilog="example: python -m lare.embedded.identify runs/embedded --rows 512",
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, default=512, help="scenes, a multiple of 16 (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="steps of the sampler (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    print(json.dumps(identification(args.run, args.rows, args.steps, args.seed), indent=1))


if __name__ == "__main__":
    raise SystemExit(main())
