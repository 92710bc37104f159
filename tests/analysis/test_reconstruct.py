"""Pictures from latents: planted pictures are told, others are not; what is missing is named with the mend."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lare
from analysis.reconstruct import measure as reconstruct
from analysis.reconstruct.measure import SAMPLED, ReconstructOptions
from analysis.reconstruct.page import compute
from analysis.reconstruct.sampling import (
    TITLES,
    Looks,
    conditions,
    load_reconstruction,
    nearest,
    score_pictures,
    target_of,
    training_crops,
)
from lare.embedded.autoencoder import small_tokenizer
from lare.errors import LareError
from lare.losses.image import ImageReconstruction
from lare.training.plan.config import ImageConfig

PACKAGE = Path(lare.__file__).parent
WIDTH, GROUP, STEPS = 128, 4, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the embedded configuration whose U-Net and tokenizer have first weights."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(PACKAGE / "configs" / "embedded.yaml", folder / "run.yaml")
    shutil.copytree(PACKAGE / "checkpoints" / "embedded", folder / "IV" / "final")
    small_tokenizer().save_pretrained(folder / "image_tokenizer", safe_serialization=True)
    torch.manual_seed(0)
    made = ImageReconstruction.from_config(WIDTH, _image(folder))
    heads = {f"image.{name}": value.contiguous() for name, value in made.state_dict().items()}
    save_file(heads, folder / "IV" / "final" / "heads.safetensors")
    return folder


def _image(folder: Path) -> ImageConfig:
    return ImageConfig(unet="small", tokenizer=str(folder / "image_tokenizer"), size=64)


@pytest.fixture(scope="module")
def looks() -> Looks:
    generator = torch.Generator().manual_seed(1)
    corners = torch.randint(0, 5, (2 * GROUP, STEPS, 2), generator=generator)
    latents = torch.randn(2 * GROUP, STEPS, 1, WIDTH, generator=generator)
    return Looks(latents, corners, training_crops(2 * GROUP, 128), window=4, grid=8)


def test_planted_pictures_are_told(run: Path, looks: Looks) -> None:
    """The crop itself, a little noisy, is told by every measure; another picture's crop and a training copy are not."""
    reconstruction = load_reconstruction(run, WIDTH)
    training = training_crops(20, 128)[12:]
    for step in range(STEPS):
        target = target_of(looks, step, reconstruction, GROUP)
        torch.testing.assert_close(target.crops, looks.crops(step, reconstruction.size))
        noisy = (target.crops + 0.02 * torch.randn(target.crops.shape)).clamp(0, 1)
        copies, _ = nearest(target.crops, target.corners, looks, training)
        pictures = {"own": noisy, "other": target.candidates[:, 1].contiguous(), "copy": copies}
        scores = score_pictures(pictures, target, looks, reconstruction, training)
        assert scores["own"].found.tolist() == [1.0] * 2 * GROUP
        assert scores["other"].found.sum() == 0
        assert scores["own"].psnr.min() > 30 > scores["other"].psnr.max()
        assert scores["own"].ssim.min() > 0.7 > scores["other"].ssim.max()
        assert scores["own"].code.mean() < scores["other"].code.mean()
        assert scores["own"].copied.sum() == 0
        assert scores["copy"].copied.tolist() == [1.0] * 2 * GROUP
        wanted = -10 * np.log10((noisy - target.crops).square().flatten(1).mean(1).numpy())
        np.testing.assert_allclose(scores["own"].psnr, wanted, rtol=1e-4)


def test_nearest_finds_a_planted_training_picture(looks: Looks) -> None:
    training = torch.cat([training_crops(5, 128) * 0.5, looks.pictures])
    crops = looks.crops(1, 64)
    found, distances = nearest(crops, looks.corners[:, 1], looks, training)
    torch.testing.assert_close(found, crops)
    assert float(distances.max()) < 1e-10


def test_conditions_are_what_they_are_called(looks: Looks) -> None:
    made = conditions(looks.latents, 0, GROUP)
    assert tuple(made) == SAMPLED
    for row in range(2 * GROUP):
        partner = (row + GROUP) % (2 * GROUP)  # the same place in the next group
        assert torch.equal(made["other"][row], looks.latents[partner])
    torch.testing.assert_close(made["noise"].norm(dim=-1), looks.latents.norm(dim=-1))
    torch.testing.assert_close(made["mean"][3], looks.latents.mean(0))
    assert float(made["zeros"].abs().sum()) == 0


def options(run: Path, *words: str) -> ReconstructOptions:
    small = [
        "--rows",
        "8",
        "--candidates",
        "4",
        "--denoising",
        "2",
        "--draws",
        "1",
        "--training",
        "4",
        "--samples",
        "2",
    ]
    return ReconstructOptions.read(["--run", str(run), "--now", "then", *small, *words])


def test_report_of_an_untrained_sampler_says_so(run: Path) -> None:
    document, arrays = compute(options(run))
    assert document.from_json(document.to_json()) is not None
    main = document.tables[0]
    assert [row["condition"] for row in main.rows] == list(TITLES.values())
    assert "25.00 %" in main.note
    own = next(row for row in main.rows if row["condition"] == TITLES["own"])
    assert own["psnr"] == pytest.approx(float(np.mean(arrays["psnr_own"])))
    assert arrays["found_own"].shape == (8, 4)
    assert document.tables[1].rows[0]["copied"] > 50
    # A U-Net that was never trained has a zero-effect condition: every condition gives nearly the same picture.
    assert abs(main.rows[1]["gap"]) < 1
    view = document.samples[0].views[1]
    assert len(view.steps) == 4
    assert all(step.picture is not None and len(step.window) == 4 for step in view.steps)


def test_own_latents_that_hold_the_picture_win(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that draws the crop a latent came from: own latents beat every control, and the verdict says it."""
    kept: dict[str, object] = {}
    asked = reconstruct.look

    def remember(*given: object) -> Looks:
        kept["looks"] = asked(*given)  # type: ignore[arg-type]
        return kept["looks"]  # type: ignore[return-value]

    def perfect(made: ImageReconstruction, latents: torch.Tensor, noise: torch.Tensor, steps: int) -> torch.Tensor:
        seen = kept["looks"]
        assert isinstance(seen, Looks)
        for step in range(seen.latents.shape[1]):
            rows = [
                next((i for i in range(len(latents)) if torch.equal(one, seen.latents[i, step])), None)
                for one in latents
            ]
            if rows[0] is not None and None not in rows:
                own = seen.crops(step, made.size)[torch.tensor(rows)]
                return (own + 0.02 * torch.randn(own.shape)).clamp(0, 1)
        return torch.rand(len(latents), 3, made.size, made.size)

    monkeypatch.setattr(reconstruct, "look", remember)
    monkeypatch.setattr(reconstruct, "draw", perfect)
    document, arrays = compute(options(run))
    assert arrays["found_own"].mean() == 1
    assert arrays["found_other"].mean() < 0.6, "pictures of another group are told by chance, one in four"
    main = {row["condition"]: row for row in document.tables[0].rows}
    assert all(main[TITLES[name]]["gap_interval"][0] > 3 for name in SAMPLED[1:])
    assert all(main[TITLES[name]]["holm"] < 0.01 for name in SAMPLED[1:])
    assert "no better than guessing" not in document.details[0]


def test_missing_parts_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(LareError, match=r"lare train lare/configs/embedded\.yaml"):
        compute(options(tmp_path))
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    heads = copy / "IV" / "final" / "heads.safetensors"
    tensors = load_file(heads)
    save_file({"alignment.x": torch.zeros(1)}, heads)
    with pytest.raises(LareError, match="trained no image reconstruction"):
        load_reconstruction(copy, WIDTH)
    save_file({name: value for name, value in tensors.items() if "conv_in" not in name}, heads)
    with pytest.raises(LareError, match="does not fit"):
        load_reconstruction(copy, WIDTH)
    heads.write_bytes(b"cut")
    with pytest.raises(LareError, match="can't be read"):
        load_reconstruction(copy, WIDTH)
    shutil.rmtree(copy / "image_tokenizer")
    with pytest.raises(LareError, match="no image tokenizer"):
        load_reconstruction(copy, WIDTH)
    heads.unlink()
    with pytest.raises(LareError, match="not finished"):
        compute(options(copy))


def test_too_few_rows_are_named(run: Path) -> None:
    with pytest.raises(LareError, match="--rows is 4"):
        compute(options(run, "--rows", "4"))
