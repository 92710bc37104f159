"""LaRe's own interventions, by the tests that the field uses.

The Token Replacement Test (arXiv 2605.21642) has zeros, noise, distribution, first, fewer, more and oracle; causal
mediation (2602.22766) has other, image, question, image_kept and image_latents; boundary marks (2606.01287) have marks,
format, none and dummy; 2609.06746 has hidden. Names of the constants are those of the entries, in capitals.
"""

from __future__ import annotations

from lare.interventions import content
from lare.interventions.base import Intervention

__all__: list[str] = []

_COUNT = "prompt, image, marks, number of latents, decoding"
_SIZED = f"{_COUNT}, each latent's norm"
_AROUND = "prompt, image, decoding"
_LATENTS = "question, marks, number of latents, decoding"


OWN = Intervention("own", "Latents as they are", "nothing", "everything", "own")

# What they hold -------------------------------------------------------------------------------------------------
ZEROS = Intervention("zeros", "Zeros", "latents to zeros", _COUNT, "content", content.zeros)
NOISE = Intervention("noise", "Noise of the same norm", "latents to Gaussian noise", _SIZED, "content", content.noise)
DISTRIBUTION = Intervention(
    "distribution",
    "Noise of the same distribution",
    "latents to Gaussian noise",
    f"{_COUNT}, mean and spread of each dimension at each step",
    "content",
    content.distribution,
    needs=frozenset({"bank"}),
)
OTHER = Intervention(
    "other",
    "Another question's latents",
    "latents to those of a question of the task about another picture",
    f"{_COUNT}, the latents' distribution",
    "content",
    content.given,
    needs=frozenset({"bank"}),
)
MEAN = Intervention(
    "mean",
    "The mean latent, step by step",
    "latents to their mean over questions",
    _COUNT,
    "content",
    content.mean,
    needs=frozenset({"bank"}),
)
MEAN_NORM = Intervention(
    "mean_norm",
    "The mean latent at the latents' norm",
    "latents to their mean over questions, stretched",
    _SIZED,
    "content",
    content.mean_norm,
    needs=frozenset({"bank"}),
)
DUMMY = Intervention(
    "dummy",
    "A dummy token",
    "latents to the embedding of the padding token",
    _COUNT,
    "content",
    content.dummy,
    needs=frozenset({"dummy"}),
)

# How it is laid out ---------------------------------------------------------------------------------------------
FIRST = Intervention(
    "first", "The first latent repeated", "later latents to the first", _COUNT, "structure", content.first
)
PERMUTED = Intervention(
    "permuted",
    "Steps in another order",
    "the order of the latents",
    f"{_COUNT}, the question's own latents",
    "structure",
    content.given,
    needs=frozenset({"own"}),
)

# Slots and marks ------------------------------------------------------------------------------------------------
MARKS = Intervention(
    "marks", "Marks only", "the number of latents to none", f"{_AROUND}, marks", "slots", steps=lambda count: 0
)
FEWER = Intervention(
    "fewer",
    "Half as many latents",
    "the number of latents to half",
    f"{_AROUND}, marks",
    "slots",
    steps=lambda count: max(1, count // 2),
)
MORE = Intervention(
    "more",
    "Twice as many latents",
    "the number of latents to twice",
    f"{_AROUND}, marks",
    "slots",
    steps=lambda count: 2 * count,
)
NONE = Intervention(
    "none", "No latents, no marks", "marks and latents to nothing", _AROUND, "slots", steps=lambda count: 0, marks=False
)
FORMAT = Intervention(
    "format",
    "Format only",
    "marks and latents to a bracket of as many dots in plain text",
    f"{_AROUND}, length",
    "slots",
    steps=lambda count: 0,
    marks=False,
    filler=True,
)

# What they should hold ------------------------------------------------------------------------------------------
ORACLE = Intervention(
    "oracle",
    "Tokens of the true region",
    "latents to the visual token of each step's region",
    _COUNT,
    "oracle",
    content.given,
    needs=frozenset({"boxes"}),
)
ORACLE_OTHER = Intervention(
    "oracle_other",
    "Tokens of another region",
    "latents to visual tokens outside the regions",
    _COUNT,
    "oracle",
    content.given,
    needs=frozenset({"boxes"}),
)

# What the answer sees beside them -------------------------------------------------------------------------------
HIDDEN = Intervention(
    "hidden",
    "Image hidden after the latents",
    "the image tokens, masked once the latents are made",
    "prompt, marks, latents, decoding",
    "image",
    hides_image=True,
)

# What comes before them -----------------------------------------------------------------------------------------
IMAGE = Intervention("image", "Another picture before the latents", "the picture", _LATENTS, "input", exchanges="image")
QUESTION = Intervention(
    "question",
    "Another question before the latents",
    "the question's text",
    "picture, marks, number of latents, decoding",
    "input",
    exchanges="question",
)
IMAGE_KEPT = Intervention(
    "image_kept",
    "Another picture, own latents kept",
    "the picture",
    f"{_LATENTS}, the question's own latents",
    "input",
    content.given,
    exchanges="image",
    needs=frozenset({"own"}),
)
IMAGE_LATENTS = Intervention(
    "image_latents",
    "Own picture, latents made on another",
    "latents to those of the question on another picture",
    f"{_COUNT}, the latents' distribution",
    "input",
    content.given,
    needs=frozenset({"own"}),
)
