"""What an intervention is, and how it is found by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lare.errors import LareError
from lare.registry import INTERVENTIONS

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OWN", "Intervention", "get_intervention", "intervention_names"]

OWN = "own"
"""The name of no intervention: the method's own latents."""

GROUPS = ("own", "content", "structure", "slots", "oracle", "image", "input")


@dataclass(frozen=True)
class Intervention:
    """One change, and all else as it was.

    Attributes:
        name: Its name on the command line.
        title: Its name in a table.
        changes: What it changes, in a phrase.
        fixed: What it holds fixed, in a phrase.
        group: One of `GROUPS`. "content" takes away what latents hold about the question, at their own number; an
            answer that needs the content gets worse under each of them. "structure" keeps content and moves or repeats
            it; "slots" changes marks and number; "oracle" feeds what latents should hold; "image" changes what the
            answer sees beside them; "input" changes what comes before them.
        content: From a `lare.interventions.replacing.Step` to what is fed in place of its latents (B, m, d); None feeds
            the method's own.
        steps: From the method's own number of latents to the number that is made; None keeps it.
        marks: Whether the marks around the latents are written.
        filler: Whether a plain-text dot for each latent, in brackets, stands in place of marks and latents.
        hides_image: Whether the answer sees no image once the latents are made.
        exchanges: "image" or "question" where the question is asked with another's: whoever asks has to exchange it.
        needs: What `content` reads beside the step: "bank" (latents of other questions), "own" (this question's, from a
            run without intervention), "dummy" (an embedding), "boxes" (tokens of a region).
    """

    name: str
    title: str
    changes: str
    fixed: str
    group: str
    content: Callable[[Any], Tensor] | None = None
    steps: Callable[[int], int] | None = None
    marks: bool = True
    filler: bool = False
    hides_image: bool = False
    exchanges: str = ""
    needs: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise LareError(f"the intervention {self.name!r} is of the group {self.group!r}; choose one of {GROUPS}")

    @property
    def plain(self) -> bool:
        """Whether the model answers as it always does, so that only what it is asked differs."""
        same = self.content is None and self.steps is None
        return same and self.marks and not (self.filler or self.hides_image)

    @property
    def alone(self) -> bool:
        """Whether a question by itself is enough; else whoever asks has to give more."""
        return not (self.exchanges or self.needs & {"bank", "boxes"} or self.group == "input")

    def dots(self, latents: int) -> str:
        """Plain text in the place of so many latents, for `filler`: a dot each, at least one; else no text."""
        return f" ({' '.join('.' * max(1, latents))})" if self.filler else ""


def intervention_names() -> list[str]:
    """All names: LaRe's own in the order in which tables list them, then those of other packages."""
    own = list(INTERVENTIONS.own)
    return [*own, *(name for name in INTERVENTIONS.names() if name not in own)]


def get_intervention(name: str) -> Intervention:
    """An intervention by name.

    Raises:
        LareError: If there is none.
    """
    found = INTERVENTIONS.get(name)
    if not isinstance(found, Intervention) or found.name != name:
        raise LareError(f"the intervention {name!r} stands for no Intervention of that name; mend its entry point")
    return found
