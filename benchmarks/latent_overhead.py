"""What four latent steps add to an answer of equal text length.

Left: LaRe with K = 4. Right: the same model with K = 0. Both write 64 text tokens after a prompt of 256 + 64. Target:
at most 1.15.
"""

from __future__ import annotations

import sys

from benchmarks.common import Options, Result, Side, compare, main
from benchmarks.generating import answer
from benchmarks.models import BASE, Size, lare_model, make_batch

NEW_TOKENS = 64


def _case(name: str, size: Size, batch: int, options: Options) -> Result:
    model = lare_model(size)
    prompts = make_batch(model.config, batch).ending_in(model.config.latent_start_id)
    return compare(
        name,
        Side("LaRe K=4", lambda: answer(model, prompts, NEW_TOKENS, iterations=4)),
        Side("LaRe K=0", lambda: answer(model, prompts, NEW_TOKENS, iterations=0)),
        options,
        at_most=1.15,
        details={"batch": batch, "positions": prompts.input_ids.shape[1], "new_tokens": NEW_TOKENS},
    )


def measure(options: Options) -> list[Result]:
    """Time whole answers, vision included."""
    return [_case("latent_overhead 36M b1", BASE, 1, options), _case("latent_overhead 36M b8", BASE, 8, options)]


if __name__ == "__main__":
    sys.exit(main("latent_overhead", __doc__ or "", measure))
