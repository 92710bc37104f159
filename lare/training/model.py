"""A LaRe model with the heads that only training needs, and its losses on one micro-batch.

One module, so that DDP, FSDP and DeepSpeed wrap all that trains. Every loss is a sum; the trainer divides it by its
count over the whole global batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lare.errors import LareError
from lare.losses.alignment import AlignmentHeads, rationale_states
from lare.losses.base import Contrastive, Loss, Run, active, get_loss, loss_names
from lare.losses.image import ImageReconstruction
from lare.losses.looking import pick_tokens
from lare.model import LareForConditionalGeneration
from lare.model.outputs import LareOutput
from lare.training.feeding.batch import Draws, MicroBatch
from lare.training.precision import AUTOCAST

__all__ = ["StepOutput", "TrainingModel", "rationale_states"]


@dataclass
class StepOutput:
    """Losses of one micro-batch.

    Attributes:
        sums: Sum of each loss that applies, without contrastive losses, which need the whole global batch.
        embedded: Embeddings of the rows for each contrastive loss, such as the alignment's unit vectors (eq. 6).
        right: Number of target tokens that are the arg-max.
    """

    sums: dict[str, Tensor]
    embedded: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    right: int = 0


class TrainingModel(nn.Module):
    """LaRe, the alignment heads and image reconstruction.

    Args:
        lare: The model.
        shared_dim: Width of the alignment's shared space; 0 leaves the heads out.
        image: Image reconstruction; None leaves it out.
        heads: Modules of further losses, by the loss's name.
        precision: ``bf16`` and ``fp16`` run the forward pass under autocast, ``fp32`` does not.

    Attributes:
        whole_graph: Use each part in every pass, with a weight of zero if no row needs it. In a sharded model every
            process waits until all others use a part, too.
    """

    def __init__(
        self,
        lare: LareForConditionalGeneration,
        shared_dim: int = 256,
        image: ImageReconstruction | None = None,
        precision: str = "fp32",
        heads: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.lare = lare
        width = int(lare.config.text_config.hidden_size)
        self.alignment = AlignmentHeads(width, width, shared_dim) if shared_dim else None
        self.image = image
        self.heads = nn.ModuleDict(dict(heads or {}))
        self.precision = precision
        self.whole_graph = False

    def forward(
        self, batch: MicroBatch, weights: Mapping[str, float], draws: Draws | None = None, vectors_only: bool = False
    ) -> StepOutput:
        """Losses of a micro-batch.

        Args:
            batch: Its rows.
            weights: Weight of each loss but L_lm; one of weight 0 is not computed.
            draws: The random numbers of its rows.
            vectors_only: Make the alignment's vectors and nothing else, for the pass that gathers them.
        """
        device = batch.inputs["input_ids"].device.type
        kind = AUTOCAST.get(self.precision)
        with nullcontext() if kind is None else torch.autocast(device, kind):
            return self._losses(batch, weights, draws, vectors_only)

    def head(self, loss: Loss) -> Any:
        """A loss's own module; None where the run has none."""
        if loss.owner:
            return getattr(self, loss.owner)
        return dict(self.heads.items()).get(loss.name)

    def _losses(
        self, batch: MicroBatch, weights: Mapping[str, float], draws: Draws | None, vectors_only: bool
    ) -> StepOutput:
        losses = active(weights, [batch])
        out = self._run(batch, losses, draws, vectors_only)
        run, result = Run(self, batch, out, draws), StepOutput({})
        for name, loss in losses.items():
            made = loss.embed(run) if isinstance(loss, Contrastive) else None
            if made is not None:
                result.embedded[name] = made
        if vectors_only:
            return result
        if out.logits is not None and out.labels is not None:
            result.right = int((out.logits.detach().argmax(-1) == out.labels).sum())
        first, *rest = [loss for loss in losses.values() if not isinstance(loss, Contrastive)]
        # A sum of floats depends on the order; this one is kept so that earlier runs can be repeated.
        for loss in (first, *reversed(rest)):
            value = loss.value(run)
            if value is not None:
                result.sums[loss.name] = value
        return result

    def _run(
        self, batch: MicroBatch, losses: Mapping[str, Loss], draws: Draws | None, vectors_only: bool
    ) -> LareOutput:
        inputs: dict[str, Any] = dict(batch.inputs)
        for loss in map(get_loss, loss_names()):
            if loss.name not in losses or (vectors_only and not isinstance(loss, Contrastive)):
                for name in loss.reads:
                    inputs.pop(name, None)
        for loss in losses.values():
            inputs |= loss.request(batch)
        if batch.fetch:
            if self.lare.config.backbone_config is not None:
                raise LareError("the method fetch is for LaRe's own assembly; leave it out of the mixture")
            assert batch.boxes is not None and draws is not None and draws.token is not None
            inputs["fetch"] = pick_tokens(batch.boxes, draws.token, self.lare.config.grid)
        if draws is not None and inputs.get("window_mode") == "random":
            inputs["generator"] = torch.Generator().manual_seed(draws.seed)
        output: LareOutput = self.lare(**inputs)
        return output
