"""What the model returns: losses of a training step, and generated answers with their trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lare.model.thinking import Thoughts
from lare.model.vision import VisualTokens

__all__ = ["LareGeneration", "LareOutput", "Loss"]

Loss = tuple[Tensor, Tensor]  # sum over tokens (with gradient), and their number


@dataclass
class LareOutput:
    """One training forward.

    Attributes:
        lm_loss: (sum, count) of the text target's cross-entropy; None without targets.
        prefix_loss: (sum, count) of the text-prefix reconstruction (eq. 8); None if not asked for.
        thoughts: The latents and how they came about; None without iterations.
        logits: (N, V) predictions of the N answered target tokens, in row order.
        labels: (N,) the target tokens.
        target_hidden: (B, T, d) decoder outputs that predict the targets.
        target_visual: (N, d) visual tokens inside the targets, in row order.
        prefix_hidden: (B, P, d) decoder outputs that predict the rationale prefix.
        visual: The visual tokens of the I images.
    """

    lm_loss: Loss | None = None
    prefix_loss: Loss | None = None
    thoughts: Thoughts | None = None
    logits: Tensor | None = None
    labels: Tensor | None = None
    target_hidden: Tensor | None = None
    target_visual: Tensor | None = None
    prefix_hidden: Tensor | None = None
    visual: VisualTokens | None = None


@dataclass
class LareGeneration:
    """Generated answers; the last group of fields is filled on `output_trace` only.

    As a sequence it is its B rows of ids, so that `processor.batch_decode` takes it.

    Attributes:
        sequences: (B, T) generated ids, padded on the right.
        lengths: (B,) tokens before the end of sequence, which is not counted.
        steps: (B,) latent iterations.
        stop_reason: Per row why thinking stopped: "fixed", "converged", "max_iterations".
        latents: (B, K, m, d), as in `lare.model.thinking.Thoughts`, like the next two and the two after `sizes`.
        windows: (B, K, 2).
        saliency: (B, K, R, C) on the decoder's grid; zeros beyond an image that is smaller than others of its batch.
        sizes: (B, 2) rows and columns that each row's image takes of the fine grid; None where all of it.
        cross_attention: (B, K, n).
        window_masses: (B, K).
        attention_shares: (B, 2, L, H, 4) attention of two positions: the one that predicts the answer's first token,
            and that token's own. Each is split over the sequence's first token, text, visual tokens and latents; the
            four sum to 1.
        seconds: Wall-clock seconds per phase: "vision", "prefill", "think", "decode".
    """

    sequences: Tensor
    lengths: Tensor
    steps: Tensor
    stop_reason: list[str]
    latents: Tensor | None = None
    windows: Tensor | None = None
    saliency: Tensor | None = None
    cross_attention: Tensor | None = None
    window_masses: Tensor | None = None
    attention_shares: Tensor | None = None
    sizes: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        """B."""
        return int(self.sequences.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        """Rows of `sequences`, (T,) each."""
        return iter(self.sequences)

    def __getitem__(self, index: Any) -> Tensor:
        """Rows of `sequences`."""
        return self.sequences[index]
