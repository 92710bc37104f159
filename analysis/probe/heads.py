"""The alignment heads that were trained with a model (eq. 6), as a projection of the probe.

A finished stage of a run keeps them beside the model in ``heads.safetensors``; a checkpoint that is shipped
for answering does not. Shapes: d width of a pooled vector, e shared dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lare.errors import LareError
from lare.losses.alignment import AlignmentHeads

__all__ = ["Head", "Heads", "random_heads", "trained_heads"]

Array = npt.NDArray[np.float32]

_SIDES = {"latent": "latents", "text": "text", "vision": "visual"}


@dataclass(frozen=True)
class Head:
    """A linear layer.

    Attributes:
        weight: (e, d).
        bias: (e,).
    """

    weight: Array
    bias: Array

    def __call__(self, rows: Array) -> Array:
        """(N, d) -> (N, e).

        Raises:
            LareError: If the rows have another width than the layer.
        """
        if rows.shape[1] != self.weight.shape[1]:
            raise LareError(
                f"an alignment head takes vectors of width {self.weight.shape[1]}, not {rows.shape[1]}; it is another "
                "model's, so give the folder of one finished stage"
            )
        return np.asarray(rows @ self.weight.T + self.bias, dtype=np.float32)


Heads = Mapping[str, Head]
"""Heads by side: "latent", "text" and "vision"."""


def _heads(state: Mapping[str, torch.Tensor]) -> Heads:
    return {
        side: Head(*(state[f"{name}.{part}"].detach().float().cpu().numpy() for part in ("weight", "bias")))
        for side, name in _SIDES.items()
    }


def trained_heads(checkpoint: str | None) -> Heads | None:
    """The heads beside a checkpoint; None where it has none.

    Args:
        checkpoint: Folder, hub id or shipped name; only a folder can hold heads.

    Raises:
        LareError: If the file is damaged.
    """
    path = Path(checkpoint or "") / "heads.safetensors"
    if not checkpoint or not path.is_file():
        return None
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise LareError(f"{str(path)!r} can't be read ({error}); train that stage again") from None
    own = {name.removeprefix("alignment."): one for name, one in state.items() if name.startswith("alignment.")}
    if not own:
        return None  # trained without the alignment loss
    try:
        return _heads(own)
    except KeyError as error:
        raise LareError(f"{str(path)!r} has no tensor alignment.{error.args[0]}; train that stage again") from None


def random_heads(like: Heads) -> Heads:
    """Heads of the same shapes as training starts from, for the model with random weights."""
    hidden, visual = (like[side].weight.shape[1] for side in ("latent", "vision"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _heads(AlignmentHeads(hidden, visual, like["latent"].weight.shape[0]).state_dict())
