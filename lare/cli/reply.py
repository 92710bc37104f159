"""What ``lare ask`` answers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Reply"]


@dataclass(frozen=True)
class Reply:
    """What ``lare ask --json`` prints.

    Attributes:
        answer: The final answer: what follows the last "Answer:" of the text, or the whole text without one.
        text: All that the model wrote.
        latent_steps: Latent tokens that it thought before the text.
        stop_reason: Why the latent steps ended: "fixed", "converged" or "max_iterations".
        output_tokens: Text tokens written, without the end token.
        seconds: Wall-clock time of each phase.
        checkpoint: Checkpoint that answered.
    """

    answer: str
    text: str
    latent_steps: int
    stop_reason: str
    output_tokens: int
    seconds: dict[str, float]
    checkpoint: str
