"""Runs: killed at any moment they end as if they had not been; stages hand on weights; disks fill; frozen stays so."""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lare.errors import LareError
from lare.training.feeding.loader import Split
from lare.training.plan.config import RunConfig, StageConfig
from lare.training.saving.checkpoints import load_start
from lare.training.trainer import STOPPED, Plan, Trainer
from tests.processes import run_processes
from tests.training.plain import batches, processor, run_config, tiny_model, tiny_plan


def make_trainer(out: Path | str, **changes: Any) -> Trainer:
    model = tiny_model().float()
    return Trainer(run_config(out, **changes), model, processor(), tiny_plan(model))


def weights(out: Path) -> dict[str, torch.Tensor]:
    folders = sorted(path for path in out.glob("*/final"))
    assert len(folders) == 4
    files = ("model.safetensors", "heads.safetensors")
    return {f"{f.parent.name}/{k}": v for f in folders for name in files for k, v in load_file(f / name).items()}


def rows(out: Path, stages: tuple[str, ...]) -> list[dict[str, Any]]:
    found = []
    for path in (out / stage / "log.jsonl" for stage in stages):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found.append({k: row[k] for k in ("step", "losses", "counts", "gradient_norm", "rate")})
    return found


def same(left: Path, right: Path, stages: tuple[str, ...] = ("I", "II", "III", "IV")) -> None:
    """Bit by bit."""
    ours, theirs = (
        {name: value for name, value in weights(out).items() if name.startswith(tuple(f"{s}/" for s in stages))}
        for out in (left, right)
    )
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert rows(left, stages) == rows(right, stages)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    assert make_trainer(out).run() == 0
    return out


def _short() -> tuple[StageConfig, ...]:
    """All four stages, of two updates each."""
    return tuple(replace(stage, samples=2 * 16) for stage in run_config("").stages)


def _child(out: Path, started: Path) -> int:
    """Fork a process that trains, once it has made its model; returns its number."""
    started.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        trainer = make_trainer(out, stages=_short())
        started.touch()
        os._exit(trainer.run())
    while not started.exists():
        time.sleep(0.005)
    return child


def _killed(rank: int, port: int, folder: str, kills: str) -> None:
    """Fork, train, kill: until that many processes have died on the way and at least one run has come to its end."""
    torch.set_num_threads(1)
    model, stages = tiny_model(), _short()
    for stage, step in itertools.product(stages, range(2)):
        batches(stage, model).micro_batches(step)  # tokenizer and drawings are made once, before the forks
    home, rng, places, runs = Path(folder), random.Random(5), [], 0
    began = time.monotonic()
    assert os.waitpid(_child(home / "whole", home / "started"), 0)[1] == 0
    seconds = time.monotonic() - began  # of a whole run, here and now
    while len(places) < int(kills) or runs == 0:
        out = home / f"run{runs}"
        child = _child(out, home / "started")
        if len(places) < int(kills):
            time.sleep(rng.uniform(0, 0.6) * seconds)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            places.append(sorted(str(p.relative_to(out)) for p in out.glob("*/*") if p.is_dir())[-1:])
        else:
            assert status == 0
            runs += 1
    (home / "places.json").write_text(json.dumps(places))


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(tmp_path: Path, kills: int) -> None:
    run_processes(__file__, "_killed", 1, str(tmp_path), str(kills), timeout=900)
    done = [path for path in tmp_path.glob("run*") if (path / "IV" / "final").is_dir()]
    assert done
    for out in done:
        same(out, tmp_path / "whole")
    places = json.loads((tmp_path / "places.json").read_text())
    assert len(places) == kills and len({str(place) for place in places}) >= 3


def test_frozen_parts_stay_bit_for_bit(whole: Path) -> None:
    found = weights(whole)
    start = tiny_model().float().state_dict()
    names = [name for name in start if name.startswith("lare.vision_tower")]
    assert names
    for stage in ("I", "II", "III", "IV"):
        for name in names:
            assert torch.equal(found[f"{stage}/{name.removeprefix('lare.')}"], start[name]), (stage, name)
    # Stage II leaves the decoder alone; III does not.
    decoder = [n for n in found if n.startswith("I/language_model")]
    assert all(torch.equal(found[n], found[n.replace("I/", "II/", 1)]) for n in decoder)
    assert any(not torch.equal(found[n], found[n.replace("I/", "III/", 1)]) for n in decoder)


def test_checkpoints_tell_where_they_come_from(whole: Path) -> None:
    metas = [json.loads((whole / stage / "final" / "meta.json").read_text()) for stage in ("I", "II", "III", "IV")]
    assert [meta["stage"] for meta in metas] == ["I", "II", "III", "IV"]
    assert metas[0]["parent"] is None and len({meta["parent"] for meta in metas}) == 4
    assert all(meta["done"] and meta["step"] == meta["steps"] == 4 for meta in metas)
    assert {"data", "config", "commit", "torch", "random", "seconds"} <= metas[0].keys()
    steps = sorted(path.name for path in (whole / "III").glob("step-*"))
    assert steps == ["step-00000002", "step-00000003"]  # the last two; the end is in final


def test_sigterm_saves_and_ends(whole: Path, tmp_path: Path) -> None:
    model = tiny_model().float()

    class Interrupted(type(batches(run_config(tmp_path).stages[0], model))):  # type: ignore[misc]
        def micro_batches(self, step: int) -> Any:
            if step == 1 and self.stage.name == "II":
                os.kill(os.getpid(), signal.SIGTERM)
            return super().micro_batches(step)

    def make(stage: Any, number: int, split: Split) -> Any:
        made = batches(stage, model, split, number)
        made.__class__ = Interrupted
        return made

    before = signal.getsignal(signal.SIGTERM)
    config = run_config(tmp_path, save_every=100)
    assert Trainer(config, model, processor(), Plan(make)).run() == STOPPED
    assert signal.getsignal(signal.SIGTERM) is before
    assert [p.name for p in (tmp_path / "II").glob("step-*")] == ["step-00000002"]
    assert make_trainer(tmp_path, save_every=100).run() == 0
    same(tmp_path, whole)


def test_other_settings_are_not_resumed(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.stop = True
    assert trainer.run() == STOPPED
    other = run_config(tmp_path)
    changed = RunConfig(**{**vars(other), "stages": (_longer(other.stages[0]), *other.stages[1:])})
    model = tiny_model().float()
    with pytest.raises(LareError, match="number of updates"):
        Trainer(changed, model, processor(), tiny_plan(model)).run()


def _longer(stage: Any) -> Any:
    return type(stage)(**{**vars(stage), "samples": 10 * 16})


def _full_disk(rank: int, port: int, folder: str) -> None:
    trainer = make_trainer(folder)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with pytest.raises(LareError, match=r"can't be written|cannot write"):
        trainer.run()


def test_a_full_disk_loses_no_checkpoint(whole: Path, tmp_path: Path) -> None:
    first = make_trainer(tmp_path)
    first.stop = True
    assert first.run() == STOPPED
    kept = load_file(tmp_path / "I" / "step-00000001" / "state.safetensors")
    run_processes(__file__, "_full_disk", 1, str(tmp_path))
    again = load_file(tmp_path / "I" / "step-00000001" / "state.safetensors")
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert not list(tmp_path.glob("*/*.tmp"))
    assert make_trainer(tmp_path).run() == 0
    same(tmp_path, whole)


def test_a_run_may_start_from_another_runs_stage(whole: Path, tmp_path: Path) -> None:
    """And then is what that run went on to be."""
    config = run_config(tmp_path / "same", start=str(whole / "II"))
    model = tiny_model(seed=9).float()
    stages = config.stages[2:]
    # The plan's number seeds an update's draws, so the rest of the plan keeps its numbers by two stages that are done.
    shutil.copytree(whole / "I" / "final", tmp_path / "same" / "I" / "final")
    shutil.copytree(whole / "II" / "final", tmp_path / "same" / "II" / "final")
    assert Trainer(config, model, processor(), tiny_plan(model)).run() == 0
    same(tmp_path / "same", whole, ("III", "IV"))
    fresh = RunConfig(**{**vars(config), "stages": stages, "out": str(tmp_path / "rest")})
    model = tiny_model(seed=9).float()
    assert Trainer(fresh, model, processor(), tiny_plan(model)).run() == 0
    parent = json.loads((tmp_path / "rest" / "III" / "final" / "meta.json").read_text())["parent"]
    assert parent == json.loads((whole / "III" / "final" / "meta.json").read_text())["parent"]


def test_a_stage_may_begin_with_the_runs_start_and_not_with_the_stage_before(whole: Path, tmp_path: Path) -> None:
    """Whatever the stage before learnt, it ends in the same bits; killed and resumed as well."""

    def made(name: str, rate: float, **changes: Any) -> Trainer:
        stages = [replace(one, samples=32) for one in run_config(tmp_path).stages[2:]]
        stages = [replace(stages[0], learning_rate=rate), replace(stages[1], **changes)]
        config = run_config(tmp_path / name, start=str(whole / "II"), stages=tuple(stages))
        model = tiny_model(seed=9).float()
        return Trainer(config, model, processor(), tiny_plan(model))

    for name, rate in (("one", 1e-3), ("other", 3e-3)):
        assert made(name, rate, from_start=True).run() == 0
    shutil.copytree(tmp_path / "one" / "III", tmp_path / "resumed" / "III")
    stopped = made("resumed", 1e-3, from_start=True)
    stopped.stop = True
    assert stopped.run() == STOPPED and made("resumed", 1e-3, from_start=True).run() == 0
    assert made("on", 1e-3).run() == 0
    files = {
        name: load_file(tmp_path / name / "IV/final/model.safetensors") for name in ("one", "other", "resumed", "on")
    }
    for name, equal in (("other", True), ("resumed", True), ("on", False)):
        assert all(torch.equal(files["one"][key], files[name][key]) for key in files["one"]) is equal
    parents = [json.loads((tmp_path / f"one/{name}/final/meta.json").read_text())["parent"] for name in ("III", "IV")]
    assert parents[0] == parents[1]
    stages = tuple(replace(one, from_start=one.name == "IV") for one in run_config(tmp_path).stages)
    with pytest.raises(LareError, match="stage IV has from_start, but the run has no start"):
        make_trainer(tmp_path / "none", stages=stages).run()


def test_an_ablation_may_start_without_what_it_leaves_out(whole: Path, tmp_path: Path) -> None:
    plain = tiny_model(use_extractor=False, use_window=False).float()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    load_start(whole / "II", plain)
    after = plain.state_dict()
    assert not [name for name in after if "extractor" in name]
    assert any(not torch.equal(before[name], after[name]) for name in after if name.startswith("lare.language_model"))
    with pytest.raises(LareError, match="another model"):
        load_start(whole / "II", tiny_model(projector_dim=12).float())
    with pytest.raises(LareError, match="no finished stage"):
        load_start(tmp_path, plain)
