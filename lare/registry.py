"""Names that a run file or a checkpoint may use beyond the general parts, and where what they stand for lies.

Nine kinds: backbones (``backbone`` of a checkpoint), data formats (``data.format``), base models (``model.text``),
vision encoders (``model.vision``), image autoencoders (``image.tokenizer``), losses (``losses``), transformers model
types (``vision_config.model_type``), interventions (``intervene``) and checkpoints (``--checkpoint``). A name stands
for an object that is imported when it is first asked for, so that a run which names none of them loads none. What the
object has to be able to do is written in `lare.training.extensions` (backbones: `lare.model.backbone`, losses:
`lare.losses.base`, interventions: `lare.interventions.base`). Another package adds names as entry points:

    [project.entry-points."lare.data_formats"]
    my_format = "my_package.lare:MY_FORMAT"
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lare.errors import LareError

__all__ = [
    "BACKBONES",
    "BASE_MODELS",
    "CHECKPOINTS",
    "DATA_FORMATS",
    "IMAGE_AUTOENCODERS",
    "INTERVENTIONS",
    "LOSSES",
    "MODEL_TYPES",
    "VISION_ENCODERS",
    "Registry",
    "base_tensors_loader",
    "base_tokenizer_loader",
    "family_check",
    "method_class",
    "vision_language_loader",
]


@cache
def _installed(group: str) -> dict[str, EntryPoint]:
    """Entry points by name; cached, since the metadata of all installed packages are read."""
    return {entry.name: entry for entry in entry_points(group=group)}


class Registry:
    """Names of one kind.

    Args:
        kind: Name of the kind, for messages; with underscores, its entry-point group is ``lare.<kind>s``.
        own: LaRe's own names, each with ``module:attribute``. Another package can't replace them.
    """

    def __init__(self, kind: str, own: Mapping[str, str]) -> None:
        self.kind, self.own = kind, dict(own)
        self.group = f"lare.{kind.replace(' ', '_')}{'es' if kind.endswith('s') else 's'}"

    def names(self) -> list[str]:
        """All names, found without importing what they stand for."""
        return sorted({*self.own, *_installed(self.group)})

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in _installed(self.group)

    def get(self, name: str) -> Any:
        """What a name stands for.

        Raises:
            LareError: If the name is unknown, or its package can't be imported.
        """
        if name in self.own:
            module, _, attribute = self.own[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        entry = _installed(self.group).get(name)
        if entry is None:
            known = ", ".join(self.names()) or "none"
            raise LareError(f"the {self.kind} {name!r} is unknown; known are: {known}")
        try:
            return entry.load()
        except Exception as error:  # noqa: BLE001 - another package may fail in any way
            raise LareError(f"the {self.kind} {name!r} ({entry.value}) can't be imported: {error}") from error


DATA_FORMATS = Registry("data format", {"world": "lare.embedded.register:WORLD"})
BASE_MODELS = Registry("base model", {"embedded": "lare.embedded.register:MODEL"})
VISION_ENCODERS = Registry("vision encoder", {"embedded": "lare.embedded.register:ENCODER"})
IMAGE_AUTOENCODERS = Registry("image autoencoder", {"embedded": "lare.embedded.register:AUTOENCODER"})
CHECKPOINTS = Registry("checkpoint", {})
"""Paths of checkpoint folders that other packages bring; LaRe's own are found by `lare.checkpoints`."""
BACKBONES = Registry(
    "backbone",
    {
        "assembly": "lare.backbones.assembly:ASSEMBLY",
        "qwen2_vl": "lare.backbones.qwen_vl:QWEN2_VL",
        "qwen2_5_vl": "lare.backbones.qwen_vl:QWEN2_VL",
        "qwen3_vl": "lare.backbones.qwen_vl:QWEN3_VL",
        "llava": "lare.backbones.llava:LLAVA",
        "llava_onevision": "lare.backbones.llava:LLAVA_ONEVISION",
        "idefics3": "lare.backbones.idefics:IDEFICS3",
        "smolvlm": "lare.backbones.idefics:IDEFICS3",
        "gemma3": "lare.backbones.gemma3:GEMMA3",
    },
)
"""Objects of `lare.model.backbone.Backbone`; all but LaRe's own carry the model type that transformers gives them."""
LOSSES = Registry(
    "loss",
    {
        "lm": "lare.losses.lm:LM",
        "alignment": "lare.losses.alignment:ALIGNMENT",
        "image": "lare.losses.image_loss:IMAGE",
        "text": "lare.losses.prefix:PREFIX",
        "look": "lare.losses.looking:LOOK",
    },
)
"""Objects of `lare.losses.base.Loss`, in the order in which they are reported."""
MODEL_TYPES = Registry("model type", {"lare_vision": "lare.embedded.vision_conv:LareVisionConfig"})
"""Values are configuration classes; importing their module registers them and their models with transformers.

A configuration has `image_size`, `grid` (patches a side) and `hidden_size`; the model's last hidden state holds the
patches, row by row.
"""

INTERVENTIONS = Registry(
    "intervention",
    {
        name: f"lare.interventions.entries:{name.upper()}"
        for name in (
            "own",
            "zeros",
            "noise",
            "distribution",
            "other",
            "mean",
            "mean_norm",
            "dummy",
            "first",
            "permuted",
            "marks",
            "fewer",
            "more",
            "none",
            "format",
            "oracle",
            "oracle_other",
            "hidden",
            "image",
            "question",
            "image_kept",
            "image_latents",
        )
    },
)
"""Objects of `lare.interventions.base.Intervention`, in the order in which they are listed."""


def vision_language_loader() -> Any:
    """What makes LaRe of a vision-language model's own folder; see `lare.backbones.adopt.adopt`."""
    return importlib.import_module("lare.backbones.adopt").adopt


def base_tensors_loader() -> Any:
    """What finds the weights that a checkpoint leaves out; see `lare.backbones.bases.base_tensors`."""
    return importlib.import_module("lare.backbones.bases").base_tensors


def base_tokenizer_loader() -> Any:
    """What finds the tokenizer that a checkpoint leaves out; see `lare.backbones.bases.base_tokenizer`."""
    return importlib.import_module("lare.backbones.bases").base_tokenizer


def family_check() -> Any:
    """What compares a decoder family that no table knows with the family itself; see `lare.model.family_check`."""
    return importlib.import_module("lare.model.family_check")


def method_class(name: str) -> Any:
    """The class of a method, for a checkpoint that carries the method's module; see `lare.methods.get_method`."""
    return importlib.import_module("lare.methods").get_method(name)
