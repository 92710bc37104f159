"""What a run on photographs takes of this machine: CPU seconds a sample forward and backward, by stage, and memory.

python -m benchmarks.photo_steps lare/configs/smollm2_135m_photos.yaml
python -m benchmarks.photo_steps lare/configs/qwen2_5_coder_0_5b.yaml --updates 1 --answer photo.jpg

Takes a run file and changes as ``lare train`` does, reads a few rows of each source, and makes some updates of each
stage. Seconds are of the process's CPU, so that other processes disturb them little; peak memory is the process's, from
its start to the end of the last update, and with ``--answer`` that of a process which answers one question.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lare.errors import LareError
from lare.training.casting import cast_once
from lare.training.feeding.loader import Split, batch_loader
from lare.training.optimiser.optim import make_optimisers
from lare.training.plan.config import RunConfig
from lare.training.plan.run_file import load_run_config
from lare.training.plan.stages import freeze_all_but, parts_of
from lare.training.prepare import Prepared
from lare.training.step import run_step
from lare.training.trainer import make_draws

__all__ = ["main", "peak_bytes", "stage_costs"]


def peak_bytes() -> int:
    """Most memory that this process has had at once, files that are mapped into it included."""
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage tells begins with the parent's
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf8").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def few_rows(config: RunConfig, rows: int, out: str) -> RunConfig:
    """The run with so many samples of each source, in another folder."""
    stages = tuple(
        replace(stage, data=tuple(replace(one, limit=rows) for one in stage.data)) for stage in config.stages
    )
    return replace(config, stages=stages, out=out, tensorboard=False)


def stage_costs(config: RunConfig, updates: int, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Make updates of each stage, and time them.

    Args:
        config: The run.
        updates: Updates of each stage, after one that is not timed.
        names: Stages that are measured; None is all.

    Returns:
        A row a stage: CPU seconds a sample of a forward pass alone and of a whole update, weights that train, and the
        process's peak memory until then.
    """
    prepared, found, before = Prepared(config), [], None
    config = prepared.config
    for number, stage in enumerate(config.stages):
        prepared.plan.enter(stage, before)
        before, model = stage, prepared.model.train()
        if names and stage.name not in names:
            continue
        batches = prepared.plan.batches(stage, number, Split(0, 1, stage.micro_batch))
        loader = batch_loader(batches, 0, updates + 1, 0)
        chosen = freeze_all_but(model, parts_of(stage))
        optimisers = make_optimisers(chosen, stage, config.optimiser)
        forward = whole = 0.0
        casting = ExitStack()
        casting.enter_context(cast_once(model, config.precision))
        for step in range(updates + 1):
            rows = next(loader)
            drawn = make_draws(config, model, number, step, stage.batch)
            draws = [drawn.slice(one.start, one.rows) for one in rows]
            weights = config.weights(stage)
            began = time.process_time()
            with torch.no_grad():
                for one, draw in zip(rows, draws, strict=True):
                    model(one, weights | {"lm": 1.0}, draw)
            middle = time.process_time()
            for optimiser in optimisers:
                optimiser.zero_grad(set_to_none=True)
            run_step(model, rows, weights, draws, config.losses.temperature)
            for optimiser in optimisers:
                optimiser.step()
            if step:  # the first pays for what is made once
                forward, whole = forward + middle - began, whole + time.process_time() - middle
        casting.close()
        samples = updates * stage.batch
        row = {"stage": stage.name, "forward": forward / samples, "update": whole / samples}
        row |= {"trained": sum(weight.numel() for _, weight in chosen), "peak_gb": peak_bytes() / 1e9}
        print(json.dumps(row), flush=True)
        found.append(row)
    return found


def _answer(checkpoint: str, photo: str, threads: int, results: Any) -> None:
    torch.set_num_threads(threads)
    from lare.cli import main as lare

    began, spent = time.perf_counter(), time.process_time()
    words = ["ask", photo, "What is in the image?", "--checkpoint", checkpoint, "--max-new-tokens", "32"]
    with redirect_stdout(sys.stderr):
        code = lare(words)
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - spent}
    results.put(took | {"code": code, "peak_gb": peak_bytes() / 1e9})


def answer_cost(checkpoint: str, photo: str, threads: int) -> dict[str, Any]:
    """Load a checkpoint and answer one question in a process of its own: seconds, and its peak memory."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    process = context.Process(target=_answer, args=(checkpoint, photo, threads, results))
    process.start()
    found: dict[str, Any] = results.get()
    process.join()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml")
    parser.add_argument("changes", nargs="*", metavar="key=value")
    parser.add_argument("--stages", nargs="*", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--updates", type=int, default=2, help="of each stage (%(default)s)")
    parser.add_argument("--rows", type=int, default=48, help="samples read of each source (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--answer", metavar="IMAGE", help="also answer one question about an image")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write what was measured there")
    options = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(options.threads)
    config = load_run_config(options.config, options.changes)
    with tempfile.TemporaryDirectory() as place:
        found: dict[str, Any] = {"run": options.config.stem, "changes": options.changes, "threads": options.threads}
        found["stages"] = stage_costs(few_rows(config, options.rows, f"{place}/run"), options.updates, options.stages)
        if options.answer:
            checkpoint = str(Path(place) / "model")
            prepared = Prepared(few_rows(config, options.rows, f"{place}/run"))
            prepared.model.lare.save_pretrained(checkpoint)
            prepared.processor.save_pretrained(checkpoint)
            found["answer"] = answer_cost(checkpoint, options.answer, options.threads)
            print(json.dumps(found["answer"]), flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LareError as error:
        sys.exit(f"photo_steps: {error}")
