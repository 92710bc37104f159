"""The two places where lmms-eval is changed from outside; both changes are small, and made at most once.

`offer_tasks` lets ``lmms-eval --tasks lare_mini`` work with no further flag: lmms-eval has no entry point for tasks.
`explain_missing_data` turns "RetryError[<Future ... raised ConnectionError>]" into a sentence that names the data set,
the folder looked in and the ways out; and under the ``lmms-eval`` command it makes the process end with code 1, where
lmms-eval prints a traceback and ends with 0.
"""

from __future__ import annotations

import os
import sys
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

from lare.errors import LareError
from lare_eval import TASKS

__all__ = ["explain_missing_data", "give_up", "offer_tasks", "unreachable"]


def offer_tasks() -> None:
    """Let every task index that holds lmms-eval's own tasks hold this package's as well."""
    from lmms_eval.tasks import TaskManager

    original = TaskManager.initialize_tasks
    if getattr(original, "offers_lare_mini", False):
        return

    @wraps(original)
    def initialize_tasks(self: Any, include_path: Any = None, include_defaults: bool = True) -> Any:
        paths = [include_path] if isinstance(include_path, str) else list(include_path or [])
        if include_defaults and str(TASKS) not in paths:
            paths.append(str(TASKS))
        return original(self, include_path=paths or None, include_defaults=include_defaults)

    initialize_tasks.offers_lare_mini = True  # type: ignore[attr-defined]
    TaskManager.initialize_tasks = initialize_tasks


def explain_missing_data() -> None:
    """Let tasks whose data can't be reached say so in one clear message."""
    from lmms_eval.api.task import ConfigurableTask
    from tenacity import RetryError

    original = ConfigurableTask.download
    if getattr(original, "explains_missing_data", False):
        return

    @wraps(original)
    def download(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Five attempts two seconds apart may mend a network, never its absence by choice.
        attempt = original.__wrapped__ if _offline() and hasattr(original, "__wrapped__") else original
        try:
            return attempt(self, *args, **kwargs)
        except RetryError as error:
            cause = error.last_attempt.exception()
        except Exception as error:  # noqa: BLE001 - the unwrapped attempt: anything that load_dataset raises
            cause = error
        give_up(unreachable(self, cause))

    download.explains_missing_data = True  # type: ignore[attr-defined]
    ConfigurableTask.download = download


def unreachable(task: Any, cause: BaseException | None) -> LareError:
    """The message for a task whose data set can't be loaded.

    Args:
        task: An lmms-eval task, as far as it was set up.
        cause: What loading raised.
    """
    from lmms_eval.api.task import _resolve_hf_datasets_cache_dir

    name = str(task.DATASET_PATH) + (f" ({task.DATASET_NAME})" if task.DATASET_NAME else "")
    reason = (str(cause).strip().splitlines() or [""])[0] or type(cause).__name__
    how = "the machine is set to work offline" if _offline() else "the Hub also wants a token (HF_TOKEN) for it"
    return LareError(
        f"the data set {name} of task {task.config.task!r} can't be loaded: {type(cause).__name__}: {reason}\n"
        f"Looked in the cache {_resolve_hf_datasets_cache_dir()} and then on the Hugging Face Hub; {how}.\n"
        "Either run once where the Hub can be reached, or copy a filled cache there and name its parent in HF_HOME, "
        "or evaluate on the built-in stand-ins, which need no data: --tasks lare_mini"
    )


def give_up(error: LareError) -> NoReturn:
    """Raise the error; under the ``lmms-eval`` command end the process instead, with the message alone and code 1.

    Raises:
        LareError: If the program is any other.
        SystemExit: Under ``lmms-eval``, which catches every exception, prints its traceback and ends with code 0.
    """
    if _in_lmms_eval_command():
        raise SystemExit(f"lare: error: {error}") from None
    raise error from None


def _in_lmms_eval_command() -> bool:
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    return Path(sys.argv[0]).name in ("lmms-eval", "lmms_eval") or getattr(main, "name", "") == "lmms_eval.__main__"


def _offline() -> bool:
    truths = ("1", "true", "yes", "on")
    return any(os.environ.get(name, "").lower() in truths for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))
