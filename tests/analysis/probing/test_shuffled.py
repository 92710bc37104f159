"""The control that catches leaks must itself be at chance: 50 +- 3 % over seeds, whatever is planted."""

import numpy as np

from analysis.probe.experiment import Model, Settings, grouped, run_seed
from analysis.probe.words import warnings_of
from tests.analysis.probing.synthetic import planted


def test_shuffled_partners_are_at_chance_over_five_seeds():
    models = [Model("planted", "with", planted(1.0))]
    runs = [run_seed(models, seed, Settings(dim=64, steps=False, only=("shuffled",))) for seed in range(5)]
    found = [one for results, _ in runs for one in results]
    for key, results in grouped(found).items():
        assert abs(np.mean([one.judged.accuracy for one in results]) - 0.5) < 0.03, key
    assert not [line for line in warnings_of(models, found, [split for _, split in runs]) if "LEAK" in line]
