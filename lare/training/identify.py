"""Do latents hold the picture? Crops are sampled from them and must be told from those of other scenes (eq. 7, Fig. 4).

``python -m lare.training.identify runs/embedded`` draws, for validation scenes, the crop at one iteration's window from
that iteration's latents, and asks which of 16 scenes' crops at that window it is nearest to. Beside the own latents
stand another scene's and noise of their norm, which should be at chance, one in 16.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lare.errors import LareError
from lare.semantics.image_sampling import (
    choose_crop,
    control_latents,
    crop_windows,
    identify,
    sample_images,
)
from lare.training.checkpoints import load_final
from lare.training.loader import Split, stage_mode
from lare.training.prepare import VALIDATION_SCENES, Prepared
from lare.training.run_file import load_run_config
from lare.training.world_batches import WorldBatches

__all__ = ["identification", "main"]

CANDIDATES = 16


@torch.no_grad()
def identification(run: Path, rows: int = 512, steps: int = 20, seed: int = 0) -> dict[str, dict[str, float]]:
    """Accuracy of identification among 16 scenes, by condition.

    Args:
        run: Folder of a finished run.
        rows: Scenes, a multiple of 16; one question each.
        steps: Steps of the sampler.
        seed: Of questions, iterations and noise.

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
    stage = replace(
        config.stages[-1], batch=CANDIDATES, fetch_share=0.0, text_share=0.0, direct_share=0.0, full_share=0.0
    )
    data = replace(stage.data[0], per_image=1)
    features = prepared._world_features("validation", data)
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
    for step in tqdm(range(rows // CANDIDATES), desc="identifying"):
        for name, hits in _one(
            model, batches, step, steps, generator, stage_mode(stage, model.lare.config, 1.0)
        ).items():
            right.setdefault(name, []).extend(hits.tolist())
    return {name: _share(hits) for name, hits in right.items()}


def _share(hits: list[float]) -> dict[str, float]:
    mean = sum(hits) / len(hits)
    error = (mean * (1 - mean) / len(hits)) ** 0.5
    return {"accuracy": mean, "standard_error": error, "chance": 1 / CANDIDATES, "n": len(hits)}


def _one(
    model: Any, batches: WorldBatches, step: int, steps: int, generator: torch.Generator, mode: Any
) -> dict[str, Tensor]:
    """Sixteen scenes: each is sampled under every condition and compared with all of them at its own window."""
    scenes, items, _ = batches.draw(step)
    batch = batches.encode(scenes, items, 0, mode)
    inputs = {name: value for name, value in batch.inputs.items() if not name.startswith(("target", "prefix"))}
    thoughts = model.lare(**inputs).thoughts
    taken, corners = choose_crop(thoughts.windows, torch.rand(len(scenes), generator=generator))
    latents = thoughts.latents[torch.arange(len(scenes)), taken].float()
    assert batch.pictures is not None
    pictures = batch.pictures.float() / 255
    window, grid = model.lare.config.window, model.lare.config.grid
    count = len(scenes)
    # Candidate j of row i is scene (i + j) mod 16 at row i's window, so candidate 0 is the row's own.
    order = (torch.arange(count)[:, None] + torch.arange(count)[None]) % count
    crops = crop_windows(
        pictures[order.flatten()], corners.repeat_interleave(count, 0), window, grid, model.image.size
    ).unflatten(0, (count, count))
    noise, _ = model.image.draw(count, generator)
    found = {}
    for name, condition in control_latents(latents, generator).items():
        samples = sample_images(model.image, condition, steps, noise=noise)
        found[name] = identify(samples, crops, model.image.tokenizer).right.float()
    return found


def main(argv: list[str] | None = None) -> int:
    """Print how well scenes are told by the pictures sampled from latents."""
    parser = argparse.ArgumentParser(
        prog="python -m lare.training.identify",
        description=main.__doc__,
        epilog="example: python -m lare.training.identify runs/embedded --rows 512",
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, default=512, help="scenes, a multiple of 16 (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="steps of the sampler (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    print(json.dumps(identification(args.run, args.rows, args.steps, args.seed), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
