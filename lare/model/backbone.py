"""What LaRe asks of a backbone: one small object for each family of vision-language models.

`lare.backbones` holds them, one file a family; the configuration names one, and `lare.registry.BACKBONES` finds it. The
model's half says how pixels become visual tokens on their grid, and how the decoder reads a prompt with them (its
positions, and what else its prefill takes). The processor's half says how pictures become pixels, and what the prompt
writes for one. Nothing else in LaRe asks for a model's type.

Shapes: I images, B rows, S positions, N image tokens, d width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from lare.errors import LareError
from lare.model.attention import attention_name
from lare.model.reading import Reading, cells_of, place_visual
from lare.model.vision import Shape, VisualTokens
from lare.registry import BACKBONES

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model.configuration_lare import LareConfig

__all__ = ["OWN", "Backbone", "VisionLanguage", "backbone_of", "canvas", "on_grid"]

OWN = "assembly"
"""The name of LaRe's own assembly: encoder, projector and causal decoder."""


class Backbone(ABC):
    """A family.

    Attributes:
        image_inputs: Names of the tensors that `see` takes beside the pixels; the processor makes them.
        encoder: Prefixes of the frozen encoder's parameters in the model.
        projector: Prefixes of the parameters that take its features to the decoder; they may lie inside the encoder's.
    """

    image_inputs: ClassVar[tuple[str, ...]] = ()
    encoder: ClassVar[tuple[str, ...]]
    projector: ClassVar[tuple[str, ...]]

    # The model's half ------------------------------------------------------------------------------------------

    @abstractmethod
    def parts(self, config: LareConfig) -> dict[str, nn.Module | None]:
        """The modules of a new model, under the names that they have in it; ``language_model`` is one of them."""

    @abstractmethod
    def decoder(self, model: Any) -> nn.Module:
        """The decoder without its LM head; it has its layers in ``layers``."""

    @abstractmethod
    def logits(self, model: Any, hidden: Tensor) -> Tensor:
        """Logits (..., V) of decoder outputs (..., d)."""

    @abstractmethod
    def see(self, model: Any, pixel_values: Tensor, extra: Mapping[str, Tensor], lm_grid: int | None) -> VisualTokens:
        """Visual tokens of I images.

        Args:
            model: The LaRe model.
            pixel_values: As the processor made them.
            extra: The further `image_inputs`.
            lm_grid: Side of the decoder's grid, for backbones whose grid can be pooled.
        """

    def read(self, model: Any, input_ids: Tensor, mask: Tensor | None, visual: VisualTokens) -> Reading:
        """Prompts (B, S) as the decoder reads them; `mask` (B, S) booleans is False at padding."""
        return read_prompt(model, input_ids, visual)

    # The processor's half --------------------------------------------------------------------------------------

    def image_token(self, processor: Any) -> str:
        """The token that stands for one visual token."""
        raise NotImplementedError

    def around(self, processor: Any) -> tuple[str, str, str]:
        """What the chat template writes for a picture, and the texts before and after the picture's own tokens."""
        raise NotImplementedError

    def pictures(self, processor: Any, images: Sequence[Image], **options: Any) -> tuple[dict[str, Tensor], list[Any]]:
        """Pixels and further `image_inputs` of pictures, and of each what `image_text` is told."""
        raise NotImplementedError

    def image_text(self, processor: Any, grid: Any) -> str:
        """What the prompt holds for one picture."""
        raise NotImplementedError

    # A closer look (`lare.model.closer`); `eyes` are a processor's image processor and settings ---------------------

    def region(self, eyes: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, in pixels, of the part that the grid covers of a picture of width and height."""
        return 0.0, 0.0, float(size[0]), float(size[1])

    def crops(self, eyes: Any, crops: Sequence[Image], cells: Sequence[Shape]) -> dict[str, Tensor]:
        """Pixels and further `image_inputs` of windows' crops, each a picture of its own.

        Args:
            eyes: Its `backbone_settings` have ``finer``, the factor for towers that take any size.
            crops: Cut out of pictures.
            cells: Rows and columns of visual tokens that each shows.
        """
        return dict(self.pictures(eyes, crops)[0])


def read_prompt(model: Any, input_ids: Tensor, visual: VisualTokens) -> Reading:
    """Prompts whose positions simply count on."""
    embeds, slots = place_visual(model.embed(input_ids), input_ids, model.config.image_token_id, visual)
    return Reading(embeds, slots, cells_of(slots, visual))


class VisionLanguage(Backbone):
    """A model of transformers that has encoder, projector, decoder and head in one; it is the ``language_model``.

    A subclass names where its parts are, below the model.

    Attributes:
        tower: Path of the encoder.
        connector: Paths of what takes its features to the decoder.
        text: Path of the decoder.
        token: The control token that stands for one visual token.
    """

    tower: ClassVar[str]
    connector: ClassVar[tuple[str, ...]]
    text: ClassVar[str] = "model.language_model"
    token: ClassVar[str]

    @property
    def encoder(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Backbone`."""
        return (f"language_model.{self.tower}.",)

    @property
    def projector(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Backbone`."""
        return tuple(f"language_model.{path}." for path in self.connector)

    def check(self, config: PreTrainedConfig) -> None:
        """Refuse a configuration that can't be run.

        Raises:
            LareError: With the mend.
        """

    def settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        """What the processor's half needs to know of a configuration; becomes `LareProcessor.backbone_settings`."""
        return {}

    def nominal(self, config: PreTrainedConfig) -> tuple[int, int]:
        """Side in pixels of a usual square picture, and side of its grid in cells; for estimates and defaults."""
        raise NotImplementedError

    def parts(self, config: LareConfig) -> dict[str, nn.Module | None]:
        """See `Backbone`."""
        own = cast(PreTrainedConfig, config.backbone_config)
        self.check(own)
        made: Any = AutoModelForImageTextToText.from_config(own, attn_implementation="sdpa")
        return {"language_model": self.adapted(made, config._attn_implementation)}

    def adapted(self, made: PreTrainedModel, attention: str | None = None) -> PreTrainedModel:
        """A model of the family whose decoder attends so that its last row can be read."""
        made.get_submodule(self.text).config._attn_implementation = attention_name(attention)  # type: ignore[union-attr]
        return made

    def decoder(self, model: Any) -> nn.Module:
        """See `Backbone`."""
        return cast(nn.Module, model.language_model.get_submodule(self.text))

    def logits(self, model: Any, hidden: Tensor) -> Tensor:
        """See `Backbone`."""
        return cast(Tensor, model.language_model.get_output_embeddings()(hidden))

    def image_token(self, processor: Any) -> str:
        """See `Backbone`."""
        return self.tokenizer_token(processor, self.token)

    def around(self, processor: Any) -> tuple[str, str, str]:
        """See `Backbone`; nothing but the picture's own tokens."""
        return self.image_token(processor), "", ""

    def image_text(self, processor: Any, grid: Any) -> str:
        """See `Backbone`; a token for each cell of rows and columns."""
        return self.image_token(processor) * int(grid[0] * grid[1])

    def tokenizer_token(self, processor: Any, default: str) -> str:
        """A control token of the family that the processor's tokenizer has to know.

        Raises:
            LareError: If it does not, as that of another model would not.
        """
        if default not in processor.tokenizer.get_vocab():
            raise LareError(
                f"the tokenizer has no token {default}, which this model's prompts need; give the processor that "
                "belongs to the model"
            )
        return default


def backbone_of(name: str | None) -> Any:
    """The backbone of that name; None is LaRe's own assembly.

    Raises:
        LareError: If there is none of that name.
    """
    return BACKBONES.get(name or OWN)


# Grids --------------------------------------------------------------------------------------------------------------


def on_grid(tokens: Sequence[Tensor], sizes: Sequence[Shape], least: int, extra: Mapping[str, Any]) -> VisualTokens:
    """Visual tokens of images whose prompt holds nothing but the cells of one grid each, row by row.

    Args:
        tokens: Each image's, (rows * columns, d).
        sizes: Rows and columns of each.
        least: Cells that the canvas has at least on each side, for a window to fit.
        extra: Becomes `VisualTokens.extra`.
    """
    places = [torch.arange(rows * columns).reshape(rows, columns) for rows, columns in sizes]
    return canvas(tokens, places, least, extra)


def canvas(tokens: Sequence[Tensor], places: Sequence[Tensor], least: int, extra: Mapping[str, Any]) -> VisualTokens:
    """Visual tokens of images on a canvas that all of them fit on.

    Args:
        tokens: Each image's, in the prompt's order, (N_i, d).
        places: Each image's (rows, columns): which of its tokens stands in a cell.
        least: Cells that the canvas has at least on each side.
        extra: Becomes `VisualTokens.extra`.
    """
    sizes = [(int(one.shape[0]), int(one.shape[1])) for one in places]
    shape = (max(least, *(rows for rows, _ in sizes)), max(least, *(columns for _, columns in sizes)))
    device, longest = tokens[0].device, max(len(one) for one in tokens)
    filled = torch.stack([nn.functional.pad(one, (0, 0, 0, longest - len(one))) for one in tokens])
    plain = all(size == shape for size in sizes)
    ragged = any(len(one) != longest for one in tokens)
    counts = torch.tensor([len(one) for one in tokens], device=device) if ragged else None
    if plain and all(torch.equal(one.flatten(), torch.arange(longest)) for one in places):
        return VisualTokens(filled, filled, shape, shape, counts, extra=dict(extra))
    laid = torch.full((len(tokens), *shape), -1, dtype=torch.long)
    for number, (one, (rows, columns)) in enumerate(zip(places, sizes, strict=True)):
        laid[number, :rows, :columns] = one
    where = laid.flatten(1).to(device)
    index = where.clamp_min(0)[..., None].expand(-1, -1, filled.shape[-1])
    refocus = filled.gather(1, index) * (where >= 0)[..., None].to(filled.dtype)
    held = None if plain else torch.tensor(sizes, device=device)
    return VisualTokens(filled, refocus, shape, shape, counts, where, held, dict(extra))
