"""Attention shares of two settings, paired by item, and the numbers that `analysis.attention.page` tests.

An item's score is the mean over layers and heads of the attention that falls on all visual tokens; items are the unit
of every test, never heads or layers. The trace keeps both rows that "from the first generated token" may mean: the one
that predicts the token, and the token's own (default in the headline).

From Python::

    from analysis.attention.measure import HEADLINE, compare, measures, read_side

    compared = compare(read_side("traces/K4", "mmstar"), read_side("traces/K0", "mmstar"))
    other, judged = measures(compared)["visual"][:, :, HEADLINE]  # percent, (n,) each
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.shared.options import Options, option
from analysis.shared.traces import frame, open_traces, pair, scores_beside, setting_of
from lare.errors import LareError
from lare.trace import TraceReader

__all__ = ["HEADLINE", "ROWS", "AttentionOptions", "Compared", "Side", "compare", "measures", "read_side"]

ROWS = ("predicting the first token", "of the first token")
"""The trace's two rows of attention."""

HEADLINE = 1
"""Index into `ROWS`: "from the first generated token", read literally, is the token's own row."""

LATENT_END = 1
"""Positions that the closing delimiter adds after the latents; the opening one ends the prompt."""

Values = npt.NDArray[np.float64]


TASK = "lare_mini_mmstar"


@dataclass(frozen=True)
class AttentionOptions(Options):
    """Options of the attention report.

    Attributes:
        traces: LaRe's traces, then LLaVA's; none takes the newest demo run's K4 and K0.
        task: Task whose items are compared.
        also: Traces of further settings to set beside the second.
        live: Questions to ask again; 0 for none.
        checkpoint: For `live`: both settings', or the first's and the second's; none for the one shipped with LaRe.
        cover: Colour of covered patches.
        draws: Random choices of patches.
        sinks: Numbers of visual sinks to leave out.
        samples: Items in the sample table.
        include_path: Folder of further task files, for `live` on own tasks.
    """

    name = "attention"
    example = "python analysis/attention.py --traces results/demo/RUN/traces/K4 results/demo/RUN/traces/K0"

    task: str = option(TASK, "task whose items are compared", metavar="TASK")
    also: tuple[str, ...] = option((), "traces of further settings to set beside the second", metavar="DIR")
    live: int = option(200, "questions to ask again; 0 for none", metavar="N")
    checkpoint: tuple[str, ...] = option((), "for --live: both settings', or the first's and the second's; default: "
                                         "the one shipped with LaRe", metavar="PATH")  # fmt: skip
    cover: str = option("mean", "colour of covered patches", choices=("mean", "grey"))
    draws: int = option(5, "random choices of patches", metavar="N")
    sinks: tuple[int, ...] = option((1, 2), "visual sinks to leave out", metavar="K")
    samples: int = option(60, "items in the sample table", metavar="N")
    include_path: str | None = option(None, "folder of further task files, for --live on own tasks", metavar="DIR")

    def __post_init__(self) -> None:
        if len(self.traces) not in (0, 2):
            raise LareError(f"--traces takes two directories, LaRe's and then LLaVA's, got {len(self.traces)}")
        if len(self.checkpoint) > 2:
            raise LareError(
                f"--checkpoint takes one path for both settings or two (LaRe's, LLaVA's), got {len(self.checkpoint)}"
            )
        if self.live < 0 or self.live == 1:
            raise LareError(f"--live is {self.live}; give 0 to leave these parts out, or 2 questions or more")
        if self.draws < 1:
            raise LareError(f"--draws is {self.draws}; give 1 random choice of patches or more")
        if min(self.sinks, default=1) < 1:
            raise LareError(f"--sinks holds {min(self.sinks)}; give numbers of positions from 1")


@dataclass(frozen=True)
class Side:
    """One model's answers to the task.

    Attributes:
        name: Name of the setting.
        table: What comes from `analysis.shared.traces.frame`, of the task.
        shares: One (rows, L, H, 4) array an answer, in the table's order.
        visual: (n,) visual tokens of each prompt.
        keys: (n,) positions that the predicting row spreads over; the token's own row has one more.
        checkpoint: Fingerprint of the weights.
        reader: The task's answers.
    """

    name: str
    table: pd.DataFrame
    shares: Sequence[npt.NDArray[np.float32]]
    visual: Values
    keys: Values
    checkpoint: str
    reader: TraceReader


@dataclass(frozen=True)
class Compared:
    """Both sides' shares of the paired items.

    Attributes:
        names: (A, B): B is judged against A.
        items: From `pair`, with columns ``_a`` and ``_b``; items that lack the token's own row are left out and listed.
        shares: (2, n, rows, L, H, 4): A, then B.
        visual: (2, n) visual tokens.
        keys: (2, n, rows) positions.
        lacking: Items left out because an answer ended before its first token's own row was seen.
        checkpoints: (A, B).
        readers: (A, B): the task's answers, for their other columns.
    """

    names: tuple[str, str]
    items: pd.DataFrame
    shares: npt.NDArray[np.float32]
    visual: Values
    keys: Values
    lacking: tuple[str, ...]
    checkpoints: tuple[str, str]
    readers: tuple[TraceReader, TraceReader]


def read_side(path: str | Path, task: str) -> Side:
    """Read one setting's answers to a task.

    Raises:
        LareError: If the trace is unusable, lacks the task, or was written without attention.
    """
    whole = open_traces([path])
    reader = whole.select(task=task)
    if not len(reader):
        tasks = ", ".join(sorted(set(whole.column("task"))))
        raise LareError(f"{str(path)!r} has no answers to {task!r}; it has {tasks}: choose one with --task")
    table = frame(reader, scores_beside([path]))
    shares = reader.column("attention_shares")
    if not any(len(shape) and shape[0] for shape in shares.shapes):
        raise LareError(f"{str(path)!r} holds no attention (column attention_shares); evaluate again with trace=")
    image, start = _token_ids(reader, path)
    prompts = list(reader.column("prompt_ids"))
    visual = np.array([int((ids == image).sum()) for ids in prompts], dtype=np.float64)
    delimited = np.array([bool(ids.size and ids[-1] == start) for ids in prompts])
    keys = table["input_tokens"].to_numpy(float) + table["latent_steps"].to_numpy(float) + LATENT_END * delimited
    if "attention_keys" in reader.columns:  # of a method that may write text and several blocks before its answer
        pairs = zip(reader.column("attention_keys"), keys, strict=True)
        keys = np.array([told[0] if told.size else usual for told, usual in pairs], dtype=np.float64)
    return Side(setting_of(path), table, shares, visual, keys, str(table["checkpoint"].iloc[0]), reader)


def _token_ids(reader: TraceReader, path: str | Path) -> tuple[int, int]:
    """Ids of the image token and of the token that opens the latents."""
    for info in reader.infos:
        config = info.get("config", {})
        if "image_token_id" in config:
            return int(config["image_token_id"]), int(config.get("latent_start_id", -1))
    raise LareError(f"{str(path)!r} does not say which token is the image's (config.image_token_id); evaluate again")


def compare(judged: Side, other: Side) -> Compared:
    """Pair two sides by item.

    Raises:
        LareError: If items differ, or the backbones do (layers, heads).
    """
    both = pair(other.table, judged.table, (other.name, judged.name))
    kept: list[int] = []
    lacking: list[int] = []
    for position, (left, right) in enumerate(zip(both["row_a"], both["row_b"], strict=True)):
        whole = min(other.shares[left].shape[0], judged.shares[right].shape[0]) == len(ROWS)
        (kept if whole else lacking).append(position)
    if not kept:
        raise LareError(f"no item has the first token's own row in both {other.name} and {judged.name}; allow 2 tokens")
    items = both.iloc[kept].reset_index(drop=True)
    sizes = {side.shares[row].shape[1:3] for side, name in ((other, "row_a"), (judged, "row_b")) for row in items[name]}
    if len(sizes) > 1:
        found = " and ".join(f"{layers} x {heads}" for layers, heads in sorted(sizes))
        raise LareError(f"{other.name} and {judged.name} have {found} layers x heads: give the same backbone twice")
    stacks, visual, keys = [], [], []
    for side, name in ((other, "row_a"), (judged, "row_b")):
        rows = items[name].to_numpy()
        stacks.append(np.stack([side.shares[row] for row in rows]))
        visual.append(side.visual[rows])
        keys.append(np.stack([side.keys[rows], side.keys[rows] + 1], axis=1))
    absent = tuple(f"{both['task'][row]} {both['doc_id'][row]}" for row in lacking)
    names = (other.name, judged.name)
    checkpoints = (other.checkpoint, judged.checkpoint)
    readers = (other.reader, judged.reader)
    return Compared(names, items, np.stack(stacks), np.stack(visual), np.stack(keys), absent, checkpoints, readers)


def measures(compared: Compared) -> dict[str, npt.NDArray[np.float64]]:
    """Per-item numbers by name, each (2, n, rows): A, then B.

    ``visual`` and ``visual + latent`` are sums in percent; ``visual without first`` is the share of what does not fall
    on the sequence's first token (an attention sink), renormalised in each head; ``per token`` is the mean per visual
    token; ``lift`` is the share by the share that even attention would give.
    """
    shares = compared.shares.astype(np.float64)
    visual, rest = shares[..., 2], 1 - shares[..., 0]
    total = 100 * visual.mean((3, 4))
    counts = compared.visual[:, :, None]
    return {
        "visual": total,
        "visual without first": 100 * (visual / np.maximum(rest, 1e-12)).mean((3, 4)),
        "visual + latent": 100 * (visual + shares[..., 3]).mean((3, 4)),
        "per token": total / 100 / np.maximum(counts, 1),
        "lift": total / 100 / np.maximum(counts / compared.keys, 1e-12),
    }
