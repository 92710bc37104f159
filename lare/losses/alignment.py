"""Symmetric alignment of latents with the rationale and with the image (eq. 6).

Latents z, the decoder's hidden states t over the ground-truth rationale and the visual tokens v are pooled (mean-max),
projected each by its own head to a shared space, and normalised. InfoNCE in both directions is taken for (z, t) and for
(z, v); every other row of the global batch is a negative.

Shapes: B rows of this process, G rows of all processes, T tokens, d width, e shared dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lare.errors import LareError
from lare.losses.base import Contrastive, Run
from lare.losses.batch import Draws, MicroBatch
from lare.model.loop import run_decoder
from lare.model.reasoner import Reasoner

__all__ = [
    "ALIGNMENT",
    "Aligned",
    "Alignment",
    "AlignmentHeads",
    "alignment_loss",
    "gather_rows",
    "hybrid_mean_max",
    "info_nce",
    "rationale_states",
]


class Aligned(NamedTuple):
    """Unit vectors in the shared space, (B, e) each.

    Attributes:
        latents: The latents, pooled and projected.
        text: The rationale's hidden states, likewise.
        visual: The visual tokens, likewise.
    """

    latents: Tensor
    text: Tensor
    visual: Tensor


def hybrid_mean_max(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean-max pooling over tokens: the mean of average and maximum.

    Args:
        tokens: (B, T, d).
        mask: (B, T), 0 where a token does not count.

    Returns:
        (B, d).

    Raises:
        LareError: If a row has no token that counts.
    """
    if mask is None:
        return 0.5 * (tokens.mean(1) + tokens.amax(1))
    kept = mask.bool()
    counts = kept.sum(1)
    if not bool(counts.all()):
        rows = (counts == 0).nonzero().squeeze(1).tolist()
        raise LareError(f"rows {rows} have no token to pool; leave samples without a rationale out of the alignment")
    weights = kept[..., None]
    mean = (tokens * weights).sum(1) / counts[:, None]
    return 0.5 * (mean + tokens.masked_fill(~weights, float("-inf")).amax(1))


class AlignmentHeads(nn.Module):
    """The three projections to the shared space.

    Args:
        hidden_dim: d of latents and hidden states.
        visual_dim: d of the visual tokens.
        dim: e.
    """

    def __init__(self, hidden_dim: int, visual_dim: int, dim: int = 256) -> None:
        super().__init__()
        self.latents = nn.Linear(hidden_dim, dim)
        self.text = nn.Linear(hidden_dim, dim)
        self.visual = nn.Linear(visual_dim, dim)

    def forward(
        self,
        latents: Tensor,
        rationale: Tensor,
        rationale_mask: Tensor,
        visual: Tensor,
        visual_mask: Tensor | None = None,
    ) -> Aligned:
        """Pool, project, normalise.

        Args:
            latents: (B, K * m, d).
            rationale: (B, T, d) hidden states over the rationale's tokens.
            rationale_mask: (B, T), 0 at padding.
            visual: (B, N_v, d).
            visual_mask: (B, N_v), 0 after the last token of a picture with fewer.
        """
        told, seen = hybrid_mean_max(rationale, rationale_mask), hybrid_mean_max(visual, visual_mask)
        pooled = (hybrid_mean_max(latents), told, seen)
        heads = (self.latents, self.text, self.visual)
        z, t, v = (nn.functional.normalize(head(row), dim=-1) for head, row in zip(heads, pooled, strict=True))
        return Aligned(z, t, v)


class _GatherRows(torch.autograd.Function):
    """All processes' rows; a row's gradient is the sum over the losses of all processes.

    `torch.distributed.nn.functional.all_gather` does the same, but is deprecated, and a graph made by it that is still
    alive when the process group is destroyed kills the process (gloo, torch 2.14).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        size = gradient.shape[0] // dist.get_world_size()
        return gradient[dist.get_rank() * size :][:size]


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Rows of all processes (G, e), in the order of their ranks, and where this one's begin.

    Gradients flow back to the process that a row came from. Every process must have the same number of rows.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows, 0
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered, dist.get_rank() * rows.shape[0]


def _gather_groups(groups: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return groups
    gathered = [torch.empty_like(groups) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, groups)
    return torch.cat(gathered)


def info_nce(
    left: Tensor, right: Tensor, temperature: float = 0.07, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE of this process's rows, with the rows of all processes as negatives.

    Args:
        left: Unit vectors (B, e).
        right: Unit vectors (B, e); row b belongs to row b of `left`.
        temperature: Divides the cosines.
        groups: (B,) whole numbers; rows of equal number show the same thing (several questions about one image) and
            are no negatives of one another.

    Returns:
        (sum, count): the mean of both directions' cross-entropies, summed over the B rows, and B. Sums and counts of
        all processes together are what one process would have for the whole batch.

    Raises:
        LareError: If the temperature is not above zero.
    """
    if temperature <= 0:
        raise LareError(f"temperature is {temperature}; give a number above 0")
    every_left, start = gather_rows(left)
    every_right, _ = gather_rows(right)
    labels = torch.arange(start, start + left.shape[0], device=left.device)
    alike = None
    if groups is not None:
        alike = groups[:, None] == _gather_groups(groups)[None]
        alike[torch.arange(left.shape[0], device=left.device), labels] = False
    sums = []
    for own, other in ((left, every_right), (right, every_left)):
        scores = own @ other.T / temperature
        scores = scores if alike is None else scores.masked_fill(alike, float("-inf"))
        sums.append(nn.functional.cross_entropy(scores, labels, reduction="sum"))
    return 0.5 * (sums[0] + sums[1]), torch.tensor(left.shape[0], device=left.device)


def alignment_loss(
    aligned: Aligned,
    temperature: float = 0.07,
    text_groups: Tensor | None = None,
    image_groups: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Eq. 6: symmetric InfoNCE of latents with text plus that of latents with the image.

    Args:
        aligned: Unit vectors (B, e).
        temperature: Divides the cosines.
        text_groups: (B,) as `info_nce`'s groups, equal for equal rationales.
        image_groups: (B,) equal for equal images.

    Returns:
        (sum, count) over the B rows.
    """
    text, count = info_nce(aligned.latents, aligned.text, temperature, text_groups)
    visual, _ = info_nce(aligned.latents, aligned.visual, temperature, image_groups)
    return text + visual, count


def rationale_states(model: Reasoner, ids: Tensor, mask: Tensor) -> Tensor:
    """The decoder's hidden states over rationale tokens (B, R), read as text alone: (B, R, d).

    The rationale is read without image and latents; otherwise the states would already contain the latents that they
    are compared with (eq. 6). Right padding needs no mask: no real token comes after it.
    """
    positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape[0], -1)
    return run_decoder(model, model.embed(ids), None, positions, None)


class Alignment(Contrastive):
    """Eq. 6 over a whole global batch."""

    name, label, owner = "alignment", "L_align", "alignment"

    def count(self, batch: MicroBatch, draws: Draws) -> int:
        """Rows with latents."""
        return batch.rows if batch.latents else 0

    def embed(self, run: Run) -> tuple[Tensor, ...] | None:
        """Unit vectors of latents, rationale and image; see `Aligned`."""
        batch, out, heads = run.batch, run.out, run.model.head(self)
        if heads is None or not batch.latents or out.thoughts is None:
            return None
        assert out.visual is not None and batch.rationale_ids is not None and batch.rationale_mask is not None
        states = rationale_states(run.model.lare, batch.rationale_ids, batch.rationale_mask)
        latents = out.thoughts.latents.flatten(1, 2)
        times = batch.rows // out.visual.lm.shape[0]
        visual, mask = out.visual.lm.repeat_interleave(times, 0), None
        if out.visual.counts is not None:
            places = torch.arange(visual.shape[1], device=visual.device)
            mask = (places < out.visual.counts[:, None]).repeat_interleave(times, 0)
        aligned: Aligned = heads(latents, states, batch.rationale_mask, visual, mask)
        return Aligned(*(one.float() for one in aligned))

    def contrast(self, made: Sequence[Tensor], batches: Sequence[MicroBatch], temperature: float) -> Tensor:
        """See `Contrastive.contrast`."""
        text = _joined([batch.text_groups for batch in batches])
        image = _joined([batch.image_groups for batch in batches])
        return alignment_loss(Aligned(*made), temperature, text, image)[0]


def _joined(groups: Sequence[Tensor | None]) -> Tensor | None:
    known = [one for one in groups if one is not None]
    return torch.cat(known) if len(known) == len(groups) else None


ALIGNMENT = Alignment()
