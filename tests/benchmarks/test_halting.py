"""The benchmark of saved steps runs at a tiny size, and its planted rule does save steps."""

from benchmarks.common import Options
from benchmarks.halting import K, measure
from benchmarks.models import Size

TINY = Size(hidden=32, layers=2, heads=2, inner=48, vocabulary=64)


def test_rules_save_steps_alone_and_in_a_batch():
    results = measure(Options(rounds=1, warmup=0), TINY, batches=(1, 4), rows=4)
    assert [one.name for one in results] == [
        f"halting {kind} b{batch}" for kind in ("agreement", "confidence") for batch in (1, 4)
    ]
    assert all(1 <= one.details["mean_steps"] < K for one in results)
    assert all(one.left_seconds > 0 and one.right_seconds > 0 for one in results)
