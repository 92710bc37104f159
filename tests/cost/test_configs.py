"""The run files and accelerate's files: each loads, says the paper's numbers, and opens with a command that exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lare.backbones.assemble import check_settings
from lare.backbones.published import published
from lare.training.model import TrainingModel
from lare.training.plan.run_file import load_run_config
from lare.training.plan.stages import STAGES, freeze_all_but

from .test_sizes import WEIGHTS, batch_of, loss_of, row_of, tiny

CONFIGS = Path(__file__).parents[2] / "lare" / "configs"
FULL = ("qwen2_5_0_5b", "qwen2_5_1_5b", "qwen2_5_7b", "vicuna_7b", "llama3_2_1b")
RUNS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
LAUNCHES = sorted(path.stem for path in (CONFIGS / "accelerate").glob("*.yaml"))


def command_of(path: Path) -> list[str]:
    """The words of the command in a file's first comment."""
    comment = []
    for line in path.read_text(encoding="utf8").splitlines():
        if not line.startswith("#") or line.strip() == "#":
            break
        comment.append(line.removeprefix("#").strip().removesuffix("\\"))
    return shlex.split(" ".join(comment))


def test_there_is_a_file_for_each() -> None:
    assert set(FULL) | {"smollm2_135m"} <= set(RUNS)
    assert LAUNCHES == ["ddp", "fsdp", "zero2", "zero3"]


@pytest.mark.parametrize("name", RUNS)
def test_run_files_load(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    config = load_run_config(path)
    if config.model.text != "embedded":
        check_settings(config.model.settings)
        assert published(str(config.model.text)) is not None
    words = command_of(path)
    at = words.index("train")
    assert words[at + 1] == f"lare/configs/{name}.yaml"
    load_run_config(path, words[at + 2 :])
    if words[0] == "accelerate":
        # What accelerate itself makes of the words before ours.
        options = launch_command_parser().parse_args(words[2:])
        assert (options.module, options.training_script) == (True, "lare")
        assert (CONFIGS.parents[1] / options.config_file).is_file()
    else:
        assert words[0] == "lare"


@pytest.mark.parametrize("name", FULL)
def test_full_size_runs_say_what_the_paper_says(name: str) -> None:
    config = load_run_config(CONFIGS / f"{name}.yaml")
    assert [stage.stage for stage in config.stages] == ["I", "II", "III", "IV"]
    assert [stage.batch for stage in config.stages] == [256, 128, 128, 128]
    assert config.stages[0].learning_rate == config.stages[0].new_learning_rate == 1e-3
    assert {(s.learning_rate, s.new_learning_rate) for s in config.stages[1:]} == {(2e-5, 1e-4)}
    optimiser = config.optimiser
    assert (optimiser.weight_decay, optimiser.betas, optimiser.warmup) == (0.05, (0.9, 0.95), 0.03)
    assert config.precision == "bf16"
    files = [Path(str(source.path)).name for stage in config.stages for source in stage.data]
    mix = "llava_v1_5_mix665k.json"
    assert files == ["blip_laion_cc_sbu_558k.json", mix, mix, "vision_r1_llava_cot_full.json"]
    moved = load_run_config(CONFIGS / f"{name}.yaml", ["stages.0.data.0.path=x.json", "model.text=y", "out=z"])
    assert (moved.stages[0].data[0].path, moved.model.text, moved.out) == ("x.json", "y", "z")
    # A process of 8 takes whole passes.
    assert all(stage.batch // 8 % int(stage.micro_batch or 1) == 0 for stage in config.stages)


def test_smollm2_takes_a_gguf_file() -> None:
    config = load_run_config(CONFIGS / "smollm2_135m.yaml", ["model.text=FOLDER::SmolLM2-135M-Instruct.Q4_1.gguf"])
    assert config.model.vision == "efficientnet-lite0"
    steps = [int(stage.samples or 0) // stage.batch for stage in config.stages]
    assert 100 <= sum(steps) <= 1000
    assert all(source.format == "world" for stage in config.stages for source in stage.data)


@pytest.mark.parametrize("name", LAUNCHES)
def test_accelerate_takes_its_files(name: str) -> None:
    path = CONFIGS / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert (config.mixed_precision, config.num_processes) == ("bf16", 8)
    kind = {"ddp": DistributedType.MULTI_GPU, "fsdp": DistributedType.FSDP}.get(name, DistributedType.DEEPSPEED)
    assert config.distributed_type == kind
    if name.startswith("zero"):
        assert config.deepspeed_config["zero_stage"] == int(name[-1])
    run = CONFIGS / Path(command_of(path)[-1]).name
    assert run.stem in FULL and path.name == Path(command_of(path)[3]).name


def test_fsdp_takes_the_model_as_one_group() -> None:
    values = yaml.safe_load((CONFIGS / "accelerate" / "fsdp.yaml").read_text(encoding="utf8"))["fsdp_config"]
    assert values["fsdp_version"] == 2 and values["fsdp_auto_wrap_policy"] == "NO_WRAP"
    assert not values["fsdp_reshard_after_forward"] and not values["fsdp_activation_checkpointing"]


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_under_fsdp(stage: str, alone: None) -> None:
    """One group gathers and scatters through passes without gradient, without synchronisation, and with it."""
    plain, split = (TrainingModel(tiny(layers=2), 16) for _ in range(2))
    split.load_state_dict(plain.state_dict())
    for model in (plain, split):
        freeze_all_but(model, STAGES[stage].parts)
    batch = batch_of(plain.lare, row_of(stage))
    fully_shard(split, mesh=init_device_mesh("cpu", (1,)))
    with torch.no_grad():
        split(batch, WEIGHTS, vectors_only=True)
    for last in (False, True):
        split.set_requires_gradient_sync(last)
        loss_of(plain, batch).backward()
        loss_of(split, batch).backward()
    compared = 0
    for (name, ours), theirs in zip(split.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad, msg=name)
            compared += 1
    assert compared


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_no_places_of_one_machine(path: Path) -> None:
    assert not re.search(r"(?<![\w.])/(home|work|root|tmp|mnt|data)\b", path.read_text(encoding="utf8"))
