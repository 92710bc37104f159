"""How much faster a batch of 16 answers than 16 single ones, per answer.

A decoder of 36 million parameters, a prompt of 256 + 64, 32 new tokens, K = 4. Target: at least 4 times the answers per
second.
"""

from __future__ import annotations

import sys

from benchmarks.common import Options, Result, Side, compare, main
from benchmarks.generating import answer
from benchmarks.models import BASE, lare_model, make_batch

BATCH, NEW_TOKENS = 16, 32


def measure(options: Options) -> list[Result]:
    """Time an answer in a batch of 16 against one alone."""
    model = lare_model(BASE)
    results = []
    for iterations in (4, 0):
        many = make_batch(model.config, BATCH).ending_in(model.config.latent_start_id)
        one = make_batch(model.config, 1).ending_in(model.config.latent_start_id)
        results.append(
            compare(
                f"batch_throughput 36M K={iterations}",
                Side("batch 16", lambda b=many, k=iterations: answer(model, b, NEW_TOKENS, iterations=k), BATCH),
                Side("batch 1", lambda b=one, k=iterations: answer(model, b, NEW_TOKENS, iterations=k)),
                options,
                at_least=4.0,
                speed=True,
                details={"positions": one.input_ids.shape[1], "new_tokens": NEW_TOKENS, "iterations": iterations},
            )
        )
    return results


if __name__ == "__main__":
    sys.exit(main("batch_throughput", __doc__ or "", measure))
