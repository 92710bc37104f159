"""The LaRe model; importing this package registers it with transformers' Auto classes.

A map: `configuration_lare` (every knob), `processing_lare` (inputs), `vision` (visual tokens), `loop` (prefill and
cached extension), `thinking` (latent iterations) with `window`, `extractor`, `halting` and `attention`, `losses`
(training), `generation` (answers) with `cache`, `families` (what decoders do differently, checked by `family_check`),
and `modeling_lare`, which ties them together.
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
