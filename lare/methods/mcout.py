"""MCOUT (Pham and Ngo 2025, arXiv 2508.12587, "MCOUT-Multi"): thoughts that look at the visual tokens.

Each of N thoughts is the last hidden state, projected, refined by multi-head attention over the visual tokens, residual
and layer norm, and projected back. Beside the answer after all thoughts, the answer after each earlier one is predicted
too, with weight 0.3 each. The authors' code appends thoughts after the answer, where a causal decoder gives them no
gradient; here they come before it.

A run that trains it has ``model.settings: {latent_maker: mcout, use_window: false}``, and may have there
``latent_maker_settings``: ``heads`` (else the decoder's), ``tokens`` (``lm``, as the paper, or ``fine``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from lare.errors import require
from lare.losses.base import Loss, Run
from lare.losses.batch import Draws, MicroBatch
from lare.methods.base import option
from lare.methods.latent import Latent
from lare.methods.layout import Layout
from lare.methods.training import ModelSettings, StageSettings, Training, TrainingOptions
from lare.model.configuration_lare import LareConfig
from lare.model.latent_maker import LatentMaker
from lare.model.loop import LoopState
from lare.model.losses import cross_entropy_at, target_states
from lare.model.thinking import Thoughts
from lare.model.vision import VisualTokens

__all__ = ["Intermediate", "LatentAttention", "Mcout", "McoutTraining"]


class LatentAttention(LatentMaker):
    """The paper's multimodal latent attention; keys and values are made once an image."""

    def __init__(self, config: LareConfig) -> None:
        super().__init__(config)
        width, given = int(config.text_config.hidden_size), config.latent_maker_settings
        self.heads = int(given.get("heads", config.text_config.num_attention_heads))
        self.tokens = given.get("tokens", "lm")
        require(self.heads >= 1 and width % self.heads == 0, f"heads is {self.heads}; give a divisor of {width}")
        require(self.tokens in ("lm", "fine"), f"tokens is {self.tokens!r}; give lm or fine")
        names = ("project", "query", "key", "value", "output", "project_back")
        self.layers = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.norm = nn.LayerNorm(width)

    def remember(self, visual: VisualTokens) -> tuple[Tensor, Tensor]:
        """Keys and values (I, heads, N, d / heads) of the visual tokens."""
        seen = visual.lm if self.tokens == "lm" else visual.refocus
        return self._split(self.layers["key"](seen)), self._split(self.layers["value"](seen))

    def forward(self, state: LoopState, memory: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """See `LatentMaker.forward`; the rows of an image are queries side by side."""
        thought = self.layers["project"](state.last_hidden)
        query = self._split(self.layers["query"](thought.unflatten(0, (-1, state.questions_per_image))))
        seen = nn.functional.scaled_dot_product_attention(query, *memory).transpose(1, 2).flatten(2).flatten(0, 1)
        made: Tensor = self.layers["project_back"](self.norm(self.layers["output"](seen) + thought))
        return made.unsqueeze(1)

    def _split(self, values: Tensor) -> Tensor:
        split: Tensor = values.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return split


class Intermediate(Loss):
    """The answer's cross-entropy after each thought but the last, after which L_lm is; they add up."""

    name, label = "mcout", "L_thoughts"

    def count(self, batch: MicroBatch, draws: Draws) -> int:
        """Answered tokens, as L_lm's."""
        return int(_answered(batch.inputs).sum()) if batch.inputs["iterations"] > 1 else 0

    def value(self, run: Run) -> Tensor | None:
        """See `Loss.value`; each thought costs one pass over the answers after the cached prompt."""
        thoughts, inputs, model = run.out.thoughts, run.batch.inputs, run.model.lare
        _check(model.config)
        if thoughts is None or thoughts.latents.shape[1] < 2:
            return None
        ids, mask, total = inputs["target_ids"], inputs["target_mask"].bool(), torch.zeros(())
        for step in range(1, thoughts.latents.shape[1]):
            hidden, _ = target_states(model, state_after(thoughts, step), ids, mask, delimiters=True)
            total = total.to(ids.device) + cross_entropy_at(model, hidden, ids, _answered(inputs))[0][0]
        return total


def _answered(inputs: Mapping[str, Any]) -> Tensor:
    found: Tensor = inputs.get("label_mask", inputs["target_mask"])
    return found.bool()


def state_after(thoughts: Thoughts, step: int) -> LoopState:
    """The state after the first thoughts: the cache of a causal decoder, cut, with its gradients."""
    state, (_, steps, per_step, _) = thoughts.state, thoughts.latents.shape
    later = (steps - step) * per_step
    length, cache = state.attention_mask.shape[1] - later, DynamicCache()
    for number, layer in enumerate(cast(list[Any], state.cache.layers)):
        cache.update(layer.keys[..., :length, :], layer.values[..., :length, :], number)
    mask = state.attention_mask[:, :length]
    return replace(state, cache=cache, attention_mask=mask, next_position=state.next_position - later)


@dataclass(frozen=True)
class McoutOptions(TrainingOptions):
    """Options in a mixture; N that is left out is the stage's."""

    iterations: int | None = option(None, "thoughts before the answer, N", least=1)


class McoutTraining(Training):
    """N thoughts, the answer."""

    options_type = McoutOptions
    options: McoutOptions

    def layout(self, stage: StageSettings, config: ModelSettings) -> Layout:
        """See `Training.layout`."""
        steps = stage.iterations if self.options.iterations is None else self.options.iterations
        return Layout(config.iterations if steps is None else steps, delimiters=True, lm_grid=self.grid(stage))

    def losses(self) -> Mapping[Loss, float]:
        """See `Training.losses`."""
        return {Intermediate(): 0.3}


class Mcout(Latent):
    """Thoughts, then the answer."""

    name = "mcout"
    refocus = True
    training = McoutTraining
    latent_maker = LatentAttention

    def check(self) -> None:
        """See `Method.check`."""
        super().check()
        _check(self.model.config)


def _check(config: LareConfig) -> None:
    """Refuse a model without the method's module."""
    mend = "start a run with model.settings {latent_maker: mcout, use_window: false}"
    require(config.latent_maker == Mcout.name, f"mcout makes latents by its own module, and the model has none; {mend}")
