"""Array scripts for SLURM: one array task a run, starts before tuning before arms. Scheduling is the cluster's.

The tasks share the runs' folder, so it has to lie on a file system that all nodes see. Every task is ``lare experiments
run`` on one run, with its lock and its resuming, so a task that was requeued goes on from its last checkpoint.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from lare.errors import LareError
from lare.experiments.order import Choice
from lare.experiments.plan import Plan
from lare.files import save_text

__all__ = ["write_jobs"]

_HEAD = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --output={logs}/%x-%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
{lines}
# One line a run; the task's number chooses.
runs=(
{runs}
)
{command} ${{runs[$SLURM_ARRAY_TASK_ID]}} &
trap 'kill -TERM $!; wait $!' TERM
wait $!
"""


def write_jobs(
    plan: Plan, choice: Choice, out: Path, launcher: str = "", sbatch: Sequence[str] = (), more: Sequence[str] = ()
) -> list[Path]:
    """Write ``starts.sbatch``, ``tuning.sbatch`` and ``arms.sbatch``, as far as there are any, and ``submit.sh``.

    Args:
        plan: The grid.
        choice: The part of it that is wanted.
        out: Folder of the scripts.
        launcher: Command that starts training in place of Python.
        sbatch: Lines for each script, such as ``--gpus=1``.
        more: Further words for each ``lare experiments run``.

    Returns:
        The files.

    Raises:
        LareError: If nothing is wanted.
    """
    words = ["lare", "experiments", "run", str(plan.file), *more]
    command = shlex.join([*words, *(["--launcher", launcher] if launcher else [])])
    arrays = {name: runs for name, runs in _arrays(plan, choice).items() if runs}
    if not arrays:
        raise LareError("no run is wanted; leave --arms and --starts out")
    made = []
    for name, runs in arrays.items():
        text = _HEAD.format(
            name=f"{plan.grid.name}-{name}",
            last=len(runs) - 1,
            logs=out,
            lines="".join(f"#SBATCH {line}\n" for line in sbatch),
            runs="\n".join(f'  "{run}"' for run in runs),
            command=command,
        )
        made.append(out / f"{name}.sbatch")
        save_text(made[-1], text.rstrip("\n"))
    lines = ["#!/bin/bash", "# Each array begins when the one before it has ended well.", "set -e"]
    before = ""
    for name in arrays:
        after = f'--dependency="afterok:${before}" ' if before else ""
        lines.append(f"{name}=$(sbatch --parsable {after}{shlex.quote(str(out / f'{name}.sbatch'))})")
        before = name
    made.append(out / "submit.sh")
    save_text(made[-1], "\n".join([*lines, f'echo "submitted: {" ".join(f"${name}" for name in arrays)}"']))
    return made


def _arrays(plan: Plan, choice: Choice) -> dict[str, list[str]]:
    """Words that choose one run, by array."""
    starts = [f"--only-starts --starts {name}" for name in plan.starts if not choice.starts or name in choice.starts]
    tuning, arms = [], []
    for arm in choice.of(plan):
        for runs in plan.tuning_runs(arm).values():
            tuning += [_words(run.arm, run.start, run.seed, run.rate) for run in runs if choice.takes(run)]
        arms += [_words(run.arm, run.start, run.seed) for run in plan.arm_runs(arm) if choice.takes(run)]
    return {"starts": starts, "tuning": tuning, "arms": arms}


def _words(arm: str | None, start: str | None, seed: int, rate: float | None = None) -> str:
    found = f"--arms {arm} --seeds {seed}" + ("" if start is None else f" --starts {start}")
    return found if rate is None else f"{found} --rates {rate:g}"
