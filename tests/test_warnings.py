"""What this project does in a way that will go fails its tests; what others do is theirs."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
from transformers import LlamaModel

from lare.cli import main
from lare.model.loop import _cache_keyword
from tests.model.tiny import text_config


def warn_as(module: str, kind: type[Warning]) -> None:
    warnings.warn_explicit("this way will go", kind, "somewhere.py", 1, module=module)


@pytest.mark.parametrize("module", ["lare", "lare.model.loop", "lare_eval.adapter", "analysis.probing.data"])
@pytest.mark.parametrize("kind", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_own_deprecations_are_errors(module: str, kind: type[Warning]) -> None:
    with pytest.raises(kind, match="this way will go"):
        warn_as(module, kind)


@pytest.mark.filterwarnings("ignore:this way will go")
@pytest.mark.parametrize("module", ["larecast", "transformers.generation", "numpy"])
def test_those_of_others_are_not(module: str) -> None:
    warn_as(module, DeprecationWarning)


def test_the_old_name_of_the_cache_is_an_error() -> None:
    if _cache_keyword(LlamaModel) != "cache":
        pytest.skip("this transformers knows the old name only")
    model = LlamaModel(text_config())
    with pytest.raises((FutureWarning, TypeError), match="past_key_values"):
        model(input_ids=torch.ones(1, 2, dtype=torch.long), past_key_values=None, use_cache=False)


def test_the_name_of_the_cache_is_the_decoders_own() -> None:
    class Old(torch.nn.Module):
        def forward(self, inputs_embeds: torch.Tensor, past_key_values: object = None, **kwargs: object) -> None: ...

    class New(torch.nn.Module):
        def forward(self, inputs_embeds: torch.Tensor, cache: object = None, **kwargs: object) -> None: ...

    assert (_cache_keyword(Old), _cache_keyword(New)) == ("past_key_values", "cache")


def test_an_answer_prints_no_deprecation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ``python -W default``, which a command leaves as it is."""
    from tests.methods.tiny_checkpoint import pictures, write_checkpoint

    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    pictures(1)[0].save(tmp_path / "scene.png")
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        words = ["ask", str(tmp_path / "scene.png"), "Why?", "--checkpoint", str(checkpoint), "--max-new-tokens", "3"]
        assert main(words) == 0
    told = " ".join(str(one.message) for one in seen)
    assert "past_key_values" not in told and "`cache`" not in told
