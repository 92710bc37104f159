"""Fixtures: each tiny model is built once a session and only read, so a test that changes one makes its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lare.model import LareForConditionalGeneration

from .tiny import BACKBONES, tiny_model

ModelOf = Callable[..., LareForConditionalGeneration]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors gain nothing from threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_of() -> ModelOf:
    """`model_of(kind, **config_changes)`: a shared read-only model."""
    made: dict[Any, LareForConditionalGeneration] = {}

    def get(kind: str = "llama", **changes: Any) -> LareForConditionalGeneration:
        key = (kind, *sorted(changes.items()))
        if key not in made:
            made[key] = tiny_model(kind, **changes)
        return made[key]

    return get


@pytest.fixture(params=BACKBONES)
def kind(request: pytest.FixtureRequest) -> str:
    """The decoder's family."""
    return str(request.param)
