"""LaRe's configuration: two sub-configurations (text, vision) and the knobs of the latent loop.

A vision-language model of transformers may stand in the place of the two (``backbone_config``); they are then its
halves.

Where the paper leaves a choice open, the field's default is this project's reading of it; every value that cannot
work raises in the constructor, naming the field and the mend, so that a run never starts with an impossible one.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from lare.errors import LareError, require
from lare.model.halting import parse_stop
from lare.model.lora import check_lora

__all__ = ["LareConfig", "check_source"]

_DEFAULT_TEXT = "llama"
_DEFAULT_VISION = "clip_vision_model"


class LareConfig(PreTrainedConfig):
    """Configuration of `LareForConditionalGeneration`.

    Args:
        text_config: The decoder's configuration (a causal family that `lare/model/families.json` allows) or its
            dictionary.
        vision_config: The frozen encoder's configuration (one of `lare.model.patch_grids.ENCODERS`, timm wrapper or
            backbone, LaRe's own small encoder) or its dictionary.
        image_size: Side of the input image in pixels.
        grid: Side g of the encoder's feature grid; N_f = g * g fine tokens.
        lm_grid: Side of the grid of visual tokens that the decoder reads; None means `grid`.
        refocus_source: "lm": the Extractor attends to the decoder's visual tokens (the paper). "fine": the decoder
            reads mean-pooled tokens, the Extractor attends to the window's tokens at full resolution. On a
            vision-language model the window's crop is encoded again by the model's own tower (`lare.model.closer`).
        fine_scale: With "fine" on a vision-language model, how many times as many tokens a side the crop has as the
            window, where the tower takes pictures of any size or tiles; a tower of one size has its own number.
        shared_projector: With "fine", one projector for both: the decoder's tokens are averages of the Extractor's.
        lm_token_scale: Factor of those averages; an average of many tokens has a small norm.
        iterations: K, latent iterations of the fixed schedule.
        latents_per_iteration: m, latent tokens per iteration.
        window: Side w of the sliding window in cells of the fine grid.
        use_extractor: False feeds back the last hidden state, averaged with the window's mean visual token (or the
            last hidden state alone if `use_window` is off as well: latents without any refocusing).
        use_window: False lets the Extractor attend to all visual tokens.
        extractor_dim: d_e, width of the Extractor.
        extractor_layers: N_e, its layers of self- and cross-attention.
        extractor_heads: Attention heads of each of these layers.
        projector_dim: Width between the two layers of the projectors; None means the decoder's, as LLaVA-1.5 has it.
        extractor_output_init: 0 starts the output projection at zero, x > 0 at x times the identity.
        residual_feedback: Add the normalised last hidden state to the Extractor's output.
        rms_scale: Rescale latents to the root mean square of the token-embedding table.
        stop: "fixed", "cosine:C", "l1:C" or "l2:C" (paper, Table 4), or "learned"; see `lare.model.halting.parse_stop`.
        max_iterations: Most iterations of an adaptive stop.
        vision_feature_layer: Hidden state of a ViT to read (-2: penultimate, as LLaVA-1.5).
        text_prefix: P, rationale tokens that the latents must let the decoder reconstruct (eq. 8).
        latent_maker: Name of a method whose own module makes the latents instead of the Extractor (see
            `lare.model.latent_maker`); None is the Extractor.
        latent_maker_settings: Settings of that module.
        image_token_id: Id of the image placeholder; None takes the last but two of the vocabulary.
        latent_start_id: Id that opens the latents; None takes the last but one.
        latent_end_id: Id that closes the latents; None takes the last.
        initializer_range: Standard deviation of the initial weights.
        backbone: Name of what the latents run on (`lare.registry.BACKBONES`); None is LaRe's own assembly of
            `vision_config` and `text_config`, or what `backbone_config` is the configuration of.
        backbone_config: Configuration of a vision-language model of transformers, or its dictionary; then `image_size`
            and `grid` are those of a usual picture, and a picture has the grid that its own size gives it.
        lora: Low-rank adapters on the decoder's linear layers: "rank", "alpha", "dropout", and "layers", how many of
            the last layers have them (see `lare.model.lora`).

    Raises:
        LareError: If a value is impossible; the message names the field and the mend.
    """

    model_type = "lare"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}

    def __init__(
        self,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        image_size: int = 224,
        grid: int = 16,
        lm_grid: int | None = None,
        refocus_source: str = "lm",
        shared_projector: bool = False,
        lm_token_scale: float = 1.0,
        iterations: int = 4,
        latents_per_iteration: int = 1,
        window: int = 8,
        use_extractor: bool = True,
        use_window: bool = True,
        extractor_dim: int = 1536,
        extractor_layers: int = 2,
        extractor_heads: int = 12,
        extractor_output_init: float = 0.0,
        residual_feedback: bool = True,
        rms_scale: bool = True,
        stop: str = "fixed",
        max_iterations: int = 8,
        vision_feature_layer: int = -2,
        text_prefix: int = 32,
        projector_dim: int | None = None,
        latent_maker: str | None = None,
        latent_maker_settings: dict[str, Any] | None = None,
        image_token_id: int | None = None,
        latent_start_id: int | None = None,
        latent_end_id: int | None = None,
        initializer_range: float = 0.02,
        backbone: str | None = None,
        backbone_config: PreTrainedConfig | dict[str, Any] | None = None,
        lora: dict[str, Any] | None = None,
        fine_scale: int = 2,
        **kwargs: Any,
    ) -> None:
        self._set_models(text_config, vision_config, backbone, backbone_config)
        self.lora = None if lora is None else dict(lora)
        self.image_size, self.grid = image_size, grid
        self.lm_grid = grid if lm_grid is None else lm_grid
        self.refocus_source, self.fine_scale, self.lm_token_scale = refocus_source, fine_scale, lm_token_scale
        self.shared_projector, self.projector_dim = shared_projector, projector_dim
        self.iterations, self.latents_per_iteration, self.window = iterations, latents_per_iteration, window
        self.use_extractor, self.use_window = use_extractor, use_window
        self.extractor_dim, self.extractor_layers = extractor_dim, extractor_layers
        self.extractor_heads, self.extractor_output_init = extractor_heads, extractor_output_init
        self.residual_feedback = residual_feedback
        self.rms_scale, self.stop, self.max_iterations = rms_scale, stop, max_iterations
        self.vision_feature_layer, self.text_prefix = vision_feature_layer, text_prefix
        self.latent_maker, self.latent_maker_settings = latent_maker, dict(latent_maker_settings or {})
        self._set_ids(image_token_id, latent_start_id, latent_end_id)
        self.initializer_range = initializer_range
        tied = self.text_config if self.backbone_config is None else self.backbone_config
        kwargs.setdefault("tie_word_embeddings", bool(getattr(tied, "tie_word_embeddings", False)))
        super().__init__(**kwargs)
        self._check()

    def _set_models(self, text: Any, vision: Any, backbone: str | None, backbone_config: Any) -> None:
        """Set the two halves: those given, or those of a whole vision-language model."""
        self.backbone, self.backbone_config = backbone, None
        if backbone_config is not None:
            whole = self.backbone_config = _sub_config(backbone_config, "backbone_config", "")
            self.backbone = whole.model_type if backbone is None else backbone
            text, vision = whole.get_text_config(decoder=True), whole.vision_config
        self.text_config = _sub_config(text, "text_config", _DEFAULT_TEXT)
        self.vision_config = _sub_config(vision, "vision_config", _DEFAULT_VISION)
        _check_text(self.text_config)

    def _set_ids(self, image: int | None, start: int | None, end: int | None) -> None:
        """Set the special tokens; None takes one of the vocabulary's last three."""
        vocabulary = int(self.text_config.vocab_size)
        self.image_token_id = vocabulary - 3 if image is None else image
        self.latent_start_id = vocabulary - 2 if start is None else start
        self.latent_end_id = vocabulary - 1 if end is None else end

    @property
    def looks_closer(self) -> bool:
        """Whether the Extractor looks at crops that are encoded anew."""
        return self.backbone_config is not None and self.refocus_source == "fine"

    def to_dict(self) -> dict[str, Any]:
        """All fields; a backbone's halves are written once, inside its own configuration."""
        values: dict[str, Any] = super().to_dict()
        if self.backbone_config is not None:
            values.pop("text_config", None)
            values.pop("vision_config", None)
        return values

    def _check(self) -> None:
        """Raise one `LareError` for the first impossible value."""
        _check_grids(self)
        _check_loop(self)
        _check_extractor(self)
        _check_tokens(self)
        parse_stop(self.stop)
        if self.lora is not None:
            check_lora(self.lora)


def _sub_config(value: PreTrainedConfig | dict[str, Any] | None, field: str, default: str) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    if value is not None and not isinstance(value, dict):
        raise LareError(f"{field} is a {type(value).__name__}; give a transformers configuration or its dictionary.")
    values = dict(value or {})
    model_type = values.pop("model_type", default)
    try:
        return AutoConfig.for_model(model_type, **values)
    except ValueError as error:
        raise LareError(f"{field}.model_type {model_type!r} is unknown to transformers; give a known one.") from error


def _check_text(text: PreTrainedConfig) -> None:
    """Name a configuration that is no decoder's; whether its family fits is the model's to check."""
    for name in ("vocab_size", "hidden_size", "num_hidden_layers"):
        require(
            isinstance(getattr(text, name, None), int),
            f"text_config of type {text.model_type!r} has no {name}; give the configuration of a causal language model "
            "(of a model of several parts, its text half).",
        )


def _check_grids(config: LareConfig) -> None:
    grid, lm_grid = config.grid, config.lm_grid
    for name in ("image_size", "grid", "lm_grid", "window"):
        value = getattr(config, name)
        require(isinstance(value, int) and value >= 1, f"{name} is {value}; give a whole number of at least 1.")
    require(
        config.refocus_source in ("lm", "fine"),
        f'refocus_source is {config.refocus_source!r}; give "lm" (the paper) or "fine".',
    )
    _check_closer(config)
    if config.refocus_source == "lm" or config.backbone_config is not None:
        require(
            lm_grid == grid,
            f'lm_grid {lm_grid} differs from grid {grid} while refocus_source is "lm"; '
            f'set lm_grid={grid} or refocus_source="fine".'
            if config.backbone_config is None
            else f"lm_grid is {lm_grid}; a {config.backbone} model has one grid, so leave it out.",
        )
    require(
        not config.shared_projector or (config.refocus_source == "fine" and config.backbone_config is None),
        'shared_projector is for refocus_source="fine" (with "lm" there is one projector anyway); leave it out.',
    )
    require(config.lm_token_scale > 0, f"lm_token_scale is {config.lm_token_scale}; give a number above 0.")
    require(
        lm_grid <= grid and grid % lm_grid == 0,
        f"lm_grid {lm_grid} does not divide grid {grid}; give a divisor of grid.",
    )
    require(config.window <= grid, f"window {config.window} is wider than the grid {grid}; give at most {grid}.")


def _check_closer(config: LareConfig) -> None:
    scale = config.fine_scale
    require(isinstance(scale, int) and scale >= 1, f"fine_scale is {scale}; give a whole number of at least 1.")
    if config.looks_closer:
        check_source(config, "fine")


def check_source(config: LareConfig, source: str | None) -> None:
    """Refuse another `refocus_source` than the configuration's; None is its own.

    Raises:
        LareError: If the model can't read it.
    """
    if source is None or (source == config.refocus_source and config.backbone_config is None):
        return
    require(
        config.backbone_config is not None,
        f"refocus_source is {source}; this model was made with {config.refocus_source}, so leave it out.",
    )
    require(
        source == "lm" or (config.use_extractor and config.use_window and config.latent_maker is None),
        f"refocus_source=fine on a {config.backbone} model encodes the window's crop for the Extractor; it needs "
        "use_extractor and use_window, and no latent_maker.",
    )


def _check_loop(config: LareConfig) -> None:
    layers = int(config.text_config.num_hidden_layers)
    require(config.iterations >= 0, f"iterations is {config.iterations}; give 0 or more.")
    require(config.max_iterations >= 1, f"max_iterations is {config.max_iterations}; give at least 1.")
    require(
        1 <= config.latents_per_iteration <= layers,
        f"latents_per_iteration is {config.latents_per_iteration}; give 1 to {layers}, the decoder's number of layers, "
        "over which the Extractor pools.",
    )
    require(
        config.projector_dim is None or config.projector_dim >= 1,
        f"projector_dim is {config.projector_dim}; give at least 1, or None for the decoder's width.",
    )
    require(config.text_prefix >= 1, f"text_prefix is {config.text_prefix}; give at least 1.")


def _check_extractor(config: LareConfig) -> None:
    heads, width = config.extractor_heads, config.extractor_dim
    require(config.extractor_layers >= 1, f"extractor_layers is {config.extractor_layers}; give at least 1.")
    require(heads >= 1, f"extractor_heads is {heads}; give at least 1.")
    require(
        width >= 1 and width % heads == 0,
        f"extractor_dim {width} is not divisible by extractor_heads {heads}; change one of them.",
    )
    require(
        config.extractor_output_init >= 0,
        f"extractor_output_init is {config.extractor_output_init}; give 0 (zero start) or a positive fraction.",
    )
    require(
        config.residual_feedback or not config.use_extractor or config.extractor_output_init > 0,
        "residual_feedback=False with extractor_output_init=0 makes every latent zero; "
        "set extractor_output_init above 0 or residual_feedback=True.",
    )


def _check_tokens(config: LareConfig) -> None:
    vocabulary = int(config.text_config.vocab_size)
    ids = {name: getattr(config, name) for name in ("image_token_id", "latent_start_id", "latent_end_id")}
    for name, value in ids.items():
        require(
            0 <= value < vocabulary,
            f"{name} {value} is outside the vocabulary of {vocabulary}; resize the token embeddings or change the id.",
        )
    require(
        len(set(ids.values())) == 3,
        f"image_token_id, latent_start_id and latent_end_id must differ, yet they are {sorted(ids.values())}.",
    )
