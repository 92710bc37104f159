"""The slow reference: one question, the whole sequence read anew for every position, no cache, no padding, no mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lare.reasoners.prompting import build_inputs, prompt_texts


def opening_of(method: Any) -> str:
    """How a reply begins, as far as it is forced."""
    preset = method.preset
    if preset.block is not None:
        return (preset.marks.start or "") if preset.block.opened_by == "prompt" else ""
    slots = preset.slots
    return slots.before + "".join(method.row) + slots.after if slots.opened_by == "prompt" else ""


class Plain:
    """What one row has read, as embeddings and positions."""

    def __init__(self, method: Any, image: Any, question: str) -> None:
        self.method, self.model = method, method.model
        prompt, marks = method.preset.prompt, method.preset.tokens()
        text = prompt_texts(method.processor, prompt, [question], marks, opening=opening_of(method))
        inputs = build_inputs(method.processor, prompt, text, [image], method.model.device)
        self.ids = inputs["input_ids"]
        self.embeds = self.embed(self.ids)
        self.kinds: list[str] = []  # of what was appended
        base = self.model.base_model
        self.seen = {}
        self.positions = torch.arange(self.ids.shape[1])[None]
        if "pixel_values" in inputs:
            grid = {name: inputs[name] for name in ("image_grid_thw",) if name in inputs}
            pixels = inputs["pixel_values"].to(self.model.dtype)
            self.seen = {"image": base.get_image_features(pixel_values=pixels, return_dict=True, **grid)}
            if grid and prompt.positions == "model":
                self.positions = base.get_rope_index(self.ids, inputs["mm_token_type_ids"], **grid)[0]
            elif grid:
                self.positions = self.positions[None].expand(3, -1, -1)

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def append(self, embeds: Tensor, kind: str = "mark") -> None:
        """(1, n, d) at the next positions."""
        number = embeds.shape[1]
        self.kinds += [kind] * number
        self.embeds = torch.cat((self.embeds, embeds), 1)
        after = self.positions.amax() + 1 + torch.arange(number)
        self.positions = torch.cat((self.positions, after.expand(*self.positions.shape[:-1], number)), -1)

    def read(self, **more: Any) -> Any:
        """The whole sequence, once more."""
        given = {"mm_encoder_outputs": dict(self.seen)} if self.seen else {}
        return self.model.base_model(
            inputs_embeds=self.embeds, position_ids=self.positions, use_cache=False, **given, **more
        )


def answer(
    method: Any, image: Any, question: str, limit: int, kept: list[Plain] | None = None
) -> tuple[list[int], list[Tensor], int]:
    """Tokens, latents and positions read after the prompt, by a feedback preset without picked patches.

    The row that was read is put into `kept`.
    """
    row, block, ids = Plain(method, image, question), method.block, method.tokens
    if kept is not None:
        kept.append(row)
    written: list[int] = []
    latents: list[Tensor] = []
    thinking, count, waiting, reads = block.opened_by == "prompt", 0, [], 0

    def think(hidden: Tensor) -> None:
        latents.append(method.feeding.latent(hidden)[0])
        row.append(latents[-1][None, None], "latent")

    while True:
        hidden = row.read().last_hidden_state[:, -1]
        token = int(method.model.get_output_embeddings()(hidden).argmax())
        if thinking:
            near = block.stop == "distance" and count and bool(method.feeding.near_end(latents[-1][None]))
            if count == block.count or (block.stop == "end_mark" and token == ids.end) or near:
                thinking = False
                waiting = [ids.end] if block.closed_by == "prompt" and ids.end is not None else []
        if thinking:
            think(hidden)
            count += 1
        elif waiting:
            row.append(row.embed(torch.tensor([[waiting.pop()]])))
        else:
            if token in ids.ends:
                break
            written.append(token)
            if len(written) == limit:
                break
            if token == ids.start and block.opened_by == "model":
                thinking, count = True, 0
            if thinking and not block.start_read:
                think(hidden)
                count = 1
            else:
                row.append(row.embed(torch.tensor([[token]])), "mark" if token in ids.special() else "word")
        reads += 1
    return written, latents, reads
