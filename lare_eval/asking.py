"""``python -m lare_eval.asking REQUEST.json``: asks a trained checkpoint a group of tasks, for ``lare experiments``.

The runner of experiments starts this in a process of its own, since `lare` itself knows nothing of lmms-eval. The
request names ``checkpoint``, ``method``, ``options``, ``group``, ``batch``, ``limit`` and ``out``. What is found goes
to ``OUT/answers.json``, last of all, so that it is there only when the rest is: traces (``traces/answers``) and samples
(``samples.jsonl``).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lare.commands import request_command
from lare.errors import LareError
from lare.files import save_text
from lare_eval.passes import evaluate_pass

if TYPE_CHECKING:
    from lare.methods.base import Method
    from lare.trace import TraceReader

__all__ = ["ask", "hit_rates", "main", "multiply_adds"]


def hit_rates(traces: TraceReader) -> dict[str, float]:
    """How often a step's window holds the whole thing that the reasoning step needs.

    Returns:
        ``hit_rate``, the share of steps that do, and ``hit_chance``, the share a window at a random place would have;
        and ``hit_rate_N`` of step N from 1 on. Empty without windows or boxes.
    """
    infos = traces.infos[0] if traces.infos else {}
    config: Mapping[str, Any] = infos.get("config", infos)
    side, pixels, window = (int(config.get(name, 0) or 0) for name in ("grid", "image_size", "window"))
    window = int((infos.get("arguments") or {}).get("window") or window)
    if config.get("backbone_config"):  # boxes are in pixels of a picture of one size
        return {}
    if not (side and pixels and window and config.get("use_window")):
        return {}
    everywhere = np.stack(np.meshgrid(*[np.arange(side - window + 1)] * 2, indexing="ij"), -1)
    hits: list[list[float]] = []
    chances = []
    for boxes, windows in zip(traces.column("meta.boxes"), traces.column("windows"), strict=True):
        for step, (box, place) in enumerate(zip(json.loads(boxes or "[]"), windows, strict=False)):
            if box is None:
                continue
            # Boxes of photographs are shares of the picture, those of the drawn world pixels.
            cells = np.array(box) * side / (pixels if max(box) > 1 else 1)
            hits += [[]] * (step + 1 - len(hits))
            hits[step] = [*hits[step], float(_holds(np.asarray(place), cells, window))]
            chances.append(float(_holds(everywhere, cells, window).mean()))
    if not hits:
        return {}
    every = [one for step in hits for one in step]
    steps = {f"hit_rate_{number}": float(np.mean(one)) for number, one in enumerate(hits, 1)}
    return {"hit_rate": float(np.mean(every)), "hit_chance": float(np.mean(chances)), **steps}


def _holds(places: npt.NDArray[Any], box: npt.NDArray[Any], window: int) -> npt.NDArray[Any]:
    """Whether windows at (..., 2) places hold a whole box (left, top, right, bottom), all in cells."""
    left, top, right, bottom = box
    row, column = places[..., 0], places[..., 1]
    held: npt.NDArray[Any] = (row <= top) & (column <= left) & (row + window >= bottom) & (column + window >= right)
    return held


def multiply_adds(
    method: Method, prompt: float, written: float, iterations: int, extra: float = 0.0
) -> dict[str, float]:
    """Multiply-adds of one answer asked alone: the whole, and what is left of it without the vision encoder.

    Args:
        method: What answers; it says how many prompts an answer takes and how many images are encoded.
        prompt: Tokens of all prompts of an answer.
        written: Text tokens of all of them.
        iterations: Latent steps.
        extra: Visual tokens read beside the prompt's; they cost what tokens of the prompt do.
    """
    from lare.cost.flops import answer_work, without_encoder

    calls = method.calls
    parts = answer_work(
        method.model, round((prompt + extra) / calls), round(written / calls), iterations, method.latent
    )
    decoding = without_encoder(parts)
    encoding = sum(parts.values()) - decoding
    return {
        "multiply_adds_whole": calls * decoding + method.images_encoded(extra) * encoding,
        "multiply_adds": calls * decoding,
    }


def _costs(method: Method, traces: TraceReader) -> dict[str, float]:
    """Means over all answers."""
    prompt, written = (float(np.mean(traces.column(name))) for name in ("input_tokens", "output_tokens"))
    extra, passes = (float(np.mean(traces.column(name))) for name in ("extra_visual_tokens", "decoder_passes"))
    steps = traces.column("latent_steps")
    thought, most = float(np.mean(steps)), int(np.max(steps))
    seconds = float(np.mean([sum(phases.values()) for phases in traces.column("seconds")]))
    return {
        "prompt_tokens": prompt,
        "text_tokens": written,
        "latent_steps": thought,
        "tokens": written + thought,
        "extra_visual_tokens": extra,
        "decoder_passes": passes,
        "decoder_positions": prompt + extra + written + thought * method.model.config.latents_per_iteration,
        "seconds": seconds,
        **multiply_adds(method, prompt, written, most, extra),
        **hit_rates(traces),
    }


def _facts(traces: TraceReader, task: str, scores: Mapping[int, float]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """A task's questions in the order of their numbers, and what was answered to them."""
    chosen = traces.select(task=task)
    order = np.argsort(chosen.column("doc_id"))

    def column(name: str, default: Any = "") -> list[Any]:
        values = chosen.column(name, default=default) if "." in name else chosen.column(name)
        return [values[place] for place in order]

    numbers = [int(one) for one in column("doc_id")]
    questions: dict[str, list[Any]] = {
        "doc": numbers,
        "scene": [scene or f"{task}/{number}" for scene, number in zip(column("meta.scene"), numbers, strict=True)],
        "family": [str(one) for one in column("meta.sort")],
        "hops": [int(one) for one in column("meta.hops", -1)],
        "difficulty": [str(one) for one in column("meta.difficulty")],
    }
    answers = {
        "score": [float(scores[number]) for number in numbers],
        "text_tokens": column("output_tokens"),
        "latent_steps": column("latent_steps"),
        "samples": [
            {"task": task, "doc": number, "score": scores[number], "question": asked, "text": text, "answer": answer}
            for number, asked, text, answer in zip(
                numbers, column("question"), column("text"), column("answer"), strict=True
            )
        ],
    }
    return questions, answers


def ask(request: Mapping[str, Any]) -> dict[str, Any]:
    """Ask, and write what was found.

    Args:
        request: See the module.

    Returns:
        ``questions``, ``answers`` and ``measures`` by task, ``costs``, ``fingerprint``, ``time`` and how long it took.

    Raises:
        LareError: If the checkpoint, the method or an option is impossible, or a task has no 0-or-1 ``score``.
    """
    from lare.methods import load_method
    from lare.trace import TraceReader

    started, now = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    out = Path(request["out"])
    method = load_method(request["method"], request["checkpoint"], **request["options"])
    passed = evaluate_pass("answers", method, [request["group"]], out, request["batch"], request["limit"])
    traces = TraceReader(out / "traces" / "answers")
    found = {task: _facts(traces, task, scores) for task, scores in sorted(passed.scores.items())}
    wrong = [task for task, (_, one) in found.items() if not set(one["score"]) <= {0.0, 1.0}]
    if wrong:
        raise LareError(f"{wrong[0]} has scores between 0 and 1; a row keeps right and wrong, choose other tasks")
    samples = [line for _, one in found.values() for line in one.pop("samples")]
    save_text(out / "samples.jsonl", "\n".join(json.dumps(line, ensure_ascii=False) for line in samples))
    content = {
        "questions": {task: questions for task, (questions, _) in found.items()},
        "answers": {task: answers for task, (_, answers) in found.items()},
        "measures": passed.measures,
        "costs": _costs(method, traces),
        "fingerprint": method.fingerprint(),
        "time": now,
        "seconds": round(time.monotonic() - started, 1),
    }
    save_text(out / "answers.json", json.dumps(content))
    return content


main = request_command(ask, __doc__)
"""Run from the command line; returns the exit code."""


if __name__ == "__main__":
    sys.exit(main())
