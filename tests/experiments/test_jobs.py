"""Scripts for a cluster: they name every run, in order, and do the whole grid."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from lare.cli import main as lare
from tests.experiments.grids import FAKE, World

SBATCH = """#!/bin/bash
after=""; for word in "$@"; do case $word in --dependency=*) after=${word#*=};; esac; done
script="${@: -1}"
tasks=$(sed -n 's/^#SBATCH --array=0-//p' "$script")
for task in $(seq 0 $tasks); do SLURM_ARRAY_TASK_ID=$task bash "$script" >> "$HERE/out.txt" 2>&1 || exit 1; done
echo "$after $(basename "$script")" >> "$HERE/order.txt"
echo 7
"""


@pytest.mark.slow
def test_scripts_of_a_cluster_do_the_whole_grid(world: World) -> None:
    """`sbatch` is replaced by a program that runs an array's tasks one after the other, and `lare` by the fake runs."""
    world.write(tuning={"rates": [1.0, 2.0]})
    jobs_folder, bin_folder = world.folder / "jobs", world.folder / "bin"
    assert lare(world.words("jobs", "--out", str(jobs_folder), "--sbatch=--gpus=1")) == 0
    bin_folder.mkdir()
    (bin_folder / "sbatch").write_text(SBATCH)
    (bin_folder / "fake.py").write_text(FAKE.format(folder=str(world.folder)))
    (bin_folder / "lare").write_text(f'#!/bin/bash\nexec {sys.executable} {bin_folder}/fake.py "$@"\n')
    for name in ("sbatch", "lare"):
        (bin_folder / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "HERE": str(world.folder)}
    words = ["bash", str(jobs_folder / "submit.sh")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (world.folder / "out.txt").read_text()
    assert (world.folder / "order.txt").read_text().split("\n")[:3] == [
        " starts.sbatch", "afterok:7 tuning.sbatch", "afterok:7 arms.sbatch",
    ]  # fmt: skip
    text = (jobs_folder / "arms.sbatch").read_text()
    assert "#SBATCH --array=0-3" in text and "#SBATCH --gpus=1" in text
    assert len([name for name in world.rows if "__1__0__x2" in name]) == 3
    world.said()
    assert lare(world.words("run")) == 0 and world.said() == []  # nothing was left over


def test_arms_that_wait_for_what_was_not_asked_for_are_named(world: World, capsys: Any) -> None:
    world.write(tuning={"rates": [1.0, 2.0]})
    assert lare(world.words("run", "--only-starts")) == 0
    assert world.trained() == ["0", "1"]
    assert lare(world.words("run", "--starts", "1", "--arms", "lare")) == 2
    assert "not begun: lare 1 0; run the start, and the tuning" in capsys.readouterr().err and world.said() == []


def test_scripts_name_every_run(world: World) -> None:
    out = world.folder / "jobs"
    assert lare(world.words("jobs", "--out", str(out), "--launcher", "accelerate launch --config_file x")) == 0
    assert sorted(path.name for path in out.iterdir()) == ["arms.sbatch", "starts.sbatch", "submit.sh"]
    arms = (out / "arms.sbatch").read_text()
    assert arms.count("--arms") == 4 and "--launcher 'accelerate launch --config_file x'" in arms
    assert subprocess.run(["bash", "-n", str(out / "arms.sbatch")]).returncode == 0
