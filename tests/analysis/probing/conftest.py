"""What the tests of the probe share."""

import pytest


@pytest.fixture(autouse=True)
def few_costs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two strengths of the SVM to choose from instead of six, the largest of which take most of the time on noise.

    The tests of the classifiers themselves take them all.
    """
    if request.path.name != "test_parts.py":
        monkeypatch.setattr("analysis.probe.classifiers.COSTS", (1e-3, 1e-1))
