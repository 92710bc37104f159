"""``lare train CONFIG.yaml [key=value ...]`` and ``lare train --resume RUN``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from lare.commands import command_parser
from lare.errors import LareError
from lare.files import write_whole
from lare.progress import note
from lare.training.plan.config import RunConfig
from lare.training.plan.run_file import load_run_config

__all__ = ["main"]

_EPILOG = """examples:
  lare train lare/configs/embedded.yaml
  lare train lare/configs/embedded.yaml out=runs/no_image losses.image=0 seed=1
  lare train --resume runs/embedded
  accelerate launch --config_file lare/configs/accelerate/ddp.yaml -m lare train lare/configs/qwen2_5_1_5b.yaml

A killed run goes on where its last checkpoint is, when the same command is given again or by --resume.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lare train``; returns 0 when the run is finished, 143 when SIGTERM ended it with a checkpoint."""
    parser = command_parser("lare train", "Train LaRe through the stages of a run file.", _EPILOG)
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG.yaml", help="the run file (see lare/configs)")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="change a value, such as stages.2.samples=1e5")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with the run in this folder")
    parser.add_argument("--dry-run", action="store_true", help="check the run file, print it whole, and end")
    options = parser.parse_intermixed_args(arguments)
    from lare.training.precision import settled  # brings torch, which --help does not wait for

    config = _config(options)
    if options.dry_run:
        print(yaml.safe_dump(config.to_dict(), sort_keys=False), end="")
        return 0
    launched = "LOCAL_RANK" in os.environ
    config = settled(config)
    _remember(config, first=int(os.environ.get("RANK", "0")) == 0)
    if config.processes > 1 and not launched:
        return _launch(config)
    return _train(config)


def _config(options: argparse.Namespace) -> RunConfig:
    if options.resume is not None:
        if options.config is not None:
            raise LareError("--resume takes its settings from the run; leave the run file and key=value words out")
        return load_run_config(options.resume / "run.yaml", [_out(options.resume)])
    if options.config is None:
        raise LareError("name a run file, such as lare/configs/embedded.yaml, or --resume RUN")
    return load_run_config(options.config, options.changes)


def _out(folder: Path | str) -> str:
    """``out=FOLDER``, quoted: a folder may be called 1 or ~."""
    return f"out={json.dumps(str(folder), ensure_ascii=False)}"


def _remember(config: RunConfig, first: bool) -> None:
    """Keep the configuration in the run's folder; refuse a folder in which another run has begun."""
    path = Path(config.out) / "run.yaml"
    text = yaml.safe_dump(config.to_dict(), sort_keys=False)
    if path.is_file() and _begun(path.parent):
        old = load_run_config(path, [_out(config.out)])
        if _identity(old) != _identity(config):
            raise LareError(
                f"{config.out!r} holds a run with other settings; give another out, or --resume {config.out}"
            )
    if first:
        write_whole(path, text, "change out")


def _begun(folder: Path) -> bool:
    """Whether anything was made that depends on the settings; packed data carry a fingerprint of their own."""
    return any(path.name not in ("run.yaml", "data") and path.suffix != ".tmp" for path in folder.iterdir())


def _identity(config: RunConfig) -> dict[str, object]:
    """What decides a run's weights."""
    free = ("workers", "save_every", "keep", "log_every", "validate_every", "tensorboard", "wandb")
    return {name: value for name, value in config.to_dict().items() if name not in free}


def _launch(config: RunConfig) -> int:
    """Make the files once, then start the processes; two on one thread each beat one on two threads."""
    from lare.training.prepare import Prepared

    Prepared(config).files()
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(config.processes)]
    words += ["-m", "lare", "train", "--resume", config.out]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "ACCELERATE_USE_CPU": "true"}
    process = subprocess.Popen(words, env=environment)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        code = process.wait()
    return code


def _train(config: RunConfig) -> int:
    from lare.training.distributed.sharding import make_accelerator
    from lare.training.precision import slow
    from lare.training.prepare import Prepared
    from lare.training.trainer import Trainer

    accelerator = make_accelerator()
    with accelerator.main_process_first():
        prepared = Prepared(config)
        prepared.files()
    if slow(config) and accelerator.is_main_process:
        note(f"this machine only imitates {config.precision} and is many times slower with it; give precision=auto")
    code = Trainer(config, prepared.model, prepared.processor, prepared.plan, accelerator).run()
    if code == 0 and accelerator.is_main_process:
        print(f"finished: {Path(config.out) / config.stages[-1].name / 'final'}")
    accelerator.end_training()
    return code
