"""Checkpoints of a run: one folder each, complete or absent, the last few kept.

    RUN/run.yaml                     the configuration
    RUN/STAGE/step-00000500/         state.safetensors (weights and optimisers; or DeepSpeed's own files), meta.json
    RUN/STAGE/final/                 the LaRe model and processor as save_pretrained writes them, heads.safetensors
    RUN/STAGE/log.jsonl              one line every few updates

Under low-rank adapters neither holds the base, which is the same in all; see `lean` and `lare.model.base_weights`.

A folder is written under a temporary name and renamed once all of it is on disk, so a killed run or a full disk leaves
the earlier checkpoints as they were.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lare.errors import LareError
from lare.files import file_hash, open_up
from lare.model.base_weights import read_base
from lare.training.model import TrainingModel
from lare.training.plan.stages import part_of, prefixes
from lare.training.saving.state import HasState, TakesState, load_state, save_state

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "circumstances",
    "file_hash",
    "latest",
    "lean",
    "load_final",
    "load_start",
    "load_step",
    "publish_together",
    "read_meta",
    "save_final",
    "save_step",
    "whole",
]

Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
"""From some weights to others, by name."""
_STEP = "step-"
_LARE = "lare."  # begins the names of the LaRe model's weights in a `TrainingModel`


def latest(stage: Path) -> Path | None:
    """The newest complete checkpoint of a stage's folder."""
    found = [path for path in _steps(stage) if (path / "meta.json").is_file()]
    return found[-1] if found else None


def _steps(stage: Path) -> list[Path]:
    """Published checkpoints, oldest first; not what a kill left under a temporary name."""
    return sorted(path for path in stage.glob(f"{_STEP}*") if path.suffix != ".tmp")


def read_meta(folder: Path) -> dict[str, Any]:
    """A checkpoint's ``meta.json``.

    Raises:
        LareError: If it is missing or damaged.
    """
    try:
        found: dict[str, Any] = json.loads((folder / "meta.json").read_text("utf8"))
    except (OSError, ValueError) as error:
        raise LareError(f"{str(folder / 'meta.json')!r} can't be read ({error}); delete that checkpoint") from None
    return found


def _temporary(stage: Path, name: str) -> Path:
    return stage / f"{name}.tmp"


def _publish(stage: Path, name: str, write: Callable[[Path], object], meta: dict[str, Any]) -> Path:
    """Write a folder and its meta under a temporary name and rename it; an older one of that name gives way last."""
    temporary, final = _temporary(stage, name), stage / name
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf8")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise LareError(
            f"the checkpoint {str(final)!r} can't be written ({error}); free some space and go on with --resume"
        ) from None
    except LareError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def lean(state: dict[str, torch.Tensor], model: TrainingModel) -> dict[str, torch.Tensor]:
    """The part of a training model's state that a run can't make again: without the base under adapters.

    Args:
        state: Its state, whole.
        model: The model, which tells what trains.
    """
    base = model.lare.base
    if base is None:
        return state
    own = base.own(_inner(state), lambda name: part_of(_LARE + name, model) is not None)
    heads = {name: value for name, value in state.items() if not name.startswith(_LARE)}
    return heads | {_LARE + name: value for name, value in own.items()}


def whole(
    tensors: dict[str, torch.Tensor], model: TrainingModel, own: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Undo `lean`: the base is the one that the model has.

    Args:
        tensors: What `lean` has returned, or a whole state.
        model: The model.
        own: Its state; rows of its tables are changed.
    """
    base = model.lare.base
    if base is None or not own.keys() - tensors.keys():
        return tensors
    inner, frozen = _inner(tensors), base.frozen(_inner(own))
    heads = {name: value for name, value in tensors.items() if not name.startswith(_LARE)}
    made = base.whole({name: value for name, value in frozen.items() if name not in inner}, inner)
    return heads | {_LARE + name: value for name, value in made.items()}


def _inner(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The LaRe model's share of a training model's state, by its own names."""
    return {name.removeprefix(_LARE): value for name, value in state.items() if name.startswith(_LARE)}


def save_step(
    stage: Path,
    step: int,
    model: HasState,
    optimisers: Sequence[HasState],
    meta: dict[str, Any],
    keep: int,
    part: Change = dict,
) -> Path:
    """Write a checkpoint of an update and drop the oldest ones.

    Args:
        stage: The stage's folder.
        step: Updates made.
        model: What gives the weights.
        optimisers: What give the optimisers' states.
        meta: Written beside them as ``meta.json``.
        keep: Checkpoints to keep.
        part: The part of the weights that is written; see `lean`.

    Raises:
        LareError: If the disk is full; earlier checkpoints stay.
    """

    def write(folder: Path) -> None:
        save_state(folder, part(model.state_dict()), optimisers, meta)
        (folder / "state.json").unlink()

    path = _publish(stage, f"{_STEP}{step:08d}", write, meta)
    _drop_old(stage, keep)
    return path


def _drop_old(stage: Path, keep: int) -> None:
    for old in [*_steps(stage)[:-keep], *stage.glob(f"{_STEP}*.tmp")]:
        shutil.rmtree(old, ignore_errors=True)


def publish_together(
    stage: Path,
    step: int,
    write: Callable[[Path], object],
    meta: dict[str, Any],
    keep: int,
    accelerator: Accelerator,
) -> None:
    """Like `save_step`, for a checkpoint that every process writes a share of.

    Args:
        stage: The stage's folder.
        step: Updates made.
        write: Called by every process with a folder under a temporary name, which is there; OSError says that it
            can't be written.
        meta: Written beside it by the main process.
        keep: Checkpoints to keep.
        accelerator: The processes.

    Raises:
        LareError: If the disk is full; earlier checkpoints stay.
    """
    name = f"{_STEP}{step:08d}"

    def write_share(folder: Path) -> None:
        accelerator.wait_for_everyone()
        write(folder)
        accelerator.wait_for_everyone()

    if not accelerator.is_main_process:
        write_share(_temporary(stage, name))
        return
    _publish(stage, name, write_share, meta)
    _drop_old(stage, keep)


def load_step(
    folder: Path, model: TakesState, optimisers: Sequence[TakesState], grown: Change = dict
) -> dict[str, Any]:
    """Restore weights and optimisers; returns the meta.

    Args:
        folder: The checkpoint.
        model: What takes the weights.
        optimisers: What take the optimisers' states.
        grown: Makes whole weights of those in the file; see `whole`.

    Raises:
        LareError: If the checkpoint is damaged or another model's.
    """
    loaded = load_state(folder, optimisers)
    if loaded is None:
        if (folder / "deepspeed").is_dir():
            raise LareError(f"{str(folder)!r} was saved under DeepSpeed; resume it as it was launched at first")
        raise LareError(f"{str(folder)!r} holds no state.safetensors; delete that checkpoint")
    _load(model, grown(loaded[0]), folder)
    return loaded[1]


def _load(model: TakesState, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise LareError(f"{str(folder)!r} is no checkpoint of this run's model ({reason}); change out") from None


def save_final(stage: Path, model: TrainingModel, processor: Any, meta: dict[str, Any]) -> Path:
    """Write a finished stage: the model for use, and the heads for the stages after it."""

    def write(folder: Path) -> None:
        model.lare.save_pretrained(folder)
        processor.save_pretrained(folder)
        heads = {k: v.detach().contiguous() for k, v in model.state_dict().items() if not k.startswith("lare.")}
        save_file(heads, folder / "heads.safetensors")
        open_up(folder / "heads.safetensors")

    return _publish(stage, "final", write, meta)


def load_start(stage: Path, model: TrainingModel) -> str:
    """Begin with the weights of another run's finished stage; returns the hash of its weights.

    Raises:
        LareError: If there is none, or it differs in more than the parts that an ablation leaves out.
    """
    folder = stage / "final"
    if not (folder / "meta.json").is_file():
        raise LareError(f"start: {str(stage)!r} is no finished stage; give a folder like runs/embedded/II")
    tensors, own = _tensors(folder, model), model.state_dict()
    optional = prefixes(("extractor", "refocus_projector", "alignment", "unet"))
    same = {name: value for name, value in tensors.items() if name in own and own[name].shape == value.shape}
    wrong = sorted(
        name for name in own.keys() ^ same.keys() | tensors.keys() - same.keys() if not name.startswith(optional)
    )
    if wrong:
        raise LareError(f"start: {str(stage)!r} has another model ({wrong[0]}); give one of this run's sizes")
    model.load_state_dict(own | same)
    return file_hash(folder / "model.safetensors")


def _tensors(folder: Path, model: TrainingModel) -> dict[str, torch.Tensor]:
    """The weights of a finished stage, named as in a `TrainingModel`."""
    try:
        heads = load_file(folder / "heads.safetensors")
        base = read_base(folder, {})
        if base is not None and model.lare.base is not None and base.within(model.lare.base):
            # The base is in memory already, and a second one would not fit beside a large one.
            lare = base.whole(base.frozen(model.lare.state_dict()), load_file(folder / "model.safetensors"))
        else:
            lare = type(model.lare).from_pretrained(folder).state_dict()
    except (OSError, SafetensorError) as error:
        raise LareError(f"{str(folder)!r} can't be read ({error}); delete it to train that stage again") from None
    return heads | {f"lare.{name}": value for name, value in lare.items()}


def load_final(stage: Path, model: TrainingModel) -> dict[str, Any]:
    """Take over the weights of a finished stage; returns its meta.

    Raises:
        LareError: If it is damaged or another model's.
    """
    folder = stage / "final"
    _load(model, _tensors(folder, model), folder)
    return read_meta(folder)


def circumstances() -> dict[str, Any]:
    """Versions, machine and commit, for ``meta.json``."""
    import transformers

    from lare import __version__

    return {
        "lare": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    root = Path(__file__).parents[3]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    # Without locks: a run that is killed, or whose disk is full, must not leave the repository locked.
    words = ["git", "-C", str(root), "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
