"""``lare eval``: lmms-eval with LaRe's tasks at hand and an exit code that tells the truth.

lmms-eval prints a traceback and ends with code 0 whatever went wrong. Here a failure is one message and code 2, and
success is claimed only if every task that was asked for has results, and the results file was written where one was
asked for.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from lare.errors import LareError
from lare_eval import TASKS

__all__ = ["UNANSWERED", "main"]

UNANSWERED = 3
"""Exit code of an evaluation that finished, but with questions that could not be answered."""

_HELP = """usage: lare eval [--model lare] [--tasks lare_mini] [any other option of lmms-eval]

Evaluate with lmms-eval. The same as lmms-eval, but with one clear message and code 2 where something fails.

  --model MODEL          lare (default), lare_llava, ... or any other model of lmms-eval
  --tasks TASKS          default lare_mini: five stand-ins that need no download; or mmbench,pope and so on
  --model_args A=B,C=D   pretrained, method, dtype, device, max_new_tokens, trace (a directory for the trace), resume
                         (a directory where answers are kept, so that a killed evaluation goes on where it stopped),
                         batch_size; and the method's own options: iterations, window, stop, system_prompt, ...
  --limit N              only the first N questions of each task
  --output_path DIR      write the results there; with --log_samples every answer as well
  --gen_kwargs A=B       generation arguments in place of the tasks' own, such as max_new_tokens=256
  --verbosity LEVEL      default WARNING; DEBUG also shows tracebacks

All options: lmms-eval eval --help
Exit code: 0 done; 2 failed, with a message; 3 done, but some questions could not be answered (listed above the table).

examples:
  lare eval
  lare eval --tasks lare_mini_pope --model_args batch_size=16,trace=traces,resume=answers --output_path results
  torchrun --nproc_per_node 2 -m lare eval --tasks mmbench_en_dev_static,pope
"""

_DEFAULTS = {"--model": "lare", "--tasks": "lare_mini", "--verbosity": "WARNING"}
_REFUSED = ("--config", "--wandb_args", "--swanlab_args", "--power-analysis", "--tui")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lare eval``.

    Args:
        arguments: The words after ``lare eval``; those of the process when None.

    Returns:
        0, or `UNANSWERED`.

    Raises:
        LareError: If the evaluation failed; the message says why.
    """
    words = list(sys.argv[2:] if arguments is None else arguments)
    if {"-h", "--help"} & set(words):
        print(_HELP)
        return 0
    options = _parse(words)
    started = time.time()
    try:
        results = _evaluate(options)
    finally:
        _leave_group()
    if results is None:  # a process other than the first
        return 0
    _check(results, options, started)
    return _show(results)


def _parse(words: list[str]) -> argparse.Namespace:
    """Let lmms-eval read the options, with our defaults and our task folder added."""
    given = {word.partition("=")[0] for word in words}
    for refused in _REFUSED:
        if refused in given:
            raise LareError(f"lare eval does not take {refused}; use: lmms-eval ... --include_path {TASKS}")
    for option, value in _DEFAULTS.items():
        if option not in given:
            words += [option, value]
    try:
        from lmms_eval.__main__ import parse_eval_args
    except ImportError as error:
        raise LareError(f"lare eval needs lmms-eval ({error}); install it with: pip install 'lare[eval]'") from None
    before, sys.argv = sys.argv, ["lare eval", *words]
    try:
        options: argparse.Namespace = parse_eval_args()[1]
    finally:
        sys.argv = before
    options.include_path = [*([options.include_path] if options.include_path else []), str(TASKS)]
    return options


def _evaluate(options: argparse.Namespace) -> Mapping[str, Any] | None:
    """The evaluation itself, with whatever goes wrong turned into one message."""
    from lmms_eval.__main__ import cli_evaluate_single
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level=options.verbosity, format="<level>{level: <8}</level> {message}")
    try:
        with _by_category():
            results: Mapping[str, Any] | None = cli_evaluate_single(options)[0]
    except LareError:
        raise
    except Exception as error:
        if options.verbosity == "DEBUG":
            raise
        raise LareError(_message(error)) from None
    return results


@contextmanager
def _by_category() -> Iterator[None]:
    """Add ``categories`` and the number of ``unanswered`` questions to the results, and its places to each sample.

    The samples are asked for to that end, and dropped again where the user did not want them.
    """
    from lmms_eval import evaluator

    from lare_eval.categories import as_json, of_samples

    original = evaluator.simple_evaluate

    @wraps(original)
    def simple_evaluate(*args: Any, **options: Any) -> Any:
        wanted = options.get("log_samples", True)
        results = original(*args, **{**options, "log_samples": True})
        if results is None:
            return None
        samples = results["samples"]
        results["categories"] = as_json(of_samples(samples))
        results["unanswered"] = sum(_unanswered(sample) for of_task in samples.values() for sample in of_task)
        if not wanted:
            for name in ("samples", "efficiency"):
                results.pop(name, None)
        return results

    evaluator.simple_evaluate = simple_evaluate
    try:
        yield
    finally:
        evaluator.simple_evaluate = original


def _unanswered(sample: Mapping[str, Any]) -> bool:
    counts = sample.get("token_counts") or [None]
    return any(bool(one and one.get("unanswered")) for one in counts)


def _leave_group() -> None:
    """Say goodbye to the other processes of a run of several."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _message(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if text.startswith("Tasks not found"):
        names = text.partition(":")[2].partition(". Try")[0].strip()
        return f"there are no tasks {names}; lmms-eval tasks list prints all names, lare_mini needs no data"
    if isinstance(error, ValueError) and "not found" in text and "odel" in text:
        return f"{text.partition('.')[0]}; lmms-eval models prints all names, and there are lare and lare_llava"
    return f"the evaluation failed ({type(error).__name__}: {text}); --verbosity DEBUG shows where"


def _check(results: Mapping[str, Any], options: argparse.Namespace, started: float) -> None:
    """Make sure that there is what was asked for.

    Raises:
        LareError: If a task has no results, or the results file was not written.
    """
    scores = results.get("results", {})
    tasks = list(results.get("n-samples", {}))
    empty = [task for task in tasks if not any("," in metric for metric in scores.get(task, {}))]
    if empty or not tasks:
        raise LareError(f"the evaluation ended without results for {', '.join(empty) or 'any task'}")
    if options.output_path:
        files = Path(options.output_path).rglob("[0-9]*_results.json")
        if not any(file.stat().st_mtime >= started - 1 for file in files):
            raise LareError(f"no results file appeared under {options.output_path!r}; check that it can be written")


def _show(results: Mapping[str, Any]) -> int:
    from lmms_eval.utils import make_table

    from lare_eval.categories import CategoryScore, category_table

    print(make_table(results))
    if "groups" in results:
        print(make_table(results, "groups"))
    if by_category := category_table([CategoryScore(**one) for one in results.get("categories", ())]):
        print(f"{by_category}\n")
    unanswered = int(results.get("unanswered", 0))
    if unanswered:
        print(f"{unanswered} questions could not be answered and count as wrong; see the warnings", file=sys.stderr)
    return UNANSWERED if unanswered else 0
