"""What the tests of training share."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def one_variant() -> Iterator[None]:
    """Every drawing in one variation: making the trainer's 24 of each takes seconds in every process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lare.embedded.batches.VARIANTS", 1)
        yield
