"""Contrastive losses over more rows than fit in memory at once (Gao et al. 2021, "GradCache").

A contrastive loss does not split over micro-batches: each would see its own few negatives only. So the embeddings of
all micro-batches are made first without gradient, the loss of the whole batch gives the gradient with respect to every
embedding, and each micro-batch is then run again with gradient and pulled along its rows of that gradient. Loss and
gradients are those of one large batch; the price is a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Embed", "cached_backward"]

Embed = Callable[[], tuple[Tensor, ...]]
"""Runs one micro-batch; returns its embeddings, a tuple of (b, e). Each call must give the same numbers."""


def cached_backward(
    micro_batches: Sequence[Embed], loss: Callable[..., Tensor], extra: Callable[[int], Tensor] | None = None
) -> Tensor:
    """Accumulate the gradients of a loss over all micro-batches' embeddings into the parameters.

    Args:
        micro_batches: One function each.
        loss: Takes the concatenated embeddings, one argument an entry of the tuple, and returns a scalar.
        extra: Called with a micro-batch's number after it was run with gradient; returns a further loss of that
            micro-batch alone, such as a cross-entropy that is already scaled, which takes part in the same backward.

    Returns:
        The loss over all embeddings, detached.
    """
    with torch.no_grad():
        made = [embed() for embed in micro_batches]
    leaves = [torch.cat(rows).requires_grad_() for rows in zip(*made, strict=True)]
    with torch.enable_grad():
        total = loss(*leaves)
    pulls = torch.autograd.grad(total, leaves)
    sizes = [rows[0].shape[0] for rows in made]
    parts = zip(*(pull.split(sizes) for pull in pulls), strict=True)
    for number, (embed, part) in enumerate(zip(micro_batches, parts, strict=True)):
        surrogate = torch.stack([(rows * pull).sum() for rows, pull in zip(embed(), part, strict=True)]).sum()
        (surrogate if extra is None else surrogate + extra(number)).backward()
    return total.detach()
