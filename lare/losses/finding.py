"""Windows taught by the Extractor: a loss on the attention that chooses the windows, for data without boxes.

Beyond the paper. The window is an arg-max, through which no gradient flows. Where the Extractor sees the whole grid its
own cross-attention learns by gradient where the answer stands; this loss pulls the attention that chooses the window to
the same place. It takes part in batches whose window is "full" (a share of a stage's mixture, say), so that the others
learn to read through one window.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lare.losses.base import Loss, Run
from lare.losses.batch import Draws, MicroBatch

__all__ = ["FIND", "Finding", "find_loss"]


def find_loss(saliency: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the saliency against where the Extractor reads.

    Args:
        saliency: (B, K, g_lm, g_lm) attention to the decoder's visual tokens before each latent, with gradient.
        attention: (B, K, g * g) the Extractor's attention over the whole fine grid, row by row; g a multiple of g_lm.
            No gradient flows into it.

    Returns:
        (sum, count) over the steps that were taken.
    """
    side = saliency.shape[-1]
    cells = round(attention.shape[-1] ** 0.5) // side
    target = attention.detach().float().reshape(*attention.shape[:-1], side, cells, side, cells).sum((-3, -1))
    target, share = target.flatten(2), saliency.flatten(2).float()
    taken = (target.sum(-1) > 0) & (share.detach().sum(-1) > 0)
    target = target / target.sum(-1, keepdim=True).clamp_min(1e-9)
    share = share / share.sum(-1, keepdim=True).clamp_min(1e-9)
    entropy = -(target * share.clamp_min(1e-4).log()).sum(-1)
    return (entropy * taken).sum(), taken.sum()


class Finding(Loss):
    """The attention that chooses a window pulled to where the Extractor reads when it sees everything."""

    name, label = "find", "L_find"

    def count(self, batch: MicroBatch, draws: Draws) -> int:
        """Steps whose Extractor sees the whole grid."""
        return batch.rows * int(batch.inputs["iterations"]) if _whole(batch) else 0

    def request(self, batch: MicroBatch) -> dict[str, Any]:
        """The saliency with its gradient."""
        return {"saliency_gradient": True} if _whole(batch) else {}

    def value(self, run: Run) -> Tensor | None:
        """See `Loss.value`."""
        thoughts = run.out.thoughts
        if thoughts is None or not _whole(run.batch):
            return None
        return find_loss(thoughts.saliency, thoughts.cross_attention)[0]


def _whole(batch: MicroBatch) -> bool:
    return batch.latents and batch.inputs.get("window_mode") == "full" and batch.inputs.get("refocus", True)


FIND = Finding()
