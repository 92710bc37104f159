"""The trace: everything a reader can look at after an answer, one typed record per answer.

`TraceWriter` appends `AnswerRecord`s to a directory while an evaluation runs; `TraceReader` reads it back, column by
column. Every analysis starts from traces, so this package needs numpy alone: no torch, no model.

Layout of a trace directory (format version 1)::

    manifest.json                     {"format": "lare-trace", "version": 1}
    shard-<time>-<process>-<number>/
        shard.json                    the columns' types, and facts about the run (model configuration, versions)
        rows.jsonl                    one line an answer: text and numbers, and where its arrays lie
        latents.bin, saliency.bin ... one file an array column, little-endian numbers end to end

A method's own columns stand beside the others and are told by shard.json alone. `lare.trace.parquet` makes one Parquet
file of a trace, for everybody who has no LaRe.

Why not one file a record, or safetensors: those are written at once, so a killed run would lose a whole shard or leave
thousands of files. Here every file is only ever appended to. An answer's arrays are handed to the operating system
before its line is, so a complete line is the promise that the answer can be read; `kill -9` loses at most the answers
that were not flushed yet. Shapes may differ from answer to answer (prompts, adaptive numbers of steps): each line
carries its own. Nothing is pickled, and a column is memory-mapped, so reading one touches only its own file.
"""

from lare.trace.reader import ArrayColumn, TraceReader
from lare.trace.record import ARRAYS, SCALARS, SHARES, AnswerRecord, Column
from lare.trace.writer import TraceWriter

__all__ = ["ARRAYS", "SCALARS", "SHARES", "AnswerRecord", "ArrayColumn", "Column", "TraceReader", "TraceWriter"]
