"""Other projects' latent reasoners: presets, marks, a cached reader of their decoder, and the loop that answers.

A preset (``lare/configs/reasoners/NAME.yaml``) says how a project's model thinks: its marks, how many latents, what is
fed back, who opens and closes the block. Nothing of transformers is patched and no code of a checkpoint runs: the
decoder is called with embeddings, and the loop lies outside it. `lare.methods.feedback` and `lare.methods.slots` make
methods of it.
"""

from lare.reasoners.preset import Block, Marks, Preset, Prompt, Slots, Source
from lare.reasoners.reading import load_preset, preset_names, read_preset

__all__ = [
    "Block",
    "Marks",
    "Preset",
    "Prompt",
    "Slots",
    "Source",
    "load_preset",
    "preset_names",
    "read_preset",
]
