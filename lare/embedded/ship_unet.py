"""Ship what draws pictures from the embedded model's latents: U-Net and image tokenizer, with their test in the card.

``python -m lare.embedded.ship_unet runs/embedded_unet --out lare/checkpoints/embedded_unet`` writes a folder that
`analysis/reconstruct.py` reads like a run. The latents' own model is not in it; it is the embedded checkpoint.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file

from lare.commands import command
from lare.embedded.card import read_log
from lare.embedded.identify import identification
from lare.errors import LareError
from lare.files import open_up
from lare.training.plan.run_file import load_run_config
from lare.training.saving.checkpoints import read_meta

__all__ = ["main", "ship_unet"]

_TOKENIZER = ("config.json", "diffusion_pytorch_model.safetensors")


def ship_unet(run: Path, out: Path, rows: int = 512) -> None:
    """Copy the trained parts of eq. 7 and write a card.

    Args:
        run: A finished run whose last stage trained the U-Net on frozen latents.
        out: Folder to write.
        rows: Validation scenes for the test in the card.

    Raises:
        LareError: If the run is not finished or trained more than the U-Net.
    """
    config = load_run_config(run / "run.yaml", [f"out={run}"])
    stage = config.stages[-1]
    if stage.train != ("unet",) or config.start is None:
        raise LareError(f"{str(run)!r} trained more than a U-Net; ship it with python -m lare.embedded.ship")
    final = out / stage.name / "final"
    final.mkdir(parents=True, exist_ok=True)
    heads = load_file(run / stage.name / "final" / "heads.safetensors")
    save_file({name: value for name, value in heads.items() if name.startswith("image.")}, final / "heads.safetensors")
    open_up(final / "heads.safetensors")
    shutil.copyfile(run / stage.name / "final" / "config.json", final / "config.json")
    (out / "image_tokenizer").mkdir(exist_ok=True)
    for name in _TOKENIZER:
        shutil.copyfile(Path(config.start).parent / "image_tokenizer" / name, out / "image_tokenizer" / name)
    (out / "run.yaml").write_text(yaml.safe_dump(config.to_dict(), sort_keys=False), encoding="utf-8")
    found = identification(run, rows)
    meta, last = read_meta(run / stage.name / "final"), read_log(run / stage.name)[-1]
    (out / "README.md").write_text(_card(found, last, meta.get("circumstances", meta)), encoding="utf-8")


def _card(found: dict[str, dict[str, float]], last: dict[str, float], made: dict[str, str]) -> str:
    lines = "\n".join(
        f"| {name} | {100 * one['accuracy']:.1f} % +- {100 * one['standard_error']:.1f} |"
        for name, one in found.items()
    )
    own = found["own"]
    return f"""---
license: apache-2.0
library_name: lare
---
# Pictures from the embedded model's latents

A U-Net of 0.6 M parameters and an image tokenizer that draw, from one latent token, the square that its refocus step
attended to most. `lare train lare/configs/embedded_unet.yaml` on the frozen latents of the embedded checkpoint (seed 0,
{int(last["samples"]):,} crops, {last["seconds"] / 60:.0f} minutes beside other work, commit {made.get("commit")}), then
`python -m lare.embedded.ship_unet runs/embedded_unet`. `python analysis/reconstruct.py` uses it.

Told among {round(1 / own["chance"])} validation scenes' crops by the mean of four samples (n = {int(own["n"])}, chance
{100 * own["chance"]:.1f} %, standard errors; one seed):

| sampled from | right |
| --- | --- |
{lines}

The latents had a reconstruction loss of their own while they trained (`losses.image`, eq. 7 as written: noise as
target, the whole window as crop); this U-Net trained afterwards, with v as target and the looked-at cell as crop, and
changed nothing in them.
"""


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Ship from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lare.embedded.ship_unet",
        description=main.__doc__,
        epilog="example: python -m lare.embedded.ship_unet runs/embedded_unet --out lare/checkpoints/embedded_unet",
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=512, help="scenes of the card's test (%(default)s)")
    args = parser.parse_args(arguments)
    ship_unet(args.run, args.out, args.rows)
    print(f"shipped: {args.out}")


if __name__ == "__main__":
    raise SystemExit(main())
