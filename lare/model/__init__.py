"""The LaRe model; importing this package registers it with transformers' Auto classes.

A map, in reading order:

- `configuration_lare`: every setting; `processing_lare`: images and questions to inputs.
- `vision`: images to visual tokens; `backbone`: what differs between vision-language models.
- `loop`: prefill and cached extension; `thinking`: the latent loop; `refocusing`: one step of it, with `window`,
  `extractor` and `attention`; `halting`, `stop_head`, `compaction`: when it ends.
- `forward_options`, `losses`: a training step; `generation_options`, `generation`, `cache`: answers.
- `families`: what decoders do differently, checked by `family_check`.
- `modeling_lare` ties them together.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from lare.model.configuration_lare import LareConfig
from lare.model.extractor import Extractor
from lare.model.loop import LoopState, extend, prefill
from lare.model.model_types import register_model_types
from lare.model.modeling_lare import LareForConditionalGeneration
from lare.model.outputs import LareGeneration, LareOutput
from lare.model.processing_lare import LareProcessor
from lare.model.thinking import Thoughts, think
from lare.model.vision import VisualTokens

__all__ = [
    "Extractor",
    "LareConfig",
    "LareForConditionalGeneration",
    "LareGeneration",
    "LareOutput",
    "LareProcessor",
    "LoopState",
    "Thoughts",
    "VisualTokens",
    "extend",
    "prefill",
    "think",
]

AutoConfig.register("lare", LareConfig, exist_ok=True)
AutoModelForImageTextToText.register(LareConfig, LareForConditionalGeneration, exist_ok=True)
AutoProcessor.register(LareConfig, LareProcessor, exist_ok=True)
register_model_types()
