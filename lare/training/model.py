"""A LaRe model with the heads that only training needs, and its losses on one micro-batch.

One module, so that DDP, FSDP and DeepSpeed wrap all that trains. Every loss is a sum; the trainer divides it by its
count over the whole global batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lare.losses.alignment import Aligned, AlignmentHeads
from lare.losses.image import ImageReconstruction
from lare.losses.image_codes import image_features
from lare.losses.image_sampling import choose_crop, crop_windows, looked_at
from lare.losses.looking import look_loss, pick_tokens
from lare.model import LareForConditionalGeneration
from lare.model.loop import run_decoder
from lare.model.outputs import LareOutput
from lare.model.thinking import Thoughts
from lare.training.feeding.batch import Draws, MicroBatch
from lare.training.precision import AUTOCAST

__all__ = ["LOSSES", "StepOutput", "TrainingModel", "rationale_states"]

LOSSES = ("lm", "alignment", "image", "text", "look")


@dataclass
class StepOutput:
    """Losses of one micro-batch.

    Attributes:
        sums: Sum of each loss that applies, but the alignment.
        aligned: Unit vectors of the alignment (eq. 6), whose loss needs the whole global batch.
        right: Target tokens that are the arg-max.
    """

    sums: dict[str, Tensor]
    aligned: Aligned | None = None
    right: int = 0


def rationale_states(model: LareForConditionalGeneration, ids: Tensor, mask: Tensor) -> Tensor:
    """The decoder's hidden states over rationale tokens (B, R), read as text alone: (B, R, d).

    Alone, since behind image and latents the states would contain the very latents that they are to be compared with.
    Right padding needs no mask: no real token comes after it.
    """
    positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape[0], -1)
    return run_decoder(model, model.embed(ids), None, positions, None)


class TrainingModel(nn.Module):
    """LaRe, the alignment heads and image reconstruction.

    Args:
        lare: The model.
        shared_dim: Width of the alignment's shared space; 0 leaves the heads out.
        image: Image reconstruction; None leaves it out.
        precision: ``bf16`` and ``fp16`` run the forward pass under autocast, ``fp32`` does not.

    Attributes:
        whole_graph: Use each part in every pass, with a weight of zero if no row needs it: processes that share a
            sharded model wait for one another's use of each.
    """

    def __init__(
        self,
        lare: LareForConditionalGeneration,
        shared_dim: int = 256,
        image: ImageReconstruction | None = None,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.lare = lare
        width = int(lare.config.text_config.hidden_size)
        self.alignment = AlignmentHeads(width, width, shared_dim) if shared_dim else None
        self.image = image
        self.precision = precision
        self.whole_graph = False

    def forward(
        self, batch: MicroBatch, weights: Mapping[str, float], draws: Draws | None = None, vectors_only: bool = False
    ) -> StepOutput:
        """Losses of a micro-batch.

        Args:
            batch: Its rows.
            weights: Weight of ``alignment``, ``image`` and ``text``; a loss of weight 0 is not computed.
            draws: The random numbers of its rows.
            vectors_only: Make the alignment's vectors and nothing else, for the pass that gathers them.
        """
        device = batch.inputs["input_ids"].device.type
        kind = AUTOCAST.get(self.precision)
        with nullcontext() if kind is None else torch.autocast(device, kind):
            return self._losses(batch, weights, draws, vectors_only)

    def _losses(
        self, batch: MicroBatch, weights: Mapping[str, float], draws: Draws | None, vectors_only: bool
    ) -> StepOutput:
        out = self._run(batch, weights, draws, vectors_only)
        result = StepOutput({})
        thoughts = out.thoughts if out.thoughts is not None and out.thoughts.latents.shape[1] else None
        made = None if batch.fetch else thoughts
        if weights["alignment"] and made is not None and self.alignment is not None:
            result.aligned = self._aligned(batch, out)
        if vectors_only:
            return result
        if out.lm_loss is not None and out.logits is not None and out.labels is not None:
            result.sums["lm"] = out.lm_loss[0]
            result.right = int((out.logits.detach().argmax(-1) == out.labels).sum())
        if weights["look"] and thoughts is not None and batch.boxes is not None:
            assert out.visual is not None
            result.sums["look"] = look_loss(thoughts.saliency, batch.boxes, out.visual.lm_grid)[0]
        if out.prefix_loss is not None:
            result.sums["text"] = out.prefix_loss[0]
        if weights["image"] and made is not None and self.image is not None and draws is not None:
            result.sums["image"] = self._image_loss(batch, out, draws)
        return result

    def _run(
        self, batch: MicroBatch, weights: Mapping[str, float], draws: Draws | None, vectors_only: bool
    ) -> LareOutput:
        inputs: dict[str, Any] = dict(batch.inputs)
        if vectors_only:
            for name in ("target_ids", "target_mask", "label_mask"):
                inputs.pop(name, None)
        if vectors_only or not weights["text"]:
            for name in ("prefix_ids", "prefix_mask"):
                inputs.pop(name, None)
        inputs["saliency_gradient"] = bool(weights["look"]) and batch.boxes is not None
        if batch.fetch:
            assert batch.boxes is not None and draws is not None and draws.token is not None
            inputs["fetch"] = pick_tokens(batch.boxes, draws.token, self.lare.config.grid)
        if draws is not None and inputs.get("window_mode") == "random":
            inputs["generator"] = torch.Generator().manual_seed(draws.seed)
        output: LareOutput = self.lare(**inputs)
        return output

    def _aligned(self, batch: MicroBatch, out: LareOutput) -> Aligned:
        assert self.alignment is not None and out.thoughts is not None and out.visual is not None
        assert batch.rationale_ids is not None and batch.rationale_mask is not None
        states = rationale_states(self.lare, batch.rationale_ids, batch.rationale_mask)
        latents = out.thoughts.latents.flatten(1, 2)
        visual = out.visual.lm.repeat_interleave(batch.rows // out.visual.lm.shape[0], 0)
        aligned: Aligned = self.alignment(latents, states, batch.rationale_mask, visual)
        return Aligned(*(one.float() for one in aligned))

    def image_crop(self, thoughts: Thoughts, rows: Tensor, step: Tensor, corners: Tensor) -> tuple[Tensor, int]:
        """What the latents of an iteration have to rebuild (`ImageConfig.cells`): corners (R, 2) and side, in cells.

        Args:
            thoughts: The loop's.
            rows: (R,) rows of the batch.
            step: (R,) iteration of each.
            corners: (R, 2) of its window.
        """
        config = self.lare.config
        window = config.window if config.use_window else config.grid
        cells = 0 if self.image is None else self.image.config.cells
        if not cells:
            return corners, window
        return looked_at(corners, thoughts.cross_attention[rows, step], window, config.grid, cells), cells

    def _image_loss(self, batch: MicroBatch, out: LareOutput, draws: Draws) -> Tensor:
        """Eq. 7 on the rows that carry it: the crop of one iteration's window from that iteration's latents."""
        assert self.image is not None and out.thoughts is not None and batch.pictures is not None
        assert draws.noise is not None and draws.timesteps is not None
        chosen, weight = draws.carried.nonzero().squeeze(1), 1.0
        if not len(chosen):
            if not self.whole_graph:
                return out.thoughts.latents.sum() * 0.0
            chosen, weight = draws.carried.new_zeros(1, dtype=torch.long), 0.0
        thoughts, per_image = out.thoughts, batch.rows // len(batch.pictures)
        step, corners = choose_crop(thoughts.windows[chosen], draws.pick[chosen])
        pictures = batch.pictures[chosen // per_image].float() / 127.5 - 1.0
        corners, side = self.image_crop(thoughts, chosen, step, corners)
        # An image tokenizer's activations may be larger than fp16 can hold.
        exact = torch.autocast(pictures.device.type, enabled=False) if self.precision == "fp16" else nullcontext()
        with torch.no_grad(), exact:
            crops = crop_windows(pictures, corners, side, self.lare.config.grid, self.image.size)
            x0 = image_features(self.image.tokenizer, crops)
        total, _ = self.image.loss(thoughts.latents[chosen, step], x0, draws.noise[chosen], draws.timesteps[chosen])
        return total * weight
