"""Finds the pre-trained parts that a checkpoint with adapters leaves out (`lare.model.base_weights`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerBase

from lare.backbones.decoders import load_tokenizer, load_weights
from lare.backbones.encoders import load_encoder
from lare.backbones.fetch import WEIGHTS, sha256_of
from lare.errors import LareError
from lare.model.backbone import backbone_of
from lare.model.base_weights import Base
from lare.model.configuration_lare import LareConfig
from lare.model.loading import loaded_whole

__all__ = ["PLACE", "base_of", "base_tensors", "base_tokenizer"]

PLACE = "models"
"""Where ``lare fetch`` puts files, and where the base of a checkpoint is looked for beside the place that it names."""
_ADAPTED = ".base_layer"


def base_of(model: Any, used: int, text: str, vision: str) -> Base:
    """The base of a model that has just been assembled.

    Args:
        model: The LaRe model with adapters.
        used: Rows of its token tables that are the decoder's own.
        text: A run's ``model.text``.
        vision: A run's ``model.vision``.
    """
    folder, separator, name = text.partition("::")
    file: dict[str, Any] = {}
    if separator:
        file = {"name": name, "sha256": sha256_of(Path(folder) / name)}
        known = {one.sha256: (fetched, one) for fetched, one in WEIGHTS.items()}
        if file["sha256"] in known:
            fetched, weights = known[file["sha256"]]
            file |= {"fetch": fetched, "packages": list(weights.packages), "licence": weights.licence}
    return Base.of(model, used, "assembly", text, vision, file)


def base_tensors(base: Base, place: str, config: LareConfig) -> tuple[dict[str, Tensor], str]:
    """Load a base's weights.

    Args:
        base: What the checkpoint says of it.
        place: The checkpoint.
        config: The checkpoint's.

    Returns:
        Tensors by their names in the LaRe model, and where the base was found.

    Raises:
        LareError: If it is nowhere, or can't be loaded.
    """
    found = _found(base, place)
    if base.kind == "vlm":
        options: dict[str, Any] = {"dtype": config.dtype, "output_loading_info": True}
        load = lambda: AutoModelForImageTextToText.from_pretrained(found, **options)  # noqa: E731
        family: Any = backbone_of(config.backbone)
        whole = family.adapted(loaded_whole("a vision-language model", found, load, base.mend))
        return dict(_named(whole, "language_model.", config)), found
    tensors = dict(_named(load_weights(found), "language_model.", config))
    if not base.vision:
        return tensors, found
    encoder = load_encoder(base.vision, {"image_size": config.image_size})
    return tensors | {
        f"vision_tower.encoder.{name}": value for name, value in encoder.model.state_dict().items()
    }, found


def _named(part: nn.Module, prefix: str, config: LareConfig) -> Iterator[tuple[str, Tensor]]:
    """Tensors under both names that they may have in the LaRe model: as they are, and beside an adapter."""
    for name, value in part.state_dict().items():
        yield prefix + name, value
        owner, _, last = name.rpartition(".")
        yield f"{prefix}{owner}{_ADAPTED}.{last}", value


def base_tokenizer(base: Base, place: str) -> PreTrainedTokenizerBase:
    """Load the base's tokenizer, for a checkpoint that leaves it out.

    Raises:
        LareError: If the base is nowhere.
    """
    tokenizer = load_tokenizer(_found(base, place))
    tokenizer.model_max_length = int(base.tokenizer["longest"])
    return tokenizer


def _found(base: Base, place: str) -> str:
    """Where the base lies now: as it was named, in `PLACE`, or in the checkpoint's own folder.

    Raises:
        LareError: If it is a file and is nowhere.
    """
    if not base.file:
        return base.text
    folder, name = base.text.partition("::")[0], str(base.file["name"])
    for one in (folder, PLACE, place):
        if (Path(one) / name).is_file():
            return f"{one}::{name}"
    raise LareError(
        f"the checkpoint {place!r} is made on {base.name}, which is neither in {folder!r} nor in {PLACE!r}; {base.mend}"
    )
