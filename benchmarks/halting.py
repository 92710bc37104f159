"""Whether steps that a learned rule saves are seconds saved, alone and in a batch.

Left: answers under a learned stop rule. Right: the same model with the fixed number of steps. Milliseconds an answer at
batch 1 and 16; rows of a batch stop apart and leave it. Target: faster than fixed.

Without a checkpoint: a decoder of 36 million parameters with random weights, a prompt of 256 + 64, 8 new tokens, and
heads with random weights whose threshold is set so that rows take about 60 % of 8 steps. With ``--checkpoint`` its own
heads and thresholds, on the embedded world's validation questions: the fixed number is the best one there, to which
the rule is equal in accuracy up to its margin (``lare halting show CHECKPOINT``).

    python -m benchmarks.halting --checkpoint runs/world2/IV/final --rounds 7
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import torch

from benchmarks.common import Options, Result, Side, compare, option_parser, read_options, save, table
from benchmarks.generating import answer
from benchmarks.models import BASE, Batch, Size, lare_model, make_batch
from lare.model import LareForConditionalGeneration
from lare.model.loop import prefill
from lare.model.observing import observe
from lare.model.stop_head import StopHead, StopHeads, head_inputs, inputs_of

K, SHARE, NEW_TOKENS = 8, 0.6, 8
BATCHES = (1, 16)
QUESTIONS = 64  # of a checkpoint, at batch 16; a quarter of them at batch 1


def _part(prompts: Batch, start: int, size: int) -> Batch:
    names = ("input_ids", "attention_mask", "pixel_values")
    return replace(prompts, **{name: getattr(prompts, name)[start : start + size] for name in names})


@torch.inference_mode()
def _head(model: LareForConditionalGeneration, prompts: Batch, kind: str) -> float:
    """Give the model a head with random weights; returns the mean steps at its threshold, about `SHARE` of K."""
    torch.manual_seed(1)
    inputs = inputs_of(kind, int(model.config.text_config.hidden_size))
    head = StopHead(kind, inputs, K, 0 if kind == "confidence" else 64)
    torch.nn.init.normal_(head.at.weight)
    state = prefill(
        model, prompts.input_ids, prompts.attention_mask, model.encode_images(prompts.pixel_values), room=K + 1
    )
    values = head.values(torch.stack([head_inputs(kind, seen) for seen in observe(model, state, K)], 1))
    values[:, -1] = 2.0
    reached = [
        (float((values > one).float().argmax(1).add(1).float().mean()), one) for one in values[:, :-1].unique().tolist()
    ]
    steps, head.threshold = min(reached, key=lambda one: abs(one[0] - SHARE * K))
    model.stop_heads = StopHeads({kind: head}, kind, K)
    return steps


def _case(size: Size, kind: str, batch: int, rows: int, options: Options) -> Result:
    model = lare_model(size, max_iterations=K)
    prompts = make_batch(model.config, rows).ending_in(model.config.latent_start_id)
    steps = _head(model, prompts, kind)
    parts = [_part(prompts, start, batch) for start in range(0, rows, batch)]

    def run(stop: str) -> list[object]:
        return [answer(model, part, NEW_TOKENS, iterations=K, stop=stop) for part in parts]

    return compare(
        f"halting {kind} b{batch}",
        Side(f"learned, {steps:.1f} steps", lambda: run("learned"), rows),
        Side(f"fixed, {K} steps", lambda: run("fixed"), rows),
        options,
        at_most=1.0,
        details={"batch": batch, "mean_steps": steps, "fixed_steps": K, "new_tokens": NEW_TOKENS},
    )


def measure(options: Options, size: Size = BASE, batches: Sequence[int] = BATCHES, rows: int = 16) -> list[Result]:
    """Time whole answers of a model with random weights, vision included."""
    return [_case(size, kind, batch, rows, options) for kind in ("agreement", "confidence") for batch in batches]


def measure_checkpoint(options: Options, checkpoint: str, questions: int = QUESTIONS) -> list[Result]:
    """Time a checkpoint's own learned rule against its best fixed number of steps."""
    from lare.embedded.asked import world_questions
    from lare.embedded.world_data import WorldData
    from lare.methods import load_method
    from lare.methods.base import Sampling

    learned = load_method("lare", checkpoint, "cpu", stop="learned")
    heads = learned.model.stop_heads
    assert heads is not None
    fixed = learned.changed(stop="fixed", iterations=heads.steps)
    asked = list(islice(world_questions(WorldData(version=2), "validation", questions), questions))
    results = []
    for batch in BATCHES:
        chosen = asked if batch > 1 else asked[: max(1, questions // 4)]
        parts = [chosen[start : start + batch] for start in range(0, len(chosen), batch)]

        def run(method: object, parts: list[list[object]] = parts) -> list[object]:
            return [
                one
                for part in parts
                for one in method.answer([q.image for q in part], [q.text for q in part], Sampling(max_new_tokens=64))
            ]

        steps = sum(one.latent_steps for one in run(learned)) / len(chosen)
        results.append(
            compare(
                f"halting {heads.chosen} b{batch} checkpoint",
                Side(f"learned, {steps:.2f} steps", lambda run=run: run(learned), len(chosen)),
                Side(f"fixed, {heads.steps} steps", lambda run=run: run(fixed), len(chosen)),
                options,
                at_most=1.0,
                details={"batch": batch, "mean_steps": steps, "fixed_steps": heads.steps, "heads": heads.digest},
            )
        )
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write JSON; returns the exit code."""
    parser = option_parser(__doc__ or "")
    parser.add_argument("--checkpoint", help="a checkpoint with stop heads (default: random weights)")
    parsed = parser.parse_args(arguments)
    options = read_options(parser, parsed)
    results = measure_checkpoint(options, parsed.checkpoint) if parsed.checkpoint else measure(options)
    path = save("halting", results, options)
    print(f"{table(results)}\nJSON written to {path}")
    return int(options.strict and not all(result.passed for result in results))


if __name__ == "__main__":
    sys.exit(main())
