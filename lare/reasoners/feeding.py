"""Feeding states back by parts of a checkpoint: heads that make latents, the learnt end, picked visual embeddings.

Shapes: B rows, S columns, n patches, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from lare.errors import LareError
from lare.reasoners.loading import extra_weights
from lare.reasoners.preset import Block, Preset

__all__ = ["Feeding", "Picker"]


class Feeding:
    """The parts of a checkpoint that its transformers class has no place for.

    Args:
        preset: A preset of kind "feedback".
        model: A loaded model.

    Attributes:
        weights: Those tensors, by name.

    Raises:
        LareError: If the checkpoint lacks one.
    """

    def __init__(self, preset: Preset, model: Any) -> None:
        assert preset.block is not None
        self.block: Block = preset.block
        head = self.block.head
        end = self.block.end_embedding if self.block.stop == "distance" else None

        def wanted(name: str) -> bool:
            return name == end or (head is not None and name.startswith(f"{head}."))

        asked = head is not None or end is not None
        self.weights: Mapping[str, Tensor] = extra_weights(model, wanted) if asked else {}
        if head is not None:
            self.head = _sequential(self.weights, head, preset)
        if end is not None and end not in self.weights:
            raise LareError(
                f"the checkpoint has no weight {end!r}, the learnt end of the preset {preset.name!r}; choose "
                "stop=fixed, or a checkpoint that was trained with it"
            )

    def latent(self, hidden: Tensor) -> Tensor:
        """What is fed back of states (B, d)."""
        return self.head(hidden) if self.block.feeds == "projected" else hidden

    def near_end(self, latents: Tensor) -> Tensor:
        """Whether latents (B, d) are as near to the learnt end as the preset asks, (B,)."""
        assert self.block.end_embedding is not None and self.block.threshold is not None
        end, wide = self.weights[self.block.end_embedding].float().flatten(), latents.float()
        if self.block.distance == "cosine":
            far = 1 - functional.cosine_similarity(wide, end[None], dim=-1)
        else:
            gap = wide - end
            far = (gap.square() if self.block.distance == "mse" else gap.abs()).mean(-1)
        return far < self.block.threshold


def _sequential(weights: Mapping[str, Tensor], prefix: str, preset: Preset) -> nn.Module:
    """A stack of linear layers and a layer norm, GELU between linears, from weights named PREFIX.NUMBER.weight."""
    numbers = sorted({int(name.split(".")[-2]) for name in weights if name.split(".")[-2].isdigit()})
    if not numbers:
        raise LareError(
            f"the checkpoint has no weights {prefix}.*, the head of the preset {preset.name!r} that makes its latents; "
            "give the project's own checkpoint"
        )
    layers: list[nn.Module] = []
    for number in numbers:
        weight, bias = (weights.get(f"{prefix}.{number}.{part}") for part in ("weight", "bias"))
        assert weight is not None
        linear = weight.dim() == 2
        if linear and layers:
            layers.append(nn.GELU())
        layer: nn.Module = (
            nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
            if linear
            else nn.LayerNorm(weight.shape[0], device="meta")
        )
        layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}), assign=True)
        layers.append(layer)
    return nn.Sequential(*layers).requires_grad_(False).eval()


class Picker:
    """Takes the visual embeddings that the last position attends to most; none of them twice.

    They are handed out in the image's order, so that equal attention makes no difference.

    Args:
        visual: (B, S, d) embeddings of the prompt, visual ones in their places.
        is_image: (B, S) booleans, True at visual embeddings.
        patches: n.

    Attributes:
        picked: Columns that were taken at each step, (B, n) each, counted from a row's first visual token.

    Raises:
        LareError: If a row has too few for `steps` steps.
    """

    def __init__(self, visual: Tensor, is_image: Tensor, patches: int, steps: int) -> None:
        self.visual, self.left, self.patches = visual, is_image.clone(), patches
        self._first = is_image.long().argmax(1, keepdim=True)
        self.picked: list[Tensor] = []
        fewest = int(is_image.sum(1).min())
        if fewest < patches * steps:
            raise LareError(
                f"a picture gives {fewest} visual tokens, and {steps} latents take {patches} each; give a larger "
                "picture or fewer iterations"
            )

    def pick(self, attention: Tensor) -> Tensor:
        """Embeddings (B, n, d) by the attention of the last position, (B, S) or longer."""
        scores = attention[:, : self.left.shape[1]].masked_fill(~self.left, float("-inf"))
        chosen = scores.topk(self.patches, dim=1).indices.sort(dim=1).values
        self.left.scatter_(1, chosen, False)
        self.picked.append(chosen - self._first)
        return self.visual.gather(1, chosen[..., None].expand(-1, -1, self.visual.shape[-1]))
