"""Training data: one file a format, streamed, bad rows counted and listed; and its decontamination.

>>> from lare.data import Source
>>> for sample in Source(Path("llava_v1_5_mix665k.json"), images=Path("images")).samples():  # doctest: +SKIP
...     print(sample.question, sample.answer)
"""

from lare.data.sample import BadRow, Problem, Sample, Turn
from lare.data.source import FORMATS, Report, Source, guess_format

__all__ = ["FORMATS", "BadRow", "Problem", "Report", "Sample", "Source", "Turn", "guess_format"]
