"""What it costs to keep the last position's attention row of every layer during the prefill.

Peer: transformers' own "sdpa" on the same decoder weights and the same 256 + 64 embeddings. Target: at most 1.05.
"""

from __future__ import annotations

import copy
import sys

import torch
from torch import Tensor
from transformers import LlamaModel

from benchmarks.common import Options, Result, Side, compare, main
from benchmarks.models import BASE, SMALL, Size, lare_model, make_batch
from lare.model.attention import LastQueryCapture
from lare.model.loop import embed_prompt


def _case(name: str, size: Size, batch: int, options: Options) -> Result:
    model = lare_model(size)
    decoder = model.decoder
    peer = LlamaModel._from_config(copy.deepcopy(model.config.text_config), attn_implementation="sdpa").eval()
    peer.load_state_dict(decoder.state_dict())
    prompts = make_batch(model.config, batch)
    with torch.no_grad():
        embeds, _ = embed_prompt(model, prompts.input_ids, model.encode_images(prompts.pixel_values))

    def captured() -> Tensor:
        with torch.inference_mode():
            capture = LastQueryCapture()
            output = decoder(inputs_embeds=embeds, use_cache=True, **capture.keywords())
            return capture.mean_row() + 0 * output.last_hidden_state[:, -1, :1]

    def plain() -> Tensor:
        with torch.inference_mode():
            return peer(inputs_embeds=embeds, use_cache=True).last_hidden_state[:, -1]

    return compare(
        name,
        Side("LaRe capture", captured),
        Side("sdpa", plain),
        options,
        at_most=1.05,
        details={"batch": batch, "positions": embeds.shape[1], "hidden": size.hidden, "layers": size.layers},
    )


def measure(options: Options) -> list[Result]:
    """Time the prefill with and without capture."""
    return [
        _case("attention_capture 7M b1", SMALL, 1, options),
        _case("attention_capture 36M b1", BASE, 1, options),
        _case("attention_capture 36M b8", BASE, 8, options),
    ]


if __name__ == "__main__":
    sys.exit(main("attention_capture", __doc__ or "", measure))
