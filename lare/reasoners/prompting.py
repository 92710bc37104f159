"""Questions as a project's model reads them: left-padded ids, pictures, and where the visual tokens stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from lare.errors import LareError
from lare.model.user_text import user_text
from lare.reasoners.loading import TextProcessor
from lare.reasoners.preset import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["build_inputs", "prompt_texts"]


def prompt_texts(
    processor: Any, prompt: Prompt, questions: Sequence[str], marks: Sequence[str], system: str = "", opening: str = ""
) -> list[str]:
    """Rendered prompts.

    Args:
        processor: The checkpoint's.
        prompt: The preset's.
        questions: User text; special tokens in it are broken up, so that none acts.
        marks: Tokens of the preset, which are special whatever the tokenizer says.
        system: A system turn in place of the preset's.
        opening: How the reply begins.

    Raises:
        LareError: If a chat template is needed and there is none, or it fails.
    """
    sees = not isinstance(processor, TextProcessor)
    template = processor.chat_template or processor.tokenizer.chat_template or ""
    guard = user_text(processor.tokenizer, template, (*marks, "<image>"))
    asked = [prompt.question.replace("{question}", guard.escape(question)) for question in questions]
    if prompt.template is not None:
        return [prompt.template.replace("{question}", one) + opening for one in asked]
    if not template:
        raise LareError("this checkpoint has no chat template; give one, or a preset whose prompt has a template")
    said = system or prompt.system
    before = [{"role": "system", "content": [{"type": "text", "text": said}] if sees else said}] if said else []
    shown: list[dict[str, str]] = [{"type": "image"}] if sees else []
    ended = prompt.assistant is None
    texts = []
    for one in asked:
        turn = {"role": "user", "content": [*shown, {"type": "text", "text": one}] if sees else one}
        speaker = processor if sees else processor.tokenizer
        try:
            text = speaker.apply_chat_template(
                [*before, turn], tokenize=False, add_generation_prompt=ended, chat_template=template
            )
        except Exception as error:  # a template is a program, and may fail in any way
            raise LareError(f"the chat template fails ({error}); mend the checkpoint's chat_template.jinja") from error
        texts.append(f"{text}{prompt.assistant or ''}{opening}")
    return texts


def build_inputs(
    processor: Any, prompt: Prompt, texts: Sequence[str], images: Sequence[Image], device: torch.device
) -> dict[str, torch.Tensor]:
    """What the model reads, on its device.

    Args:
        processor: The checkpoint's.
        prompt: The preset's, which says how pictures are resized.
        texts: B rendered prompts.
        images: B pictures; a model that sees no image does not get them.
        device: The model's.

    Returns:
        input_ids and attention_mask (B, S), padded on the left, and the processor's tensors of the pictures.

    Raises:
        LareError: If the processor refuses a prompt or a picture.
    """
    tokenizer = processor.tokenizer
    padded: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
    before = (tokenizer.padding_side, tokenizer.pad_token)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    try:
        if isinstance(processor, TextProcessor):
            begun = tokenizer.bos_token is not None and texts[0].startswith(tokenizer.bos_token)
            made = tokenizer(list(texts), add_special_tokens=not begun, **padded)
        else:
            shown = [_resized(image, prompt.image_side) for image in images]
            made = processor(images=[[one] for one in shown], text=list(texts), **padded)
    except ValueError as error:
        raise LareError(f"the question can't be put ({' '.join(str(error).split())[:200]})") from None
    finally:
        tokenizer.padding_side = before[0]
        if before[1] is None:
            tokenizer.pad_token = None
    kept = {name: value.to(device) for name, value in dict(made).items() if isinstance(value, torch.Tensor)}
    kept.pop("token_type_ids", None)
    return kept


def _resized(image: Image, side: int | None) -> Image:
    picture = image.convert("RGB")
    return picture if side is None else picture.resize((side, side))
