"""A declared grid of experiments, as a YAML file: starts, arms, asks, tasks, tuning and the primary contrast.

Paths are looked up from the working directory, beside the grid's file, and in the folder that LaRe lies in. ::

    title: Does looking pay?
    base: lare/configs/refocus.yaml            # the run file of every arm
    starts:                                    # independent starts, trained first
      - {seed: 0, base: lare/configs/neutral.yaml}
      - {seed: 1, base: lare/configs/neutral.yaml}
    seeds: [0]                                 # of the arms, on each start
    tasks: {validation: lare_mini_val, test: lare_mini}
    arms:
      lare:
        title: LaRe
        asks: {K4: {method: lare, iterations: 4}, K0: {method: lare, iterations: 0}}
      random:
        title: LaRe, trained and asked with random windows
        change: [stages.0.window=random, stages.1.window=random]
        asks: {K4: {method: lare, iterations: 4, window_mode: random}}
    tuning: {rates: [0.5, 1, 2]}               # every learning rate of the run file times these
    primary: {arm: lare, minus: random, exclude_families: [exist]}

A grid that repeats another at, say, twice the samples names it and what it changes. An arm given here adds to the
other's of that name, key by key; other keys replace the other's; the primary contrast is its own or none::

    like: comparison.yaml
    change: [stages.1.samples=89600]           # before the words of every arm
    arms:
      coconut: {change: [stages.1.samples=25600, stages.2.samples=25600]}
    tuning: {grid: comparison.yaml}            # the rates that were chosen there
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lare.errors import LareError, require
from lare.training.plan.run_file import read_yaml, typed

__all__ = ["SPLITS", "Arm", "Grid", "Primary", "Start", "Tuning", "find_file", "load_grid"]

SPLITS = ("validation", "test")
MEASURES = ("accuracy", "accuracy_when_multi_hop")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_OURS = ("seed", "out", "start")
"""Values of a run file that the grid sets itself."""


@dataclass(frozen=True)
class Start:
    """Weights that arms begin with: a run of its own, trained first.

    Attributes:
        base: Its run file.
        seed: Its seed.
        name: Its name; by default its place in the list.
        change: ``key=value`` words on its run file.
        stage: Stage whose weights arms begin with; None is the last.
        folder: Folder of the run under the runs' folder, where several grids share a start; None is one of the grid's.
        parts: ``shipped`` takes encoder and image tokenizer of the shipped checkpoints (`lare.embedded.parts`);
            ``own`` trains what the run file names.
    """

    base: str
    seed: int = 0
    name: str = ""
    change: tuple[str, ...] = ()
    stage: str | None = None
    folder: str | None = None
    parts: str = "own"

    def __post_init__(self) -> None:
        _check_words(f"start {self.name or self.base!r}", self.change)
        require(self.parts in ("own", "shipped"), f"start {self.name!r}: parts is {self.parts!r}; give own or shipped")
        place = Path(self.folder or ".")
        require(
            not place.is_absolute() and ".." not in place.parts,
            f"start {self.name!r}: folder is {self.folder!r}; give one under the runs' folder (--runs)",
        )


@dataclass(frozen=True)
class Arm:
    """One system that is compared: what it changes in the run file, and how it is asked.

    Attributes:
        title: Its title in tables and messages.
        change: ``key=value`` words on the run file.
        base: Its run file, in place of the grid's.
        supervision: Supervision beyond question, rationale and answer, such as ``boxes``; a column of the table.
        asks: Ways of asking the trained model by name: ``method`` and its options. The first is the arm's own; others
            are rows beside it.
        seeds: Its seeds; empty takes the grid's.
        starts: Names of the starts that it is trained from; empty is all.
    """

    title: str = ""
    change: tuple[str, ...] = ()
    base: str | None = None
    supervision: str = ""
    asks: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"lare": {"method": "lare"}})
    seeds: tuple[int, ...] = ()
    starts: tuple[str, ...] = ()

    @property
    def own(self) -> str:
        """Name of the first way of asking."""
        return next(iter(self.asks))


@dataclass(frozen=True)
class Tuning:
    """Learning rates that every arm tries, judged on validation.

    Attributes:
        rates: Factors on every learning rate of the run file.
        starts: Names of the starts on which they are tried; empty is the first.
        grid: Another grid's file, whose choice is taken for arms of the same name, in place of trying here.
    """

    rates: tuple[float, ...] = (1.0,)
    starts: tuple[str, ...] = ()
    grid: str = ""

    def __post_init__(self) -> None:
        require(
            not (self.grid and (len(self.rates) > 1 or self.starts)),
            "tuning has grid, whose rates are taken, and rates or starts to try; leave one out",
        )
        require(
            bool(self.rates) and all(rate > 0 for rate in self.rates) and len(set(self.rates)) == len(self.rates),
            f"tuning.rates is {list(self.rates)}; give different factors above 0",
        )


@dataclass(frozen=True)
class Primary:
    """The contrast that decides, declared before it is run.

    Attributes:
        arm: An arm, or ``arm/ask``.
        minus: The arm that it is compared with.
        measure: ``accuracy``, the mean over tasks of the share of right answers; ``accuracy_when_multi_hop`` counts
            questions of two hops or more only.
        exclude_families: Question families that can't show a difference.
        exclude_tasks: Tasks that can't.
        split: On which questions.
    """

    arm: str
    minus: str
    measure: str = "accuracy"
    exclude_families: tuple[str, ...] = ()
    exclude_tasks: tuple[str, ...] = ()
    split: str = "test"

    def __post_init__(self) -> None:
        require(self.measure in MEASURES, f"primary.measure is {self.measure!r}; give {' or '.join(MEASURES)}")
        require(self.split in SPLITS, f"primary.split is {self.split!r}; give {' or '.join(SPLITS)}")

    @property
    def least_hops(self) -> int:
        """Hops that a question needs at least to be counted."""
        return 2 if self.measure == "accuracy_when_multi_hop" else 0

    def hash(self) -> str:
        """Short SHA-256 of what is declared."""
        return hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Grid:
    """A whole grid.

    Attributes:
        base: Run file of the arms.
        arms: By name.
        starts: Independent starts; none trains every arm from nothing, and each seed is a start of its own.
        title: Its title in tables and messages.
        name: Its name, and that of its folders; by default the file's.
        seeds: Seeds of the arms on each start.
        tasks: lmms-eval group of the splits ``validation`` and ``test``.
        tuning: Learning rates to try.
        primary: The contrast that decides.
        batch: Questions asked at once.
    """

    base: str
    arms: Mapping[str, Arm]
    starts: tuple[Start, ...] = ()
    title: str = ""
    name: str = ""
    seeds: tuple[int, ...] = (0,)
    tasks: Mapping[str, str] = field(default_factory=lambda: {"validation": "lare_mini_val", "test": "lare_mini"})
    tuning: Tuning = field(default_factory=Tuning)
    primary: Primary | None = None
    batch: int = 32

    def __post_init__(self) -> None:
        require(bool(self.arms), "the grid has no arms; add some under arms")
        named = [replace(one, name=one.name or str(place)) for place, one in enumerate(self.starts)]
        object.__setattr__(self, "starts", tuple(named))
        names = [one.name for one in named]
        for name in (*names, *self.arms, *(ask for arm in self.arms.values() for ask in arm.asks)):
            _check_name(name)
        require(len(set(names)) == len(names), f"two starts are named alike ({', '.join(names)}); rename one")
        require(bool(self.seeds) and min(self.seeds) >= 0, f"seeds is {list(self.seeds)}; give whole numbers from 0")
        require(self.batch >= 1, f"batch is {self.batch}; give at least 1")
        unknown = sorted(set(self.tasks) - set(SPLITS))
        require(not unknown, f"tasks: there is no split {unknown[:1]}; give validation and test")
        require("validation" in self.tasks, "tasks has no validation; arms are compared and tuned on it")
        for name, arm in self.arms.items():
            self._check_arm(name, arm, names)
        self._check_starts("tuning", self.tuning.starts, names)
        for row in (self.primary.arm, self.primary.minus) if self.primary else ():
            self.row_of(row)

    def _check_arm(self, name: str, arm: Arm, starts: list[str]) -> None:
        _check_words(f"arm {name!r}", arm.change)
        require(bool(arm.asks), f"arm {name!r} is never asked; leave asks out, or add one")
        for ask, options in arm.asks.items():
            require("method" in options, f"arm {name!r}: its ask {ask!r} names no method; add one, such as lare")
        self._check_starts(f"arm {name!r}", arm.starts, starts)

    def _check_starts(self, where: str, chosen: tuple[str, ...], known: list[str]) -> None:
        wrong = [one for one in chosen if one not in known]
        require(not wrong, f"{where}: there is no start {', '.join(wrong)}; choose from {', '.join(known)}")

    def row_of(self, name: str) -> tuple[str, str]:
        """Arm and ask of ``arm`` or ``arm/ask``.

        Raises:
            LareError: If there is none.
        """
        arm, _, ask = name.partition("/")
        if arm not in self.arms:
            raise LareError(f"there is no arm {arm!r}; choose from {', '.join(self.arms)}")
        asks = self.arms[arm].asks
        if ask and ask not in asks:
            raise LareError(f"arm {arm!r} is not asked {ask!r}; choose from {', '.join(asks)}")
        return arm, ask or self.arms[arm].own


def load_grid(path: Path) -> Grid:
    """Read a grid.

    Raises:
        LareError: If the file can't be read, a key is unknown, or a value is impossible.
    """
    grid = typed(Grid, _whole(path), "")
    named = grid if grid.name else replace(grid, name=path.stem)
    _check_name(named.name)
    return named


def _whole(path: Path) -> dict[str, Any]:
    """What a grid's file says, with what it takes from the one that it is like.

    Raises:
        LareError: If a file can't be read, or that one is like another in turn.
    """
    own = dict(read_yaml(path, "grid"))
    words = own.pop("change", [])
    if "like" not in own:
        require(not words, f"{str(path)!r} has change but not like; give changes with starts and arms")
        return own
    other = find_file(str(own.pop("like")), path)
    taken = dict(read_yaml(other, "grid"))
    require("like" not in taken, f"{str(path)!r} is like {str(other)!r}, which is like another; name that one")
    for one in ("primary", "name"):
        taken.pop(one, None)
    taken["base"] = str(find_file(str(taken.get("base", "")), other))
    arms: Any = taken.get("arms")
    ours: Any = own.pop("arms", {})
    require(isinstance(arms, Mapping) and isinstance(ours, Mapping), f"{str(path)!r}: arms stand by their names")
    made = {name: _arm_like(arm, other) for name, arm in arms.items()} | {n: ours[n] for n in ours if n not in arms}
    changed = {name: _changed(arm, ours.get(name), words) for name, arm in made.items()}
    return {**taken, **own, "arms": changed}


def _changed(arm: Any, own: Any, words: Sequence[str]) -> Any:
    """An arm with further words and keys of its own; what is no mapping is left for the reader to refuse."""
    if not isinstance(arm, Mapping):
        return arm
    own = own if isinstance(own, Mapping) else {}
    further = own.get("change", ()) if own is not arm else ()
    return {**arm, **own, "change": [*words, *arm.get("change", ()), *further]}


def _arm_like(arm: Any, other: Path) -> Any:
    """An arm of another grid, whose files are named from there."""
    named = isinstance(arm, Mapping) and arm.get("base")
    return {**arm, "base": str(find_file(arm["base"], other))} if named else arm


def find_file(name: str, grid_file: Path) -> Path:
    """A file that a grid names: from the working directory, beside the grid's file, or in the folder LaRe lies in.

    Raises:
        LareError: If it is in none of them.
    """
    root = Path(__file__).parents[2]
    for path in (Path(name), grid_file.parent / name, root / name):
        if path.is_file():
            return path
    raise LareError(f"{str(grid_file)!r} names {name!r}, which is not there; give a path from the working directory")


def _check_name(name: str) -> None:
    require(
        bool(_NAME.fullmatch(name)) and "__" not in name,
        f"{name!r} names files; use letters, digits, single _, -, + and .",
    )


def _check_words(where: str, words: tuple[str, ...]) -> None:
    for word in words:
        key = word.partition("=")[0]
        require(key not in _OURS, f"{where} sets {key}; the grid does that itself, leave it out")
