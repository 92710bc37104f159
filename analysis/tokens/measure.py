"""What answers cost, setting by setting, on the same questions.

From Python::

    from analysis.tokens.measure import TokensOptions, measure

    found = measure(TokensOptions(traces=("results/demo/RUN/traces/K4", "results/demo/RUN/traces/text")))
    {name: one["output_tokens"].mean() for name, one in found.settings.items()}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.shared.options import Options
from analysis.shared.tasks import Apart, find_apart
from analysis.shared.traces import demo_run, demo_traces, frame, open_traces, pair, scores_beside, setting_of
from lare.errors import LareError

__all__ = ["TOKENS", "Measured", "TokensOptions", "measure", "moves_of_tokens", "read_settings"]

DEMO = ("K4", "K0", "text", "fine")
"""Settings of a demo run that are compared by default: the first is judged."""

TOKENS = 1.0
"""Text tokens by which a task must move otherwise than the rest to be set aside: the least that a reader can see."""


@dataclass(frozen=True)
class TokensOptions(Options):
    """Options of the costs: `traces`, judged first, then the others; none takes the newest demo run's."""

    name = "tokens"
    example = "python analysis/tokens.py --traces results/demo/RUN/traces/K4 results/demo/RUN/traces/text"


@dataclass(frozen=True)
class Measured:
    """Settings on the same questions.

    Attributes:
        settings: Frames by setting's name, with scores; the judged one first.
        pairs: Each other setting beside the judged one, by its name.
        apart: Tasks apart, by the other setting's name.
    """

    settings: dict[str, pd.DataFrame]
    pairs: dict[str, pd.DataFrame]
    apart: dict[str, Apart]


def measure(options: TokensOptions) -> Measured:
    """Read the settings and pair each with the judged one.

    Raises:
        LareError: If scores are missing, or settings answered different questions.
    """
    settings = read_settings(options.traces or _demo())
    judged, *others = settings
    pairs = {name: pair(settings[name], settings[judged], (name, judged)) for name in others}
    return Measured(settings, pairs, {name: moves_of_tokens(items, (name, judged)) for name, items in pairs.items()})


def _demo() -> list[Path]:
    traces = demo_run() / "traces"
    return [demo_traces(name) for name in DEMO if name in DEMO[:2] or (traces / name).is_dir()]


def read_settings(paths: Sequence[str | Path]) -> dict[str, pd.DataFrame]:
    """Frames by setting's name, with scores.

    Raises:
        LareError: If there are fewer than two settings, two of one name, or no scores beside the traces.
    """
    if len(paths) < 2:
        raise LareError("tokens needs two settings or more: --traces JUDGED OTHER [OTHER ...]")
    settings: dict[str, pd.DataFrame] = {}
    for path in paths:
        name = setting_of(path)
        if name in settings:
            raise LareError(f"two of the trace directories are called {name!r}; rename one, the reports go by names")
        scores = scores_beside([path])
        if scores is None:
            raise LareError(
                f"there are no scores beside {str(path)!r} (looked for ../../scores/{name}.json): right and wrong are "
                "needed; run `make demo`, or put the scores there"
            )
        settings[name] = frame(open_traces([path]), scores)
    return settings


def moves_of_tokens(items: pd.DataFrame, names: tuple[str, str]) -> Apart:
    """Which tasks' text tokens move against the rest from another setting to the judged one; both right."""
    both = items[(items["score_a"] >= 1) & (items["score_b"] >= 1)]
    if both.empty:
        return Apart((), ())
    tokens = both[["output_tokens_a", "output_tokens_b"]].to_numpy(float)
    tasks = both["task"].astype(str).tolist()
    return find_apart(tokens, tasks, both["cluster"], names, [(0, 1)], TOKENS, "tokens")
