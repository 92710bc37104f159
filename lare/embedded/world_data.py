"""The embedded world as a source of training data: which questions are asked, and how many about each picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from lare.errors import LareError, require
from lare.training.plan.stage_config import DataConfig, StageConfig

__all__ = ["WorldData", "world_data", "world_of"]


@dataclass(frozen=True)
class WorldData(DataConfig):
    """Questions about scenes that are drawn as they are needed; there is no file. `limit` counts scenes.

    Attributes:
        families: Weight of each question family; all alike if empty.
        styles: Weight of each answer format; all alike if empty.
        per_image: Questions asked about one picture, which share its visual prefix.
        version: Version of the world.
    """

    boxes: ClassVar[bool] = True

    format: str = "world"
    families: Mapping[str, float] = field(default_factory=dict, hash=False)
    styles: Mapping[str, float] = field(default_factory=dict, hash=False)
    per_image: int = 16
    version: int = 1

    @property
    def unit(self) -> int:
        """See `DataConfig.unit`."""
        return self.per_image

    def check_source(self) -> None:
        """See `DataConfig.check_source`."""
        require(self.path is None, f"the data format {self.format!r} takes no path")
        require(
            self.split == "all" and not self.take,
            f"data split and take choose from a file; the data format {self.format!r} has none, so leave them out",
        )
        require(self.per_image >= 1, f"data per_image is {self.per_image}; give at least 1")
        if self.families or self.styles or self.version != 1:
            self._check_weights()

    def _check_weights(self) -> None:
        from lare.embedded.world.items import STYLES
        from lare.embedded.world.versions import world

        made = world(self.version)
        known = {"families": [*made.families, *made.training_families], "styles": list(STYLES)}
        for name, names in known.items():
            weights: Mapping[str, float] = getattr(self, name)
            unknown = [one for one in weights if one not in names]
            require(not unknown, f"data {name}: {', '.join(unknown)} is unknown; choose from {', '.join(names)}")
            require(
                all(weight >= 0 for weight in weights.values()) and (not weights or sum(weights.values()) > 0),
                f"data {name}: the weights are {dict(weights)}; give numbers of 0 or more, one above 0",
            )


def world_of(stage: StageConfig) -> WorldData:
    """The world as a stage's source.

    Raises:
        LareError: If the stage has other data.
    """
    return world_data(stage.data[0], f"stage {stage.name}")


def world_data(data: DataConfig, where: str = "the run") -> WorldData:
    """A source as one of the world.

    Raises:
        LareError: If it is of another format.
    """
    if not isinstance(data, WorldData):
        raise LareError(f"{where} has data of format {data.format!r}; this needs the data format 'world'")
    return data
