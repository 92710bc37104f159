"""Learned stop rules: small heads that say, after each latent step, whether it is time to answer.

Beyond the paper [ours], whose rules ask only whether the latents still move. Three kinds of heads are known:

- ``agreement``: the probability that the answer after this step is as good as the best over all numbers of steps,
  from the last hidden state, its change and the latents' (binary cross-entropy).
- ``ponder``: the probability of stopping here, having come so far, trained for the least expected loss with a price a
  step and a geometric prior (PonderNet, Banino et al. 2021), from the same.
- ``confidence``: the calibrated confidence of the text's first token, from one look ahead: a decoder pass of
  <|latent_end|> on the cache, which is then taken back. It costs about one more latent step a step.

Heads are fitted on a frozen model, after its training. They are no part of its state dictionary, but lie in a file of
their own beside its weights: fitting again rewrites some kilobytes, and a checkpoint without that file loads as ever.

Shapes: B rows, m latents a step, d decoder width, V vocabulary, F inputs of a head.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lare.errors import LareError
from lare.files import open_up

__all__ = ["HEADS_FILE", "KINDS", "LOOKS_AHEAD", "Seen", "StopHead", "StopHeads", "head_inputs", "inputs_of"]

HEADS_FILE = "stop_heads.safetensors"
KINDS = ("agreement", "ponder", "confidence")
LOOKS_AHEAD = frozenset({"confidence"})
"""Kinds that read the text's first token, and so take one more decoder pass a step."""
_KEY = "lare_stop_heads"
_FORMAT = 1
_AHEAD = 3  # numbers that say how sure the first token is


@dataclass
class Seen:
    """What is known after a latent step; the rows of a batch that still think.

    Attributes:
        step: Number of the step, from 1.
        latents: (B, m, d) of this step.
        previous: (B, m, d) of the step before; None after the first.
        hidden: (B, d) decoder output at the last latent.
        before: (B, d) decoder output at the position before this step's latents.
        first: (B, V) logits of the text's first token if the text began here; None unless a rule looks ahead.
    """

    step: int
    latents: Tensor
    previous: Tensor | None
    hidden: Tensor
    before: Tensor
    first: Tensor | None = None


def inputs_of(kind: str, hidden_size: int) -> int:
    """F, the inputs of a head of a kind over a decoder of width d."""
    return _AHEAD if kind in LOOKS_AHEAD else 2 * hidden_size + 2


def head_inputs(kind: str, seen: Seen) -> Tensor:
    """What a head of a kind reads of a step, (B, F) in float32.

    Of the latents: the normalised last hidden state, its change, the cosine of the latents with those before, and the
    logarithm of their relative distance. Of the look ahead: the first token's log-probability, its lead over the
    second, and the distribution's entropy.

    Raises:
        LareError: If the kind looks ahead and nobody did.
    """
    if kind in LOOKS_AHEAD:
        if seen.first is None:
            raise LareError(f"the stop head {kind!r} reads the first token's logits; look ahead before asking it.")
        return _confidence(seen.first)
    hidden, before = _normalised(seen.hidden), _normalised(seen.before)
    return torch.cat((hidden, hidden - before, _movement(seen)), dim=-1)


def _normalised(states: Tensor) -> Tensor:
    wide = states.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)


def _movement(seen: Seen) -> Tensor:
    """(B, 2): cosine with the latents before, and log of the relative distance; zeros after the first step."""
    new = seen.latents.float().flatten(1)
    if seen.previous is None:
        return new.new_zeros(len(new), 2)
    old = seen.previous.float().flatten(1)
    cosine = nn.functional.cosine_similarity(new, old, dim=-1)
    distance = (new - old).norm(dim=-1) / old.norm(dim=-1).clamp_min(1e-6)
    return torch.stack((cosine, distance.clamp_min(1e-4).log()), dim=-1)


def _confidence(logits: Tensor) -> Tensor:
    """(B, 3): log-probability of the likeliest token, its lead over the second, and the entropy in nats."""
    scores = logits.float().log_softmax(-1)
    best = scores.topk(2, dim=-1).values
    entropy = -(scores.exp() * scores).nan_to_num(0.0).sum(-1)
    return torch.stack((best[:, 0], (best[:, 0] - best[:, 1]).clamp_max(20.0), entropy), dim=-1)


class StopHead(nn.Module):
    """One head: F inputs and the step's number -> a logit.

    Args:
        kind: One of `KINDS`.
        inputs: F.
        steps: Steps that it tells apart; later ones count as the last.
        width: Units of its one hidden layer; 0 makes it linear.
        threshold: C: a row stops where the head's value exceeds it. 1 never stops.
    """

    def __init__(self, kind: str, inputs: int, steps: int, width: int = 0, threshold: float = 1.0) -> None:
        super().__init__()
        if kind not in KINDS:
            raise LareError(f"there is no stop head {kind!r}; choose from {', '.join(KINDS)}.")
        self.kind, self.inputs, self.steps, self.width, self.threshold = kind, inputs, steps, width, threshold
        out = width or 1
        self.read = nn.Linear(inputs, out)
        self.at = nn.Embedding(steps, out)
        nn.init.zeros_(self.at.weight)
        self.out = nn.Linear(width, 1) if width else None

    @property
    def looks_ahead(self) -> bool:
        """Whether it reads the text's first token."""
        return self.kind in LOOKS_AHEAD

    def forward(self, inputs: Tensor, step: int | Tensor) -> Tensor:
        """Logits (...) of inputs (..., F) after step number `step`, from 1 (a number, or a tensor (...))."""
        number = torch.as_tensor(step, device=inputs.device).clamp(1, self.steps) - 1
        made = self.read(inputs) + self.at(number)
        if self.out is not None:
            made = self.out(nn.functional.gelu(made))
        found: Tensor = made.squeeze(-1)
        return found

    @torch.no_grad()
    def values(self, inputs: Tensor) -> Tensor:
        """What the threshold is held against after each of T steps in a row: (N, T, F) -> (N, T).

        The probability itself; of ``ponder`` that of having stopped by then, 1 - prod (1 - lambda).
        """
        steps = torch.arange(1, inputs.shape[1] + 1, device=inputs.device)
        found: Tensor = self(inputs, steps).sigmoid()
        return found if self.kind != "ponder" else 1 - (1 - found).cumprod(1)


@dataclass
class StopHeads:
    """The learned stop rules of a checkpoint.

    Attributes:
        heads: By kind.
        chosen: The kind that ``stop=learned`` takes.
        steps: Most steps that a learned rule takes: the best fixed number on validation questions.
        facts: How they were fitted and what they reached on validation questions; JSON-able.
    """

    heads: dict[str, StopHead]
    chosen: str
    steps: int
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.chosen not in self.heads or self.steps < 1:
            raise LareError(f"stop heads {', '.join(self.heads)} with {self.chosen!r} chosen of them; choose one.")
        for head in self.heads.values():
            head.eval().requires_grad_(False)

    def get(self, kind: str = "") -> StopHead:
        """A head by its kind, or the chosen one.

        Raises:
            LareError: If there is none of that kind.
        """
        if (kind or self.chosen) not in self.heads:
            raise LareError(
                f"this checkpoint has no stop head {kind!r}; it has {', '.join(self.heads)}, or fit it with lare "
                "halting fit."
            )
        return self.heads[kind or self.chosen]

    @property
    def digest(self) -> str:
        """A short name of exactly these heads and thresholds."""
        found = hashlib.sha256(json.dumps(self._about(), sort_keys=True).encode())
        for name, tensor in sorted(self._tensors().items()):
            found.update(name.encode())
            found.update(tensor.numpy().tobytes())
        return found.hexdigest()[:12]

    def _about(self) -> dict[str, Any]:
        sizes = {
            kind: asdict(_Sizes(head.inputs, head.steps, head.width, head.threshold))
            for kind, head in self.heads.items()
        }
        return {"format": _FORMAT, "chosen": self.chosen, "steps": self.steps, "heads": sizes}

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{kind}.{name}": value.detach().float().cpu().contiguous()
            for kind, head in self.heads.items()
            for name, value in head.state_dict().items()
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write them beside a checkpoint's weights; returns the file."""
        path = Path(folder) / HEADS_FILE
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        about = json.dumps({**self._about(), "facts": self.facts})
        save_file(self._tensors(), temporary, metadata={"format": "pt", _KEY: about})
        open_up(temporary)
        temporary.replace(path)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str], hidden_size: int) -> StopHeads:
        """Read what `save` has written.

        Args:
            path: The file.
            hidden_size: d of the model that they belong to.

        Raises:
            LareError: If the file is damaged or belongs to another model.
        """
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            return _read(cls, about, tensors, hidden_size)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise LareError(
                f"The stop heads in {os.fspath(path)} can't be used ({first}); fit them again with lare halting fit, "
                "or delete the file."
            ) from None


@dataclass(frozen=True)
class _Sizes:
    inputs: int
    steps: int
    width: int
    threshold: float


def _read(
    kind: type[StopHeads], about: Mapping[str, Any], tensors: Mapping[str, Tensor], hidden_size: int
) -> StopHeads:
    if about["format"] != _FORMAT:
        raise ValueError(f"format {about['format']}, this version reads {_FORMAT}")
    heads = {}
    for name, sizes in about["heads"].items():
        known = _Sizes(**sizes)
        if name in KINDS and known.inputs != inputs_of(name, hidden_size):
            raise ValueError(f"{name} reads {known.inputs} numbers, this model gives {inputs_of(name, hidden_size)}")
        if not math.isfinite(known.threshold) or not 0 < known.steps <= 4096 or not 0 <= known.width <= 65536:
            raise ValueError(f"{name} has impossible sizes")
        head = StopHead(name, known.inputs, known.steps, known.width, known.threshold)
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        head.load_state_dict(own)
        heads[name] = head
    return kind(heads, str(about["chosen"]), int(about["steps"]), dict(about.get("facts", {})))
