"""Training states: bit-equal after a round trip, and never lost to a full disk."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from lare.errors import LareError
from lare.training.optimiser.muon import Muon
from lare.training.saving.checkpoints import circumstances
from lare.training.saving.state import load_state, save_state
from tests.processes import run_processes


def make() -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    matrices = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    return model, [torch.optim.AdamW(rest, lr=1e-2), Muon(matrices, lr=1e-2)]


def train(model: nn.Module, optimisers: list[torch.optim.Optimizer], steps: range) -> None:
    for step in steps:
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(step))
        model(x).square().sum().backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()


def test_resume_is_bit_equal_to_going_on(tmp_path: Path) -> None:
    whole, whole_optimisers = make()
    train(whole, whole_optimisers, range(6))
    first, first_optimisers = make()
    train(first, first_optimisers, range(3))
    save_state(tmp_path, first.state_dict(), first_optimisers, {"step": 3})
    second, second_optimisers = make()
    saved = load_state(tmp_path, second_optimisers)
    assert saved is not None and saved[1] == {"step": 3}
    second.load_state_dict(saved[0])
    train(second, second_optimisers, range(3, 6))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path, []) is None


def _full_disk(rank: int, port: int, folder: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    model, optimisers = make()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(LareError, match=re.escape(folder)):
            save_state(Path(folder), model.state_dict(), optimisers, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_keeps_the_earlier_state(tmp_path: Path) -> None:
    model, optimisers = make()
    save_state(tmp_path, model.state_dict(), optimisers, {"step": 1})
    run_processes(__file__, "_full_disk", 1, str(tmp_path))
    saved = load_state(tmp_path, make()[1])
    assert saved is not None and saved[1] == {"step": 1}
    assert not list(tmp_path.glob("*.tmp"))


def test_truncated_state_names_the_file(tmp_path: Path) -> None:
    model, optimisers = make()
    save_state(tmp_path, model.state_dict(), optimisers, {"step": 1})
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LareError, match=r"state\.safetensors"):
        load_state(tmp_path, make()[1])


def test_a_checkpoint_names_the_commit_of_the_code_that_made_it() -> None:
    """Asked of git itself, from the top of the repository that holds the tests."""
    top = Path(__file__).parents[2]
    if not (top / ".git").exists():
        pytest.skip("the code lies in no repository")
    words = ["git", "-C", str(top), "describe", "--always", "--dirty", "--abbrev=12"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    assert circumstances()["commit"] == told
