"""Makes the encoders of `lare.registry.MODEL_TYPES` known to transformers without importing them.

A stand-in class is registered for each. Making a configuration of it, as ``AutoConfig`` does for a checkpoint, imports
the true class, which registers itself and its model, and returns a configuration of that class.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lare.registry import MODEL_TYPES

__all__ = ["register_model_types"]


def register_model_types() -> None:
    """Register a stand-in for every name that transformers does not know yet."""
    for name in MODEL_TYPES.names():
        if name not in CONFIG_MAPPING:
            AutoConfig.register(name, _stand_in(name))


def _stand_in(name: str) -> type[PreTrainedConfig]:
    class StandIn(PreTrainedConfig):
        model_type = name

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return MODEL_TYPES.get(name)(*args, **kwargs)

        @classmethod
        def from_dict(cls, *args: Any, **kwargs: Any) -> Any:
            return MODEL_TYPES.get(name).from_dict(*args, **kwargs)

    return StandIn
