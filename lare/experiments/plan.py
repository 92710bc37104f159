"""The runs of a grid: starts, then every arm on every start and seed, at the learning rates that are tried."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from lare.errors import LareError
from lare.experiments.grid import Arm, Grid, Start, find_file, load_grid
from lare.experiments.identity import definition, definition_hash, same_run, same_settings, weights_hash
from lare.training.plan.config import RunConfig
from lare.training.plan.run_file import load_run_config, read_yaml

__all__ = ["NOTE", "Plan", "Run", "scaled"]

NOTE = "experiment.json"
"""File of an arm's run that says what defines it."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        name: ``start NAME`` or ``ARM START SEED``, with the rate where it is not 1.
        place: Its folder; that of an arm ends in a hash of what defines it.
        config: Its settings, without `out` and `start`.
        last: Stage whose weights count.
        arm: Name of the arm; None is a start.
        start: Name of the start; None for an arm that begins from nothing.
        seed: Its seed.
        rate: Factor on the learning rates.
    """

    name: str
    place: Path
    config: RunConfig
    last: str
    arm: str | None = None
    start: str | None = None
    seed: int = 0
    rate: float = 1.0

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What defines it, beside the weights that it begins with."""
        return definition(self.config)

    def is_that(self, settings: Mapping[str, Any]) -> bool:
        """Whether settings that were written down are this run's; equal ones need no reading."""
        return same_settings(self.settings, settings) or same_run(self.config, settings)

    @property
    def stem(self) -> str:
        """How files about it begin."""
        return "__".join([str(self.arm), self.start or "none", str(self.seed)]) + (
            "" if self.rate == 1 else f"__x{self.rate:g}"
        )


def scaled(config: RunConfig, rate: float) -> RunConfig:
    """The run with every learning rate times `rate`."""
    if rate == 1:
        return config
    stages = tuple(
        replace(one, learning_rate=one.learning_rate * rate, new_learning_rate=one.new_learning_rate * rate)
        for one in config.stages
    )
    return replace(
        config, stages=stages, optimiser=replace(config.optimiser, matrix_rate=config.optimiser.matrix_rate * rate)
    )


class Plan:
    """A grid and where its runs and rows lie.

    Args:
        file: The grid's YAML file.
        runs: Folder of all runs.
        reports: Folder of all experiments' rows.
        limit: Questions of each task; None is all. Rows of fewer have a folder of their own.

    Raises:
        LareError: If the grid or a run file is impossible; all are read at once.
    """

    def __init__(
        self,
        file: Path,
        runs: Path = Path("runs"),
        reports: Path = Path("reports/experiments"),
        limit: int | None = None,
    ) -> None:
        self.file = file
        self.grid: Grid = load_grid(file)
        self.root = runs / "experiments" / self.grid.name
        self.limit = limit
        self.out = reports / (self.grid.name if limit is None else f"{self.grid.name}-first-{limit}")
        self.runs = runs
        chosen = self.grid.tuning.grid
        self.tuned_by = Plan(find_file(chosen, file), runs, reports) if chosen else None
        """The plan whose choice of learning rates is taken; None where they are tried here, if at all."""
        self._configs: dict[tuple[str, tuple[str, ...]], RunConfig] = {}
        self._made: dict[tuple[str, str | None, int, float], Run] = {}
        self.starts = {one.name: self._start(one) for one in self.grid.starts}
        for name in self.grid.arms:
            self._config(self._arm(name).base or self.grid.base, self._arm(name).change)

    def _arm(self, name: str) -> Arm:
        return self.grid.arms[name]

    def _config(self, base: str, words: Sequence[str]) -> RunConfig:
        key = (base, tuple(words))
        if key not in self._configs:
            found = load_run_config(find_file(base, self.file), words)
            self._configs[key] = replace(found, out="runs/lare", start=None)
        return self._configs[key]

    def _start(self, start: Start) -> Run:
        config = replace(self._config(start.base, start.change), seed=start.seed)
        names = [stage.name for stage in config.stages]
        last = start.stage or names[-1]
        if last not in names:
            raise LareError(f"start {start.name!r} has no stage {last!r}; choose from {', '.join(names)}")
        config = replace(config, stages=config.stages[: names.index(last) + 1])
        place = self.runs / start.folder if start.folder else self.root / "starts" / start.name
        return Run(f"start {start.name}", place, config, last, None, start.name, start.seed)

    def run(self, arm: str, start: str | None, seed: int, rate: float = 1.0) -> Run:
        """One run of an arm."""
        key = (arm, start, seed, rate)
        if key not in self._made:
            self._made[key] = self._run(*key)
        return self._made[key]

    def _run(self, arm: str, start: str | None, seed: int, rate: float) -> Run:
        chosen = self._arm(arm)
        config = scaled(replace(self._config(chosen.base or self.grid.base, chosen.change), seed=seed), rate)
        name = " ".join(one for one in (arm, start, str(seed)) if one is not None)
        name += "" if rate == 1 else f" x{rate:g}"
        bare = Run(name, self.root, config, config.stages[-1].name, arm, start, seed, rate)
        return replace(bare, place=self.root / "arms" / bare.stem)

    def arm_runs(self, arm: str, rate: float = 1.0) -> list[Run]:
        """All runs of an arm at one learning rate, start by start."""
        chosen = self._arm(arm)
        starts: Sequence[str | None] = chosen.starts or list(self.starts) or [None]
        return [self.run(arm, start, seed, rate) for start in starts for seed in chosen.seeds or self.grid.seeds]

    @property
    def tried(self) -> tuple[float, ...]:
        """Factors on the learning rates among which each arm's was chosen, here or in the grid that is named."""
        return (self.tuned_by or self).grid.tuning.rates

    def tuning_runs(self, arm: str) -> dict[float, list[Run]]:
        """Runs that decide an arm's learning rate, by rate; empty where there is one rate only, which is taken."""
        rates = self.grid.tuning.rates
        if len(rates) == 1:
            return {}
        own = self._arm(arm).starts or tuple(self.starts)
        wanted = [one for one in self.grid.tuning.starts if one in own] or list(own[:1])
        starts: Sequence[str | None] = wanted or [None]
        seed = (self._arm(arm).seeds or self.grid.seeds)[0]
        return {rate: [self.run(arm, start, seed, rate) for start in starts] for rate in rates}

    # On disk ---------------------------------------------------------------------------------------------------

    def start_hash(self, run: Run) -> str | None:
        """Hash of the weights that an arm begins with; None where they are not there (yet) or there are none."""
        return None if run.start is None else self.weights(self.starts[run.start])

    def weights(self, run: Run) -> str | None:
        """Hash of a finished run's weights; None where it is not finished here."""
        folder = self.folder(run)
        final = None if folder is None else folder / run.last / "final"
        if final is None or not (final / "meta.json").is_file():
            return None
        return _hash_at(final, (final / "meta.json").stat().st_mtime_ns)

    def folder(self, run: Run) -> Path | None:
        """A run's folder; None for an arm whose start is not trained, since its weights are part of what it is."""
        if run.arm is None:
            return run.place
        begin = self.start_hash(run)
        if run.start is not None and begin is None:
            return None
        own = run.place.with_name(f"{run.place.name}-{self.key(run, begin)[:8]}")
        for path in [own, *sorted(run.place.parent.glob(f"{run.place.name}-*"))]:
            if path.is_dir() and self._is(run, begin, path):
                return path
        return own

    def key(self, run: Run, begin: str | None) -> str:
        """Hash of what defines an arm's run: its settings and the weights that it begins with."""
        return definition_hash({"settings": run.settings, "start": begin})

    def _is(self, run: Run, begin: str | None, folder: Path) -> bool:
        """Whether a folder holds this run, whatever version of LaRe began it."""
        try:
            note = json.loads((folder / NOTE).read_text("utf-8"))
            return bool(note["start"] == begin and run.is_that(note["settings"]))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def trained(self, run: Run) -> bool:
        """Whether a run is finished here, with the settings that it has now.

        Raises:
            LareError: If a start's folder holds a run with other settings.
        """
        folder = self.folder(run)
        if folder is None or not (folder / "run.yaml").is_file():
            return False
        if run.arm is None and not self._begins(run, folder):
            raise LareError(
                f"{str(folder)!r} holds a run with other settings than {run.name}; move it away, or give the start "
                "another folder"
            )
        return (folder / run.last / "final" / "meta.json").is_file()

    def _begins(self, run: Run, folder: Path) -> bool:
        """Whether a start's folder holds it, or a run that goes on after the stage that arms begin with."""
        found = read_yaml(folder / "run.yaml", "run file")
        stages = found.get("stages")
        some = stages[: len(run.config.stages)] if isinstance(stages, list) else stages
        return run.is_that({**found, "stages": some})


@lru_cache(maxsize=1024)
def _hash_at(folder: Path, changed: int) -> str | None:
    """Hash of weights, read again only where the checkpoint was made anew."""
    return weights_hash(folder)
