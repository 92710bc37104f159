"""LaRe: a frozen encoder, a projector, a causal decoder, and an Extractor that makes latent tokens between the two.

Reading order: `reasoner` (what the loop needs of a model), `loop` (prefill and cached extension), `thinking` (the
latent iterations), `refocusing` and `extractor` (one of them), `losses` (training), `generation` (answers). This file
wires them to transformers' conventions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig

from lare.errors import LareError
from lare.model.attention import attention_name, layer_output_hook
from lare.model.backbone import Backbone, backbone_of
from lare.model.checkpointing import checkpoint_layers, plain_layers
from lare.model.configuration_lare import LareConfig
from lare.model.extractor import Extractor, VisualMemory, build_extractor
from lare.model.families import attention_of, check_family, embedding_scale
from lare.model.forward_options import read_forward_options, think_in_training
from lare.model.generation import generate
from lare.model.generation_options import read_options
from lare.model.latent_maker import build_latent_maker
from lare.model.loading import StrictLoading
from lare.model.loop import prefill
from lare.model.lora import add_lora
from lare.model.losses import answer, prefix_reconstruction, text_loss
from lare.model.outputs import LareGeneration, LareOutput
from lare.model.pictures import PICTURES, Pictures
from lare.model.reading import Reading
from lare.model.vision import VisualTokens, pool_grid

__all__ = ["LareForConditionalGeneration"]

_NO_CHECKPOINTING = (
    "gradient_checkpointing of the decoder's own drops the key-value cache that LaRe trains through, and the loss would"
    " be wrong; turn it off there, and on by gradient_checkpointing_enable of the LaRe model."
)


class LareForConditionalGeneration(StrictLoading, GenerationMixin):
    """The LaRe model.

    Args:
        config: Its configuration.

    Raises:
        LareError: If the text configuration is no causal decoder that takes transformers' attention interface.
    """

    config_class = LareConfig
    config: LareConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules: list[str] = []
    language_model: Any
    vision_tower: Any
    projector: Any
    refocus_projector: Any

    def __init__(self, config: LareConfig) -> None:
        super().__init__(config)
        self.backbone: Backbone = backbone_of(config.backbone)
        if config.backbone_config is None:
            self._check_decoder(config.text_config)
        for name, part in self.backbone.parts(config).items():
            setattr(self, name, part)
        if config.lora is not None:
            add_lora(self.language_model, self.decoder, config.lora)
        own = config.latent_maker is not None
        self.extractor = build_extractor(config) if config.use_extractor and not own else None
        self.latent_maker = build_latent_maker(config)
        self.num_layers = int(config.text_config.num_hidden_layers)
        for layer in self._decoder_layers():
            layer.register_forward_hook(layer_output_hook, with_kwargs=True)
        self._decoder_path = next(n for n, m in self.language_model.named_modules() if m is self.decoder).split(".")
        self.post_init()  # type: ignore[no-untyped-call]

    def _check_decoder(self, text: PreTrainedConfig) -> None:
        check_family(text)

    def _decoder_layers(self) -> nn.ModuleList:
        layers = getattr(self.decoder, "layers", None)
        if not isinstance(layers, nn.ModuleList) or not getattr(
            self.language_model, "_supports_attention_backend", False
        ):
            raise LareError(
                "it is no decoder with a list of layers and transformers' attention interface; "
                "use a Llama-like one (llama, qwen2, ...)."
            )
        return layers

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, Extractor):
            module.init_output(self.config.initializer_range)

    # Parts -----------------------------------------------------------------------------------------------------

    @property
    def decoder(self) -> nn.Module:
        """The decoder without its LM head."""
        return self.backbone.decoder(self)

    def lm_head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of decoder outputs (..., d), by the language model's own head with all its factors."""
        return self.backbone.logits(self, hidden)

    def get_input_embeddings(self) -> nn.Module:
        """The token-embedding table."""
        return cast(nn.Module, self.language_model.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token-embedding table."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The LM head."""
        return cast(nn.Module, self.language_model.get_output_embeddings())

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the LM head."""
        self.language_model.set_output_embeddings(value)

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings (B, S, d) of ids (B, S)."""
        return cast(Tensor, self.get_input_embeddings()(ids))

    def embed_token(self, token: int, batch: int) -> Tensor:
        """One token's embedding for each row, (B, 1, d)."""
        return self.embed(torch.full((batch, 1), token, dtype=torch.long, device=self.device))

    def embedding_rms(self) -> Tensor:
        """Root mean square of what `embed` returns over the vocabulary, a scalar of at least float32, without gradient.

        Costs one read of the table, as an LM head does. It is not cached: a tensor's version counter misses fused
        optimisers and writes through `.data`, and a stale scale would be wrong without a sign.
        """
        table = self.get_input_embeddings()
        weight = cast(nn.Embedding, table).weight.detach()
        norm: Tensor = torch.linalg.vector_norm(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        rms: Tensor = norm / weight.numel() ** 0.5 * embedding_scale(table)
        return rms

    # Vision ----------------------------------------------------------------------------------------------------

    def encode_images(
        self, pixel_values: Tensor, lm_grid: int | None = None, image_inputs: Mapping[str, Tensor] | None = None
    ) -> VisualTokens:
        """Pixels (B, 3, H, W), or what else the backbone's processor makes of images -> visual tokens.

        Raises:
            LareError: If the backbone takes further inputs of an image (`image_inputs`), and they are missing.
        """
        if lm_grid is not None and self.config.backbone_config is not None:
            raise LareError(f"lm_grid is {lm_grid}; a {self.config.backbone} model has one grid, so leave it out.")
        given = dict(image_inputs or {})
        pictures = given.pop(PICTURES, None)
        missing = [name for name in self.backbone.image_inputs if given.get(name) is None]
        if missing:
            raise LareError(f"{missing[0]} is missing beside pixel_values; give all that LareProcessor makes.")
        visual = self.backbone.see(self, pixel_values, given, lm_grid)
        if self.config.looks_closer and pictures is not None:
            visual.pictures = cast(Pictures, pictures)
        return visual

    def encode_features(self, features: Tensor, lm_grid: int | None = None) -> VisualTokens:
        """Cached encoder features (B, N_f, d_vis) -> visual tokens.

        Args:
            features: On the fine grid.
            lm_grid: Side of the decoder's grid instead of the configured one (training on several resolutions).

        Raises:
            LareError: If the features are not on the configured grid.
        """
        config = self.config
        if config.backbone_config is not None:
            raise LareError(
                f"visual_features are for LaRe's own assembly; give a {config.backbone} model pixel_values."
            )
        if features.dim() != 3 or features.shape[1] != config.grid**2:
            raise LareError(
                f"visual_features has shape {tuple(features.shape)}; give (B, {config.grid**2}, d_vis), "
                f"the {config.grid} x {config.grid} grid of the encoder."
            )
        features = features.to(self.projector.linear_1.weight.dtype)
        side = config.lm_grid if lm_grid is None else lm_grid
        shapes = (side, side), (config.grid, config.grid)
        if config.shared_projector:
            refocus = self.projector(features)
            scale = config.lm_token_scale if side == config.lm_grid < config.grid else 1.0
            return VisualTokens(pool_grid(refocus, config.grid, side) * scale, refocus, *shapes)
        lm = self.projector(pool_grid(features, config.grid, side))
        refocus = lm if self.refocus_projector is None else self.refocus_projector(features)
        return VisualTokens(lm, refocus, *shapes)

    def _image_inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        """Take what belongs to images out of a call's options."""
        return {name: options.pop(name) for name in (*self.backbone.image_inputs, PICTURES) if name in options}

    def visual_tokens(
        self,
        pixel_values: Tensor | None,
        visual_features: Tensor | None,
        lm_grid: int | None = None,
        image_inputs: Mapping[str, Tensor] | None = None,
    ) -> VisualTokens:
        """Visual tokens from whichever of the two is given.

        Raises:
            LareError: If none or both are given.
        """
        if (pixel_values is None) == (visual_features is None):
            raise LareError("Give exactly one of pixel_values and visual_features.")
        if pixel_values is not None:
            return self.encode_images(pixel_values, lm_grid, image_inputs)
        return self.encode_features(cast(Tensor, visual_features), lm_grid)

    def read(self, input_ids: Tensor, mask: Tensor | None, visual: VisualTokens) -> Reading:
        """Prompts (B, S), with their mask (B, S) of booleans, as the decoder reads them."""
        return self.backbone.read(self, input_ids, mask, visual)

    def freeze_encoder(self) -> None:
        """Let the vision encoder take no gradient; what takes its features to the decoder stays as it is."""
        for name, parameter in self.named_parameters():
            if name.startswith(self.backbone.encoder) and not name.startswith(self.backbone.projector):
                parameter.requires_grad_(False)

    def remember(self, visual: VisualTokens) -> VisualMemory | Any:
        """What the Extractor (or a method's own module) computes of the images once, for all iterations."""
        if self.latent_maker is not None:
            return self.latent_maker.remember(visual)
        return None if self.extractor is None else self.extractor.remember(visual.refocus)

    # Training --------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        visual_features: Tensor | None = None,
        target_ids: Tensor | None = None,
        target_mask: Tensor | None = None,
        prefix_ids: Tensor | None = None,
        prefix_mask: Tensor | None = None,
        shared_ids: Tensor | None = None,
        questions_per_image: int = 1,
        **options: Any,
    ) -> LareOutput:
        """One training step's losses.

        Args:
            input_ids: (B, S) left-padded prompt (or what follows `shared_ids`); with delimiters up to <|latent_start|>.
            attention_mask: (B, S), 0 at padding.
            pixel_values: (I, 3, H, W) images; or
            visual_features: (I, N_f, d_vis) cached features of the frozen encoder. Neither, without delimiters: text.
            target_ids: (B, T) right-padded text after <|latent_end|>.
            target_mask: (B, T), 0 at padding; None means none.
            prefix_ids: (B, P) right-padded start of the rationale for eq. 8; or (B, K, P), a step for each iteration.
            prefix_mask: As `prefix_ids`, 0 at padding.
            shared_ids: (I, S0) prompt part up to and including the image tokens, run once per image.
            questions_per_image: Q with B = I * Q; rows of an image are neighbours.
            **options: Fields of `lare.model.forward_options.ForwardOptions`, which explains them, and the backbone's
                further inputs of images (`lare.model.backbone.Backbone.image_inputs`).

        Returns:
            The losses as (sum, count), the thoughts, and what further losses need.

        Raises:
            LareError: If the arguments do not fit together.
        """
        pictured = self._image_inputs(options)
        how = read_forward_options(options, self.config.iterations, prefix_ids is not None)
        self._refuse_checkpointing()
        if pixel_values is None and visual_features is None and not how.delimiters and target_ids is not None:
            return text_loss(self, input_ids, attention_mask, target_ids, target_mask, how.label_mask)
        visual = self.visual_tokens(pixel_values, visual_features, how.lm_grid, pictured)
        prompt = (input_ids, attention_mask, visual, shared_ids, questions_per_image)
        state = prefill(self, *prompt, saliency_gradient=how.keeps_saliency)
        output = LareOutput(visual=visual)
        if how.delimiters:
            output.thoughts = think_in_training(self, state, how)
            state = output.thoughts.state
        if target_ids is not None:
            crops = None if how.crop_values is None else self.encode_images(how.crop_values, how.lm_grid).lm
            target = (target_ids, target_mask, how.label_mask)
            answer(self, output, state, target, (how.target_visual, crops), how.delimiters)
        if prefix_ids is not None and output.thoughts is not None:
            made = prefix_reconstruction(self, output.thoughts, prefix_ids, prefix_mask)
            output.prefix_loss, output.prefix_hidden = made
        return output

    # Answers ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        visual_features: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        shared_ids: Tensor | None = None,
        questions_per_image: int = 1,
        **options: Any,
    ) -> LareGeneration:
        """Think, then answer.

        Args:
            input_ids: (B, S) left-padded prompts; <|latent_start|> follows with delimiters, if none ends in it.
            attention_mask: (B, S), 0 at padding.
            pixel_values: (I, 3, H, W) images; or
            visual_features: (I, N_f, d_vis) cached encoder features.
            generation_config: Values for what the call does not name.
            shared_ids: (I, S0) common prompt part, as in `forward`.
            questions_per_image: Q, as in `forward`.
            **options: The backbone's further inputs of images; fields of
                `lare.model.generation_options.GenerationOptions`, which explains them; and those of transformers'
                `GenerationConfig` (repetition_penalty, no_repeat_ngram_size, stop_strings, ...).

        Returns:
            The answers; with return_dict_in_generate=False their ids alone, (B, T). A row's answer does not depend on
            the other rows (greedy decoding).

        Raises:
            LareError: If an option is impossible, can't be supported (beams, ...), or the inputs do not fit together.
        """
        pictured = self._image_inputs(options)
        chosen = read_options(self.generation_config, generation_config, options, self.config.text_config)
        made = generate(
            self,
            input_ids,
            attention_mask,
            (pixel_values, visual_features, pictured),
            chosen,
            shared_ids,
            questions_per_image,
        )
        return made if chosen.return_dict_in_generate else cast(LareGeneration, made.sequences)

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> None:
        """Choose how the decoder attends: "sdpa" or "eager"; the last row is captured all the same.

        Raises:
            LareError: If another implementation is asked for.
        """
        own = cast(PreTrainedConfig, self.decoder.config)
        own._attn_implementation = attention_of(self.config.text_config, attn_implementation)

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        # Refused here, before transformers looks for the package of an attention that LaRe can't capture.
        return attention_name(attn_implementation).removeprefix("lare_")

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Make the decoder's inner activations again in the backward pass, cache and all; no option is read."""
        checkpoint_layers(self._decoder_layers())

    def gradient_checkpointing_disable(self) -> None:
        """Undo `gradient_checkpointing_enable`."""
        plain_layers(self._decoder_layers())

    def _refuse_checkpointing(self) -> None:
        """Raise if checkpointing was switched on below this class, on the decoder itself."""
        modules = (self.decoder, *self._decoder_layers())
        if self.decoder.training and any(getattr(module, "gradient_checkpointing", False) for module in modules):
            raise LareError(_NO_CHECKPOINTING)
