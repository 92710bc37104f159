"""One update of each of the paper's stages on every family, with all losses, and image reconstruction by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lare.errors import LareError
from lare.losses.image import ImageReconstruction
from lare.losses.image_codes import image_features
from lare.training.extensions import RunParts
from lare.training.feeding.files import FileFeed
from lare.training.feeding.loader import Split
from lare.training.model import TrainingModel
from lare.training.plan.config import RunConfig
from lare.training.plan.run_file import load_run_config
from lare.training.plan.stages import freeze_all_but, part_of, parts_of
from lare.training.step import run_step
from lare.training.trainer import make_draws

from .runs import with_images, write_run
from .vlms import NATIVE, Vlm, fresh


def prepared(vlm: Vlm, folder: Path) -> tuple[RunConfig, TrainingModel, FileFeed]:
    """A run of the four stages on two samples a batch, with every loss of the paper."""
    path = write_run(folder, vlm.folder, **with_images(folder))
    words = [f"stages.{number}.{name}" for number in range(4) for name in ("batch=2", "samples=2", "micro_batch=2")]
    config = load_run_config(path, words)
    image = ImageReconstruction.from_config(32, config.image)
    model = TrainingModel(fresh(vlm), 8, image).train()
    return config, model, FileFeed(RunParts(config, folder, model, vlm.processor, None))  # type: ignore[arg-type]


def test_an_update_of_each_stage(vlm: Vlm, tmp_path: Path) -> None:
    """Gradients reach the parts that a stage trains, and no others; every loss is there."""
    config, model, files = prepared(vlm, tmp_path)
    for number, stage in enumerate(config.stages):
        trained = freeze_all_but(model, parts_of(stage))
        batches = files.batches(stage, number, Split(micro_batch=1)).micro_batches(0)
        draws = make_draws(config, model, number, 0, 2)
        model.zero_grad()
        own = [draws.slice(one.start, one.rows) for one in batches]
        found = run_step(model, batches, config.weights(stage), own, config.losses.temperature)
        wanted = {"lm", "total"} if stage.stage == "I" else {"lm", "total", "alignment", "image", "text"}
        assert set(found.losses) == wanted and all(np.isfinite(value) for value in found.losses.values())
        moved = {
            part_of(name, model) for name, one in model.named_parameters() if one.grad is not None and one.grad.any()
        }
        assert moved == {part_of(name, model) for name, _ in trained}


def test_reconstruction_sees_the_window(vlm: Vlm, tmp_path: Path) -> None:
    """Eq. 7 on pictures of several sizes is that of each row's own crop, cut out by hand from its own grid."""
    config, model, files = prepared(vlm, tmp_path)
    stage = config.stages[3]
    (batch,) = files.batches(stage, 3, Split(micro_batch=2)).micro_batches(0)
    draws = make_draws(config, model, 3, 0, 2)
    with torch.no_grad():
        found = model(batch, config.weights(stage), draws).sums["image"]
        out = model.lare(**batch.inputs)
        thoughts, visual, image = out.thoughts, out.visual, model.image
        assert batch.pictures is not None and image is not None and thoughts is not None
        assert (visual.sizes is not None) == (vlm.model.config.backbone in (*NATIVE, "llava_onevision"))
        total = 0.0
        for row in range(2):
            step = min(int(draws.pick[row] * thoughts.windows.shape[1]), thoughts.windows.shape[1] - 1)
            rows, columns = visual.shape if visual.sizes is None else visual.sizes[row].tolist()
            top, left = thoughts.windows[row, step].tolist()
            picture = batch.pictures[row].float() / 127.5 - 1
            high, wide = picture.shape[1] / rows, picture.shape[2] / columns
            ends = -(-(top + min(2, rows)) * high // 1), -(-(left + min(2, columns)) * wide // 1)
            crop = picture[None, :, int(top * high) : int(ends[0]), int(left * wide) : int(ends[1])]
            crop = torch.nn.functional.interpolate(crop, (16, 16), mode="bilinear", antialias=True)
            code = image_features(image.tokenizer, crop)
            one = slice(row, row + 1)
            latents = thoughts.latents[one, step]
            total += float(image.loss(latents, code, draws.noise[one], draws.timesteps[one])[0])
    assert float(found) == pytest.approx(total, rel=1e-4)


def test_what_has_no_grid_of_its_own_is_refused(vlm: Vlm, tmp_path: Path) -> None:
    """Supervised windows need one grid, and say so."""
    if vlm.model.config.backbone not in NATIVE:
        return
    config, model, files = prepared(vlm, tmp_path)
    (batch,) = files.batches(config.stages[3], 3, Split(micro_batch=2)).micro_batches(0)
    batch.boxes = torch.zeros(2, 2, 4)
    with pytest.raises(LareError, match="losses.look"):
        model(batch, {"look": 1.0}, make_draws(config, model, 3, 0, 2))
