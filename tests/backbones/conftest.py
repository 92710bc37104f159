"""Fixtures: each family's tiny model is made once and only read."""

from __future__ import annotations

import pytest
import torch

from .vlms import FAMILIES, Vlm, load_vlm

_MADE: dict[str, Vlm] = {}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors gain nothing from threads."""
    torch.set_num_threads(1)


@pytest.fixture(params=FAMILIES)
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    """Each family in turn."""
    kind = str(request.param)
    if kind not in _MADE:
        _MADE[kind] = load_vlm(kind, tmp_path_factory.mktemp(kind))
    return _MADE[kind]
