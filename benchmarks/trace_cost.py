"""What writing traces costs: latents, windows, saliency and attention of every answer, kept and written to disk.

Left: the embedded checkpoint answers 64 questions of the embedded world in batches of 16 and each answer's trace is
written and flushed. Right: the same answers without traces. Target: at most 1.05.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Options, Result, Side, compare, main
from lare.methods import load_method
from lare.methods.base import Answer, Method, Sampling
from lare.trace import AnswerRecord, TraceWriter

QUESTIONS, BATCH = 64, 16


def _record(method: Method, number: int, question: str, answer: Answer) -> AnswerRecord:
    return AnswerRecord(
        method=method.name,
        checkpoint="benchmark",
        task="benchmark",
        doc_id=number,
        question=question,
        text=answer.text,
        answer=answer.text,
        input_tokens=answer.input_tokens,
        output_tokens=answer.output_tokens,
        latent_steps=answer.latent_steps,
        stop_reason=answer.stop_reason,
        seconds=answer.seconds,
        **answer.arrays,
    )


def _batches(count: int) -> Sequence[range]:
    return [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def measure(options: Options) -> list[Result]:
    """Time the answers with and without traces."""
    from lare.embedded.world.benchmark import make_task
    from lare.embedded.world.prompts import task_prompt

    method = load_method("lare")
    rows = make_task("pope", n=QUESTIONS)
    images, questions = [row["image"] for row in rows], [task_prompt("pope", row) for row in rows]
    sampling = Sampling(max_new_tokens=48)

    def ask(trace: bool) -> list[Answer]:
        answers = []
        for batch in _batches(len(rows)):
            answers += method.answer([images[i] for i in batch], [questions[i] for i in batch], sampling, trace=trace)
        return answers

    with tempfile.TemporaryDirectory() as folder:
        numbers = itertools.count()

        def traced() -> None:
            with TraceWriter(Path(folder) / str(next(numbers))) as writer:
                for batch in _batches(len(rows)):
                    asked = [questions[i] for i in batch]
                    answers = method.answer([images[i] for i in batch], asked, sampling, trace=True)
                    for i, question, answer in zip(batch, asked, answers, strict=True):
                        writer.append(_record(method, i, question, answer))
                    writer.flush()

        return [
            compare(
                "trace_cost embedded b16",
                Side("traces written", traced, len(rows)),
                Side("no traces", lambda: ask(trace=False), len(rows)),
                options,
                at_most=1.05,
                details={"questions": len(rows), "batch": BATCH, "iterations": method.model.config.iterations},
            )
        ]


if __name__ == "__main__":
    sys.exit(main("trace_cost", __doc__ or "", measure))
