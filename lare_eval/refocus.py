"""``python -m lare_eval.refocus``: does refocusing earn its place? Trains, asks and times the rows of the comparison.

Every row of ``lare/configs/rows/refocus.yaml`` begins with the same weights and sees the same number of samples; it
differs in what the decoder reads (4 pooled or all 64 fine tokens), in whether latents look again, and where. What is
done already is kept, so a stopped run goes on where it was:

    python -m lare_eval.refocus --seeds 0 1 2 3        train what is missing, ask everything, write rows.json
    python -m lare_eval.refocus --test --rows fine_16  ask the chosen row the test questions, once; write test.json
    python -m lare_eval.refocus --time                 time answers of those rows (on a quiet machine; trains nothing)
    python analysis/ablation.py --rows reports/refocus/rows.json      the table with its intervals

Questions are those of ``lare_mini_val``, the validation split: rows are compared, and a design is chosen, on them. Test
questions are for what was chosen. ``--test`` asks them once for each row and seed; test.json says when and by which
weights, and a second time is refused without ``--again``, which is written down there as well.

Multiply-adds are those of one question asked
alone, the whole first; then decoder, LM head, projectors and Extractor alone, without the vision encoder, which all
rows share.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lare.errors import LareError
from lare.experiments.rows import RowRun, read_rows, train_rows
from lare.files import save_text
from lare.training.saving.checkpoints import file_hash, read_meta
from lare_eval.looks import check_looks, earlier_looks, split_of
from lare_eval.passes import evaluate_pass

if TYPE_CHECKING:
    from lare.methods.base import Method
    from lare.trace import TraceReader

__all__ = ["RefocusRow", "hit_rates", "load_rows", "main", "multiply_adds"]

TASKS = {"validation": "lare_mini_val", "test": "lare_mini"}
"""lmms-eval's group of each split."""
BASE = Path("lare/configs/refocus.yaml")
ROWS = Path("lare/configs/rows/refocus.yaml")
RUNS, OUT = Path("runs/refocus"), Path("reports/refocus")


@dataclass(frozen=True)
class RefocusRow:
    """A row of the comparison.

    Attributes:
        name: Its name in the file.
        title: In words.
        train: ``key=value`` words for ``lare train``.
        iterations: K when asked; None takes the model's.
        delimiters: False asks without latent delimiters, the way an answer at once was trained.
        window: ``saliency`` or ``random``.
    """

    name: str
    title: str
    train: tuple[str, ...] = ()
    iterations: int | None = None
    delimiters: bool = True
    window: str = "saliency"


def load_rows(path: Path = ROWS) -> list[RefocusRow]:
    """Read the rows.

    Raises:
        LareError: If the file can't be read or a row has unknown keys.
    """
    return read_rows(path, RefocusRow)


def _run(row: RefocusRow, seed: int) -> RowRun:
    return RowRun(BASE, RUNS / f"{row.name}-{seed}", (f"seed={seed}", *row.train))


# Asking -------------------------------------------------------------------------------------------------------------


def method_of(row: RefocusRow, checkpoint: Path) -> Method:
    """The trained model, asked the way its row says."""
    from lare.methods import load_method

    if not row.delimiters:
        return load_method("llava", str(checkpoint))
    mode = "random" if row.window == "random" else "saliency"
    return load_method("lare", str(checkpoint), iterations=row.iterations, window_mode=mode)


def hit_rates(traces: TraceReader) -> dict[str, float]:
    """How often a step's window holds the whole thing that the reasoning step needs.

    Returns:
        ``hit_rate``, the share of steps that do, and ``hit_chance``, the share a window at a random place would have;
        empty without windows or boxes.
    """
    hits, chances = [], []
    infos = traces.infos[0] if traces.infos else {}
    config: Mapping[str, Any] = infos.get("config", infos)
    side, pixels, window = (int(config.get(name, 0) or 0) for name in ("grid", "image_size", "window"))
    if not (side and pixels and window and config.get("use_window")):
        return {}
    everywhere = np.stack(np.meshgrid(*[np.arange(side - window + 1)] * 2, indexing="ij"), -1)
    for boxes, windows in zip(traces.column("meta.boxes"), traces.column("windows"), strict=True):
        for box, place in zip(json.loads(boxes or "[]"), windows, strict=False):
            cells = np.array(box) * side / pixels
            hits.append(float(_holds(np.asarray(place), cells, window)))
            chances.append(float(_holds(everywhere, cells, window).mean()))
    return {"hit_rate": float(np.mean(hits)), "hit_chance": float(np.mean(chances))} if hits else {}


def _holds(places: npt.NDArray[Any], box: npt.NDArray[Any], window: int) -> npt.NDArray[Any]:
    """Whether windows at (..., 2) places hold a whole box (left, top, right, bottom), all in cells."""
    left, top, right, bottom = box
    row, column = places[..., 0], places[..., 1]
    held: npt.NDArray[Any] = (row <= top) & (column <= left) & (row + window >= bottom) & (column + window >= right)
    return held


def multiply_adds(method: Method, prompt: float, written: float, iterations: int) -> dict[str, float]:
    """Multiply-adds of one answer asked alone: the whole, and what is left of it without the vision encoder."""
    from lare.cost.flops import answer_work, without_encoder

    parts = answer_work(method.model, round(prompt), round(written), iterations, method.latent)
    return {"multiply_adds_whole": sum(parts.values()), "multiply_adds": without_encoder(parts)}


def _costs(method: Method, traces: TraceReader) -> dict[str, float]:
    prompt, written = (float(np.mean(traces.column(name))) for name in ("input_tokens", "output_tokens"))
    steps = int(np.max(traces.column("latent_steps")))
    return {
        "prompt_tokens": prompt,
        "text_tokens": written,
        "latent_steps": float(steps),
        "decoder_positions": prompt + written + steps * method.model.config.latents_per_iteration,
        **multiply_adds(method, prompt, written, steps),
        **hit_rates(traces),
    }


def _ask(row: RefocusRow, seed: int, limit: int | None, split: str, again: bool = False) -> dict[str, Any]:
    """Scores and costs of a trained row; asked once for each state of its weights, unless `again`."""
    from lare.trace import TraceReader

    method = method_of(row, _run(row, seed).checkpoint)
    cache = _run(row, seed).out / f"asked-{split}-{method.fingerprint()}-{limit or 'all'}.json"
    if cache.is_file() and not again:
        found: dict[str, Any] = json.loads(cache.read_text(encoding="utf-8"))
        return found
    out = _run(row, seed).out / f"asked-{time.time_ns()}"
    out.mkdir()
    passed = evaluate_pass("answers", method, [TASKS[split]], out, limit=limit)
    traces = TraceReader(out / "traces" / "answers")
    content = {
        "name": row.name,
        "title": row.title,
        "seed": seed,
        "claim": True,
        "fingerprint": method.fingerprint(),
        "scores": passed.scores,
        "scenes": passed.scenes,
        "costs": _costs(method, traces),
    }
    if split == "test":
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        content["asked"] = [{"time": now, "weights": method.fingerprint()}]
    save_text(cache, json.dumps(content))
    return json.loads(cache.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _begun_with(row: RefocusRow, seed: int) -> str | None:
    """Hash of the weights that a row's run began with."""
    run = _run(row, seed)
    metas = [read_meta(path.parent) for path in run.out.glob("*/final/meta.json")]
    found: str | None = min(metas, key=lambda meta: int(meta["number"]))["parent"]
    return found


def _kept(
    earlier: Sequence[dict[str, Any]], done: Sequence[tuple[str, int]], start: str | None
) -> list[dict[str, Any]]:
    """Rows of an earlier call that this one does not make anew.

    Raises:
        LareError: If they began with other weights than `start`.
    """
    kept = [one for one in earlier if (one["name"], one["seed"]) not in done]
    _check_start(kept, start, "rows.json holds rows that", "give --out another folder")
    return kept


def _check_start(rows: Sequence[Mapping[str, Any]], start: str | None, what: str, mend: str) -> None:
    foreign = sorted({one["name"] for one in rows if one.get("start") != start})
    if foreign:
        raise LareError(f"{what} began with other weights ({', '.join(foreign)}) can't be compared with these; {mend}")


def _time(rows: Sequence[RefocusRow], target: Path) -> None:
    """Time answers of the rows that `target` has, and write the milliseconds beside their other costs."""
    from lare.training.plan.run_file import load_run_config
    from lare_eval.refocus_time import TimedRow, milliseconds

    content = _read(target)["rows"]
    if not content:
        raise LareError(f"{str(target)!r} has no rows to time; make it with python -m lare_eval.refocus")
    written: dict[str, list[float]] = {}
    for one in content:
        written.setdefault(one["name"], []).append(one["costs"]["text_tokens"] + 1)
    timed = [
        TimedRow(row.name, load_run_config(BASE, row.train), row.iterations, row.delimiters, tokens)
        for row in rows
        if row.name in written
        for tokens in [round(float(np.mean(written[row.name])))]
    ]
    clocks = milliseconds(timed)
    for one in content:
        one["costs"] |= clocks.get(one["name"], {})
    save_text(target, json.dumps({"rows": content}, separators=(",", ":")))
    for name, found in clocks.items():
        print(f"{name:18s} {found['ms_batch1']:7.2f} ms at batch 1  {found['ms_batch16']:7.2f} ms at batch 16")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lare_eval.refocus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="seeds (default: 0 1 2 3)")
    parser.add_argument("--rows", nargs="+", help="names of rows (default: all)")
    parser.add_argument("--no-train", action="store_true", help="leave out rows that are not trained")
    parser.add_argument("--at-once", type=int, default=2, help="runs trained side by side (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="questions of each task (default: all)")
    parser.add_argument(
        "--time", action="store_true", help="only time answers of the rows in rows.json; wants a quiet machine"
    )
    parser.add_argument("--test", action="store_true", help="ask --rows the test questions, once; trains nothing")
    parser.add_argument("--again", action="store_true", help="with --test: ask rows that were asked already")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of rows.json (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.again and not options.test:
        parser.error("--again goes with --test")
    if options.test and (options.time or not options.rows):
        parser.error("--test wants --rows, those that were chosen on the validation split")
    return options


def _chosen(names: Sequence[str] | None) -> list[RefocusRow]:
    rows = load_rows()
    unknown = sorted(set(names or ()) - {row.name for row in rows})
    if unknown:
        raise LareError(f"no row {unknown[0]!r}; choose from {', '.join(row.name for row in rows)}")
    return [row for row in rows if names is None or row.name in names]


def run(options: argparse.Namespace) -> None:
    """Train, ask, time, write."""
    rows = _chosen(options.rows)
    if options.time:
        _time(rows, options.out / "rows.json")
        return
    jobs = [(row, seed) for seed in options.seeds for row in rows]
    if options.test:
        _test(jobs, options)
        return
    target = options.out / "rows.json"
    earlier, names = _read(target)["rows"], [(row.name, seed) for row, seed in jobs]
    foreign = sorted({split_of(row) for row in earlier} - {"validation"})
    if foreign:
        raise LareError(
            f"{str(target)!r} holds rows that were asked {foreign[0]} questions; rows are compared on the validation "
            "split: give --out another folder"
        )
    _kept(earlier, names, _first_weights())  # before hours of training
    if not options.no_train:
        train_rows([_run(*job) for job in jobs], options.at_once)
    _write(_asked(_trained(jobs), options.limit, "validation"), earlier, target)


def _trained(jobs: Sequence[tuple[RefocusRow, int]]) -> list[tuple[RefocusRow, int]]:
    done = [job for job in jobs if _run(*job).trained]
    if not done:
        raise LareError(f"no trained rows under {RUNS}; leave --no-train out")
    return done


def _test(jobs: Sequence[tuple[RefocusRow, int]], options: argparse.Namespace) -> None:
    """Ask trained rows the test questions, and write down that it was done."""
    target, done = options.out / "test.json", _trained(jobs)
    # Rows of earlier versions of this command were asked test questions, and stand in rows.json.
    earlier = _read(target)["rows"]
    before = [*earlier, *_read(options.out / "rows.json")["rows"]]
    check_looks(before, [(row.name, seed) for row, seed in done], options.again)
    content = _asked(done, options.limit, "test", options.again)
    for one in content:
        one["asked"] = [*earlier_looks(before, one["name"], one["seed"]), *one["asked"]]
    _write(content, earlier, target)


def _asked(
    done: Sequence[tuple[RefocusRow, int]], limit: int | None, split: str, again: bool = False
) -> list[dict[str, Any]]:
    """Answers of rows that began with the same weights."""
    from lare.progress import progress

    content = [
        _ask(row, seed, limit, split, again) | {"title": row.title, "start": _begun_with(row, seed)}
        for row, seed in progress(done, desc="asked", unit="run")
    ]
    mend = "move their folders away, or name --rows of one start"
    _check_start(content, content[0]["start"], f"rows under {RUNS} that", mend)
    return content


def _write(content: list[dict[str, Any]], earlier: Sequence[dict[str, Any]], target: Path) -> None:
    """Put rows beside those of earlier calls, and print all."""
    kept = _kept(earlier, [(one["name"], one["seed"]) for one in content], content[0]["start"])
    clocks = {row["name"]: _milliseconds(row) for row in earlier}
    for one in content:
        one["costs"] |= clocks.get(one["name"], {})
    content = sorted([*content, *kept], key=_order)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_text(target, json.dumps({"rows": content}, separators=(",", ":")))
    for one in content:
        scores = [score for task in one["scores"].values() for score in task.values()]
        hits = one["costs"].get("hit_rate")
        times = f", asked {len(one['asked'])} times" if len(one.get("asked", ())) > 1 else ""
        print(
            f"{one['name']:16s} seed {one['seed']}  {100 * np.mean(scores):5.1f} % of {len(scores)} {split_of(one)} "
            f"questions{times}  {_counted(one['costs'])} multiply-adds"
            + (f"  looks hit {100 * hits:.0f} % (chance {100 * one['costs']['hit_chance']:.0f})" if hits else "")
        )
    print(f"rows: {target}; next: python analysis/ablation.py --rows {target}")


def _counted(costs: Mapping[str, float]) -> str:
    known = [costs[name] for name in ("multiply_adds_whole", "multiply_adds") if name in costs]
    return " M, without vision encoder ".join(f"{count / 1e6:6.1f}" for count in known) + " M"


def _first_weights() -> str | None:
    """Hash of the weights that rows begin with; None when they are not there."""
    from lare.training.plan.run_file import load_run_config

    start = load_run_config(BASE).start
    path = Path(str(start)) / "final" / "model.safetensors"
    return file_hash(path) if path.is_file() else None


def _order(row: Mapping[str, Any]) -> tuple[int, int]:
    """As in the file of rows, seed by seed; rows that the file has no more come last."""
    names = [one.name for one in load_rows()]
    return names.index(row["name"]) if row["name"] in names else len(names), int(row["seed"])


def _read(path: Path) -> dict[str, Any]:
    """What an earlier call has written."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": []}
    return found


def _milliseconds(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row["costs"].items() if name.startswith("ms_")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    if arguments is None:  # the process is this command's own
        from lare.progress import quiet_libraries

        quiet_libraries()
    try:
        run(_options(arguments))
    except LareError as error:
        print(f"lare: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
