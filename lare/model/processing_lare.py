"""From images and questions to model inputs: chat template, image placeholders, special tokens, left padding.

A prompt names its image once, as `<image>`; the processor writes as many `<|image|>` tokens there as the decoder has
visual tokens (on a vision-language model, what that model's own processor writes for a picture of this size). Exactly
one image per prompt: LaRe's loop looks back at one grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image
from tokenizers import AddedToken
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_transforms import to_pil_image

from lare.errors import LareError
from lare.model.backbone import Backbone, backbone_of
from lare.model.base_processor import with_base_tokenizer
from lare.model.messages import IMAGE_PLACEHOLDER, flatten, parts_of, text_part
from lare.model.pictures import FINER, PICTURES, Eyes, Pictures
from lare.model.user_text import UserText, user_text

__all__ = [
    "DEFAULT_CHAT_TEMPLATE",
    "IMAGE_PLACEHOLDER",
    "IMAGE_TOKEN",
    "LATENT_END",
    "LATENT_START",
    "LareProcessor",
    "add_special_tokens",
]

IMAGE_TOKEN = "<|image|>"
LATENT_START = "<|latent_start|>"
LATENT_END = "<|latent_end|>"
SPECIAL_TOKENS = (IMAGE_TOKEN, LATENT_START, LATENT_END)

DEFAULT_CHAT_TEMPLATE = (
    "{{ bos_token if bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'].upper() }}: {{ message['content'] }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def add_special_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str] = SPECIAL_TOKENS) -> int:
    """Make sure that the tokenizer has LaRe's special tokens.

    Returns:
        How many were new; if any, resize the model's token embeddings to `len(tokenizer)`.
    """
    known = tokenizer.get_vocab()
    missing = [AddedToken(token, special=True, normalized=False) for token in tokens if token not in known]
    return int(tokenizer.add_tokens(missing, special_tokens=True)) if missing else 0


class LareProcessor(ProcessorMixin):
    """Turns images and prompts into `input_ids`, `attention_mask` and `pixel_values`.

    Args:
        image_processor: Any image processor of transformers.
        tokenizer: Any tokenizer; LaRe's special tokens are added where they lack.
        chat_template: Jinja template; None takes the tokenizer's, or a plain "USER: ... ASSISTANT:" one.
        lm_grid: Side of the grid of visual tokens that the decoder reads; an image takes lm_grid * lm_grid tokens.
        backbone: Name of the configuration's backbone; None is LaRe's own assembly. On another one an image takes as
            many tokens as its own size gives it, and `lm_grid` is not read.
        backbone_settings: Facts about its model that the backbone needs to write prompts.

    Raises:
        LareError: If `lm_grid` is below 1, or the tokenizer is not the backbone's.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        lm_grid: int = 16,
        backbone: str | None = None,
        backbone_settings: dict[str, Any] | None = None,
    ) -> None:
        if lm_grid < 1:
            raise LareError(f"lm_grid is {lm_grid}; give the configuration's, at least 1.")
        self.lm_grid, self.backbone, self.backbone_settings = lm_grid, backbone, dict(backbone_settings or {})
        self.new_tokens = add_special_tokens(tokenizer, SPECIAL_TOKENS[1:] if backbone else SPECIAL_TOKENS)
        tokenizer.padding_side = "left"
        template = chat_template or getattr(tokenizer, "chat_template", None) or DEFAULT_CHAT_TEMPLATE
        super().__init__(image_processor, tokenizer, chat_template=template)  # type: ignore[no-untyped-call]
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token if tokenizer.eos_token is not None else LATENT_END
        if backbone:
            self.family.around(self)  # a tokenizer of another family is named here

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> Any:
        """As transformers'; where a checkpoint leaves its tokenizer to its base, that one, checked by its hash.

        Raises:
            LareError: If the base is missing or has another tokenizer.
        """
        made = with_base_tokenizer(cls, pretrained_model_name_or_path)
        return made if made is not None else super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @property
    def family(self) -> Backbone:
        """The backbone's object."""
        found: Backbone = backbone_of(self.backbone)
        return found

    @property
    def stretches(self) -> bool:
        """Whether each picture reaches the encoder whole, stretched to its square, so that shares of it stay shares."""
        cut = any(getattr(self.image_processor, name, None) for name in ("do_center_crop", "do_pad"))
        return not self.backbone and {"height", "width"} <= dict(self.image_processor.size).keys() and not cut

    @property
    def image_token(self) -> str:
        """The token that stands for one visual token."""
        return self.family.image_token(self)

    @property
    def packed_image(self) -> int:
        """Image tokens of a prompt that is kept in a file: all, or one that `on_picture` replaces."""
        return 1 if self.backbone else self.lm_grid**2

    # Ids -------------------------------------------------------------------------------------------------------

    @property
    def image_token_id(self) -> int:
        """Id of `image_token`."""
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    @property
    def latent_start_id(self) -> int:
        """Id of `<|latent_start|>`."""
        return int(self.tokenizer.convert_tokens_to_ids(LATENT_START))

    @property
    def latent_end_id(self) -> int:
        """Id of `<|latent_end|>`."""
        return int(self.tokenizer.convert_tokens_to_ids(LATENT_END))

    # Prompts ---------------------------------------------------------------------------------------------------

    def build_prompts(self, questions: Sequence[str], latent: bool = True, system: str = "") -> list[str]:
        """Prompts of one image and one question each.

        Questions are plain text: a special token inside one is kept, and encoded as the characters that it consists of.
        In such a prompt an invisible character stands inside it until then.

        Args:
            questions: The questions; an `<image>` inside one is dropped, since the image always comes first.
            latent: End in <|latent_start|>, so that thinking follows; else in the generation prompt.
            system: Text of a system turn before each question, if any.

        Raises:
            LareError: If a question is empty, names two images, or can't be kept as plain text.
        """
        before = [{"role": "system", "content": text_part(system)}] if system.strip() else []
        prompts = []
        for index, question in enumerate(questions):
            asked = _checked_question(question, index)
            turns = [*before, {"role": "user", "content": [{"type": "image"}, *text_part(asked)]}]
            try:
                prompt = str(self.apply_chat_template(turns, add_generation_prompt=True))
            except LareError as error:
                raise LareError(f"Question {index}: {error}.") from None
            prompts.append(prompt + LATENT_START if latent else prompt)
        return prompts

    @property
    def user_text(self) -> UserText:
        """Keeps the tokenizer's control tokens out of what users and data files write."""
        names: tuple[str, ...] = (*SPECIAL_TOKENS, IMAGE_PLACEHOLDER)
        if self.backbone:
            names = tuple(dict.fromkeys((*names, self.image_token, self.family.around(self)[0])))
        return user_text(self.tokenizer, str(self.chat_template), names)

    def answer_end(self) -> str:
        """The control token that the chat template writes after an answer; the tokenizer's end if it writes none."""
        said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "\ufdd4"}]
        _, found, after = self.render(said).rpartition("\ufdd4")
        return (found and self.user_text.ending(after).strip()) or str(self.tokenizer.eos_token or "")

    def encode_text(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """Ids of rendered prompts or of texts that went through ``user_text.escape``.

        Args:
            texts: The texts.
            special: Whether the tokenizer adds its own tokens around each.

        Raises:
            LareError: If the tokenizer makes a special token of plain text.
        """
        return self.user_text.encode(self.tokenizer, texts, special)

    def render(self, messages: list[dict[str, Any]], **options: Any) -> str:
        """Messages, whose contents went through ``user_text.escape``, as the chat template writes them."""
        return self._render(messages, **options)

    def _render(self, messages: list[dict[str, Any]], **options: Any) -> str:
        from jinja2.exceptions import TemplateError

        template = options.pop("chat_template", None) or self.chat_template
        if self.backbone:
            messages = [{**message, "content": parts_of(message.get("content"))} for message in messages]
        try:
            text = str(self.tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options))
            if not self.backbone:
                return text
            written, before, after = self.family.around(self)
            return text.replace(written, f"{before}{IMAGE_PLACEHOLDER}{after}")
        except TemplateError as error:
            if all(message.get("role") != "system" for message in messages):
                raise  # a broken template, which loading names
            raise LareError(
                f"the chat template takes no system turn ({error}); leave system_prompt out, or give another "
                "chat_template"
            ) from error

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: list[Any],
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = True,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> Any:
        """Render one conversation or a list of them; message contents are text or lists of image and text parts.

        Contents are plain text, as in `build_prompts`, but for an `<image>` in a content that is no list.

        Args:
            conversation: Messages {"role", "content"}; an image part holds "image", "url" or "path".
            chat_template: Another template than the processor's.
            add_generation_prompt: End in the assistant's opening.
            tokenize: Return model inputs instead of text.
            return_dict: With `tokenize`, all inputs instead of the ids alone.
            return_tensors: With `tokenize`, the kind of tensors.
            **kwargs: Variables of the template.

        Raises:
            LareError: If a text can't be kept as plain text; with `tokenize`, as `__call__`.
        """
        batched = bool(conversation) and isinstance(conversation[0], (list, tuple))
        options = {**kwargs, "chat_template": chat_template, "add_generation_prompt": add_generation_prompt}
        images: list[Any] = []
        prompts = []
        for messages in conversation if batched else [conversation]:
            escape = self.user_text.escape
            flat = [{**message, "content": flatten(message.get("content"), images, escape)} for message in messages]
            prompts.append(self._render(flat, **options))
        if not tokenize:
            return prompts if batched else prompts[0]
        inputs = self(images=images, text=prompts, return_tensors=return_tensors)
        return inputs if return_dict else inputs["input_ids"]

    # Inputs ----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare a batch.

        Args:
            images: One image per prompt: PIL images or arrays (or one of them, for one prompt).
            text: Prompts (or one), each with one `<image>`; a text without it is a bare question, from which
                `build_prompts` makes one.
            return_tensors: "pt" or "np".
            **kwargs: Options of the image processor; `padding` is always on.

        Returns:
            `input_ids` (B, S) and `attention_mask` (B, S), padded on the left, and `pixel_values` (B, 3, H, W).

        Raises:
            LareError: If a prompt has several images, is rendered without one, is too long, or counts differ.
        """
        prompts = [text] if isinstance(text, str) else list(text or [])
        pictures = _flat_images(images)
        if not prompts:
            raise LareError("No prompt was given; pass text with one <image> per prompt (see build_prompts).")
        if len(pictures) != len(prompts):
            raise LareError(f"{len(pictures)} images for {len(prompts)} prompts; give exactly one image per prompt.")
        prompts = [self._with_image(prompt) for prompt in prompts]
        for index, prompt in enumerate(prompts):
            _check_prompt(prompt, index, self.image_token)
        kwargs.pop("padding", None)
        seen, grids = self.pictures(pictures, return_tensors=return_tensors, **kwargs)
        texts = [self.family.image_text(self, grid) for grid in grids]
        ids = self.encode_text(
            [prompt.replace(IMAGE_PLACEHOLDER, text) for prompt, text in zip(prompts, texts, strict=True)],
            special=not self.opens_with_bos(prompts[0]),
        )
        self._check_lengths(ids)
        padded = self.tokenizer.pad({"input_ids": ids}, return_attention_mask=True, return_tensors=return_tensors)
        return BatchFeature({**padded, **seen})

    def pictures(self, images: Sequence[Any], **options: Any) -> tuple[dict[str, Any], list[Any]]:
        """What a model reads of pictures, and of each what `Backbone.image_text` is told.

        Where windows are encoded anew (`lare.model.closer`), the pictures themselves are among it.
        """
        seen, grids = self.family.pictures(self, images, **options)
        if not self.backbone_settings.get(FINER):
            return seen, grids
        own = [image if isinstance(image, Image) else to_pil_image(image) for image in images]
        eyes = Eyes(self.image_processor, dict(self.backbone_settings))
        return {**seen, PICTURES: Pictures([one.convert("RGB") for one in own], eyes)}, grids

    def on_picture(self, ids: Sequence[int], grid: Any) -> list[int]:
        """Ids of a prompt, kept with `packed_image` image tokens, for the picture that `grid` tells of.

        Args:
            ids: Token ids; the image's tokens are next to one another.
            grid: The picture's entry in the list that the backbone's `pictures` returns.
        """
        image = self.image_token_id
        at = list(ids).index(image)
        rest = [token for token in ids if token != image]
        return [*rest[:at], *self.encode_text([self.family.image_text(self, grid)])[0], *rest[at:]]

    def _with_image(self, prompt: Any) -> Any:
        """A bare question as a prompt; a rendered prompt that lacks its image stays, to be refused."""
        bare = isinstance(prompt, str) and prompt.strip() and IMAGE_PLACEHOLDER not in prompt
        if not bare or self.user_text.holds_control(prompt):
            return prompt
        opening = self.build_prompts(["?"], latent=False)[0].rpartition("?")[2].strip()
        rendered = bool(opening) and prompt.rstrip().endswith(opening)
        return prompt if rendered else self.build_prompts([prompt], latent=False)[0]

    def batch_decode(self, sequences: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Texts of ids (B, T), or of what `generate` returns; see the tokenizer's `batch_decode`."""
        rows = sequences if isinstance(sequences, Tensor) else list(sequences)
        return list(self.tokenizer.batch_decode(rows, *args, **kwargs))

    def opens_with_bos(self, prompt: str) -> bool:
        """Whether the chat template has written the tokenizer's first token."""
        bos = self.tokenizer.bos_token
        return bool(bos) and prompt.startswith(bos)

    def _check_lengths(self, rows: Sequence[Sequence[int]]) -> None:
        limit = self.tokenizer.model_max_length
        for index, row in enumerate(rows):
            if len(row) > limit:
                raise LareError(
                    f"Prompt {index} has {len(row)} tokens with its image, the model takes {limit}; "
                    "shorten the question."
                )

    @property
    def model_input_names(self) -> list[str]:
        """Names of the inputs that `__call__` makes."""
        return ["input_ids", "attention_mask", "pixel_values", *self.family.image_inputs]


def _checked_question(question: str, index: int) -> str:
    if not isinstance(question, str) or not question.strip():
        raise LareError(f"Question {index} is empty; give some text to answer.")
    if question.count(IMAGE_PLACEHOLDER) > 1:
        raise LareError(f"Question {index} names several images; LaRe takes exactly one image per question.")
    return question.replace(IMAGE_PLACEHOLDER, "").strip()


def _check_prompt(prompt: Any, index: int, image_token: str) -> None:
    if not isinstance(prompt, str):
        raise LareError(f"Prompt {index} is a {type(prompt).__name__}; give text.")
    count = prompt.count(IMAGE_PLACEHOLDER)
    expanded = image_token != IMAGE_PLACEHOLDER and image_token in prompt
    if count != 1 or expanded:
        found = "an expanded image" if expanded else f"{count} times {IMAGE_PLACEHOLDER}"
        raise LareError(f"Prompt {index} holds {found}; write {IMAGE_PLACEHOLDER} exactly once (see build_prompts).")
    if not prompt.replace(IMAGE_PLACEHOLDER, "").replace(LATENT_START, "").strip():
        raise LareError(f"Prompt {index} holds an image and no question; add some text to answer.")


def _flat_images(images: Any) -> list[Any]:
    """One image per prompt: unpack a single image and lists of one; PIL images become RGB."""
    if images is None:
        return []
    given = list(images) if isinstance(images, (list, tuple)) else [images]
    flat = []
    for index, entry in enumerate(given):
        if isinstance(entry, (list, tuple)):
            if len(entry) != 1:
                raise LareError(f"Prompt {index} has {len(entry)} images; give exactly one image per prompt.")
            entry = entry[0]
        flat.append(entry.convert("RGB") if isinstance(entry, Image) else entry)
    return flat
