"""A checkpoint's name holds when `LareConfig` gets settings; `tests/eval/test_shipped.py` holds the shipped one's."""

from __future__ import annotations

from typing import Any

import pytest

from lare.loading import _later_defaults, _settings
from lare.model import LareConfig


def test_a_later_setting_counts_where_it_is_changed() -> None:
    config, later = LareConfig().to_dict(), _later_defaults()
    assert {"latent_maker", "latent_maker_settings"} <= later.keys() < config.keys()
    counted = _settings(config, later)
    assert counted == _settings({name: value for name, value in config.items() if name not in later}, later)
    for name in later:
        assert _settings(config | {name: "changed"}, later) != counted


def test_the_first_settings_count_at_their_default_too() -> None:
    counted = _settings(LareConfig().to_dict(), _later_defaults())
    assert {"window", "stop", "projector_dim", "initializer_range", "text_config"} <= counted.keys()
    assert not {"_name_or_path", "transformers_version"} & {*counted, *counted["text_config"]}


def test_a_setting_that_comes_needs_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(LareConfig):
        def __init__(self, sharpness: float = 1.5, **kwargs: Any) -> None:
            self.sharpness = sharpness
            super().__init__(**kwargs)

    monkeypatch.setattr("lare.model.LareConfig", Longer)
    later = _later_defaults()
    assert later == {"sharpness": 1.5}
    counted = [_settings(Longer(sharpness=one).to_dict(), later) for one in (1.5, 2.0)]
    assert "sharpness" not in counted[0] and counted[1]["sharpness"] == 2.0
