"""Models and questions that are disturbed for the sanity checks of the heat maps, and the maps that they give.

Each disturbance keeps everything else as it is: a copy of the model in which some of the Extractor's weights are drawn
anew or its heads exchanged, or a picture that is mirrored together with what its question says of places.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analysis.heatmaps.numbers import lay_out

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from lare.methods.base import Method

__all__ = ["cascade", "maps_of", "mirrored", "mirrored_back", "randomised", "shuffled_heads"]

BATCH = 32

_MIRRORED = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
_SIDES = re.compile(r"\b([Ll]eft|[Rr]ight)\b|\b([a-d])(?=[1-4]\b)")


def maps_of(
    method: Method, pictures: Sequence[Image], questions: Sequence[str], grid: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The Extractor's maps (N, K, g, g) of a model on questions, and its windows' corners (N, K, 2)."""
    from lare.methods.base import Sampling

    attention, corners = [], []
    for start in range(0, len(questions), BATCH):
        part = slice(start, start + BATCH)
        for answer in method.answer(pictures[part], questions[part], Sampling(max_new_tokens=1), trace=True):
            attention.append(answer.arrays["cross_attention"])
            corners.append(answer.arrays["windows"])
    places = np.stack(corners).astype(np.int64)
    return lay_out(np.stack(attention), places, grid)[0], places


def mirrored(picture: Image, question: str) -> tuple[Image, str]:
    """A picture seen in a mirror, and the question about it that has the same answer.

    "left" and "right" change places in the question, and so do the letters of the columns in names of places (a1 to
    d4, as the embedded world writes them).
    """
    from PIL import Image as images

    def other(found: re.Match[str]) -> str:
        return _MIRRORED[found[1]] if found[1] else "dcba"["abcd".index(found[2])]

    return picture.transpose(images.Transpose.FLIP_LEFT_RIGHT), _SIDES.sub(other, question)


def mirrored_back(
    maps: npt.NDArray[np.float64], corners: npt.NDArray[np.int64], window: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Maps (N, K, g, g) of mirrored pictures and their windows' corners, as they lie on the picture itself."""
    columns = maps.shape[-1] - window - corners[..., 1]
    return maps[..., ::-1], np.stack([corners[..., 0], columns], -1)


def randomised(method: Method, seed: int, prefixes: Sequence[str]) -> Method:
    """A copy in which weights are those that training starts from, drawn anew.

    Args:
        method: What is copied.
        seed: Seed of the draw.
        prefixes: Which weights, by the beginning of their names; an empty text names all.
    """
    fresh = _fresh_weights(method, seed)
    return _with(method, {name: value for name, value in fresh.items() if name.startswith(tuple(prefixes))})


def cascade(method: Method, seed: int) -> Iterator[tuple[str, Method]]:
    """Copies in which more and more of the Extractor is drawn anew, from its output to its input (Adebayo 2018).

    All of them take their weights from one draw, so that each has those of the one before it and a layer more.
    """
    layers = method.model.config.extractor_layers
    stages: list[tuple[str, tuple[str, ...]]] = [("output", ("output_proj.", "ffn.", "ffn_norm.", "gate."))]
    for layer in reversed(range(layers)):
        stages += [
            (f"attention to the window, layer {layer + 1}", (f"cross_attention.{layer}.",)),
            (f"attention to itself, layer {layer + 1}", (f"self_attention.{layer}.",)),
        ]
    stages.append(("input", ("state_norm.", "state_proj.", "layer_embedding", "visual_norm.")))
    names: list[str] = []
    for label, parts in stages:
        names += [f"extractor.{part}" for part in parts]
        yield label, randomised(method, seed, names)


def shuffled_heads(method: Method, seed: int) -> Method:
    """A copy in which the queries of each head of the Extractor's looks meet the keys of another head.

    No head keeps its own; with one head nothing changes.
    """
    import torch

    heads = method.model.config.extractor_heads
    ring = np.random.default_rng(seed).permutation(heads)
    other = torch.as_tensor(np.roll(ring, 1)[np.argsort(ring)])  # a ring through all heads: nobody is its own next
    changed = {}
    for name, value in method.model.state_dict().items():
        if name.startswith("extractor.cross_attention.") and ".query." in name:
            changed[name] = value.reshape(heads, -1, *value.shape[1:])[other].reshape(value.shape)
    return _with(method, changed)


def _fresh_weights(method: Method, seed: int) -> dict[str, Tensor]:
    import torch

    from lare.model import LareForConditionalGeneration

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dict(LareForConditionalGeneration(copy.deepcopy(method.model.config)).state_dict())


def _with(method: Method, weights: Mapping[str, Any]) -> Method:
    """A copy of the model with some other weights."""
    model = copy.deepcopy(method.model)
    model.load_state_dict({**method.model.state_dict(), **weights})
    model.eval()  # type: ignore[no-untyped-call]
    return type(method)(model, method.processor, method.options)
