"""Think step by step and tell, after each, what a stop rule could see: for fitting rules, and for replaying them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lare.model.loop import LoopState
from lare.model.reasoner import Reasoner
from lare.model.stop_head import Seen
from lare.model.thinking import first_token, think

__all__ = ["observe"]


def observe(model: Reasoner, state: LoopState, steps: int) -> Iterator[Seen]:
    """Take latent steps from a prefilled state, looking ahead after each.

    Latents of later steps do not depend on whether a rule stops, so what is seen here is what a rule would have seen.

    Args:
        model: The model.
        state: The prefilled state; it is spent.
        steps: T.

    Yields:
        What is known after step 1, 2, ..., T, with the logits of the text's first token.
    """
    previous: Tensor | None = None
    for step in range(1, steps + 1):
        before = state.last_hidden
        thoughts = think(model, state, 1, "fixed")
        state, latents = thoughts.state, thoughts.latents[:, 0]
        yield Seen(step, latents, previous, state.last_hidden, before, first_token(model, state))
        previous = latents
