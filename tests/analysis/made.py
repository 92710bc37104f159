"""Traces with planted numbers, written by the real writer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lare.trace import AnswerRecord, TraceWriter

IMAGE, START = 5, 6
INFO = {"config": {"image_token_id": IMAGE, "latent_start_id": START}, "arguments": {"method": "lare"}}


def answer(doc, task="lare_mini_mmstar", visual=0.2, steps=4, tokens=10, checkpoint="aaaa", rows=2, heads=3, **changes):
    """One answer whose attention to the image is `visual` in its own row and half of it in the predicting row."""
    shares = np.zeros((rows, 2, heads, 4), np.float32)
    for row in range(rows):
        share = visual * (row + 1) / 2
        shares[row] = [0.1, 0.9 - share - (0.05 if steps else 0), share, 0.05 if steps else 0]
    ids = [1, 3, *[IMAGE] * 4, 7, 8, 9] + ([START] if steps else [])
    values = dict(
        method="lare" if steps else "llava",
        checkpoint=checkpoint,
        task=task,
        doc_id=doc,
        question=f"question {doc}?\nA. one\nB. two",
        text="word. Answer: one" if steps else "Answer: one",
        answer="A",
        input_tokens=len(ids),
        output_tokens=tokens,
        latent_steps=steps,
        stop_reason="fixed",
        prompt_ids=np.array(ids),
        attention_shares=shares,
        seconds={"vision": 0.01, "decode": 0.02},
        meta={"scene": f"scene {doc // 2}", "hops": doc % 3, "answer": "A"},
        key=f"{task}-{doc}-{steps}",
    )
    return AnswerRecord(**{**values, **changes})


def write(folder: Path, records, info=INFO) -> Path:
    with TraceWriter(folder, info) as writer:
        for record in records:
            writer.append(record)
    return folder


def write_scores(run: Path, setting: str, scores) -> None:
    (run / "scores").mkdir(parents=True, exist_ok=True)
    (run / "scores" / f"{setting}.json").write_text(json.dumps(scores))


def demo(root: Path, n=40, tasks=("lare_mini_mmstar", "lare_mini_pope"), seed=0) -> Path:
    """A finished demo run of two settings: K4 right in 3 of 4, K0 in 1 of 2; K4 sees more of the image."""
    run, rng = root / "20300101_000000", np.random.default_rng(seed)
    for setting, steps, seen, share in (("K4", 4, 0.4, 0.75), ("K0", 0, 0.2, 0.5)):
        records = [
            answer(doc, task, float(np.clip(rng.normal(seen, 0.03), 0.01, 0.8)), steps, int(rng.integers(5, 15)))
            for task in tasks
            for doc in rng.permutation(n)
        ]
        write(run / "traces" / setting, records)
        write_scores(
            run, setting, {task: {str(doc): float(rng.random() < share) for doc in range(n)} for task in tasks}
        )
    (run / "summary.json").write_text("{}")
    return run
