"""Fixtures of the tests of other projects' models."""

import pytest

from lare.methods import load_method
from lare.reasoners import load_preset
from tests.reasoners import tiny


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Methods by preset and family (else its first), made once; in float64, so that rounding changes no token."""
    made = {}

    def load(name, family=None, **options):
        preset, key = load_preset(name), (name, family or tiny.first_family(name))
        if key not in made:
            folder = tiny.write(tmp_path_factory.mktemp("checkpoint"), preset, key[1])
            made[key] = load_method(preset.kind, str(folder), "cpu", preset=name)
            made[key].model.double()
            made[key] = made[key].changed()  # its own parts in float64 as well
        return made[key].changed(**options) if options else made[key]

    return load
