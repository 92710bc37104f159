"""What the tests of the probe share."""

import pytest


@pytest.fixture(autouse=True)
def quick_probes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two strengths of the SVM to choose from, not six, the largest of which never settle on noise; a short code; fits
    at four times the rate that stop after four epochs without gain, not ten.

    The tests of the classifiers and of the code themselves take them all.
    """
    if request.path.name != "test_parts.py":
        monkeypatch.setattr("analysis.probe.mdl.PREFIXES", (0.125, 0.5, 1.0))
        monkeypatch.setattr("analysis.probe.classifiers.COSTS", (1e-3, 1e-1))
    if request.path.name not in ("test_parts.py", "test_shuffled.py"):
        monkeypatch.setattr("analysis.probe.classifiers.PATIENCE", 4)
        monkeypatch.setattr("analysis.probe.classifiers.RATE", 4e-3)
        monkeypatch.setattr("analysis.probe.projection.RATE", 4e-3)
