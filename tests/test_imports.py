"""What a command imports: what it uses. Help is instant; an answer brings in no training, evaluation or analysis."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CLIPVisionConfig

from lare.embedded.vision_conv import LareVisionConfig, LareVisionModel
from tests.methods.tiny_checkpoint import pictures, write_checkpoint

HEAVY = ("numpy", "PIL", "torch", "torchvision", "transformers", "scipy", "tokenizers")
UNUSED = (
    "analysis",
    "datasets",
    "diffusers",
    "lare.cost",
    "lare.embedded.world",
    "lare.experiments",
    "lare.losses",
    "lare.training",
    "lare_eval",
    "lmms_eval",
    "matplotlib",
    "pandas",
    "sklearn",
    "statsmodels",
    "tensorboard",
    "timm",
)

SCRIPT = """
import sys
sys.argv = ["lare", *sys.argv[1:]]
{code}
print("\\n" + "\\n".join(sys.modules), file=open({out!r}, "w"))
"""
MAIN = """
from lare.cli import main
try:
    main()
except SystemExit:
    pass
"""


def imported(tmp_path: Path, code: str, *words: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run code in a process of its own; what it printed, and what it has imported then."""
    out = tmp_path / "modules"
    script = [sys.executable, "-c", SCRIPT.format(code=code, out=str(out)), *words]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    return done, set(out.read_text(encoding="utf8").split())


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import lare", ()),
        (MAIN, ("--help",)),
        (MAIN, ("ask", "--help")),
        (MAIN, ("info",)),
        (MAIN, ("train", "--help")),
    ],
    ids=["import lare", "--help", "ask --help", "info", "train --help"],
)
def test_what_needs_no_model_loads_none(tmp_path: Path, code: str, words: tuple[str, ...]) -> None:
    done, found = imported(tmp_path, code, *words)
    assert done.stderr == "" and ("lare" in done.stdout) is bool(words)
    assert "lare" in found
    needed = ("numpy",) if words == ("info",) else ()  # reads the headers of weight files
    assert not found.intersection(set(HEAVY) - set(needed))


_STEPS = """
import json, os, sys

def begin(name):
    sys.stdout.flush(), sys.stderr.flush()
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}.{stream}", os.O_CREAT | os.O_WRONLY), number)

def end(name):
    with open(f"{folder}/{name}.modules", "w") as file:
        file.write("\\n".join(sys.modules))

folder, checkpoint, picture, encoder = sys.argv[1:]

begin("register")
import importlib.util, lare
assert importlib.util.find_spec("transformers") is not None and "transformers" not in sys.modules
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText
AutoConfig.for_model("lare"), AutoModelForImageTextToText._model_mapping[lare.LareConfig]
assert not any("Watcher" in type(finder).__name__ for finder in sys.meta_path)
import transformers
assert type(transformers.__spec__.loader).__name__ == "SourceFileLoader"
end("register")

begin("ask")
from lare.cli import main
assert main(["ask", picture, "Is there a dog?", "--json", "--checkpoint", checkpoint, "--max-new-tokens", "2"]) == 0
end("ask")

begin("train")
assert main(["train", "lare/configs/qwen2_5_1_5b.yaml", "--dry-run"]) == 0
import lare.training.prepare, lare.cost.sizes
end("train")

begin("encoder")
config = AutoConfig.from_pretrained(str(lare.default_checkpoint())).vision_config
assert type(config) is type(AutoConfig.for_model("lare_vision")) is type(AutoConfig.from_pretrained(encoder))
assert AutoModel.from_pretrained(encoder).config.image_size == 64
end("encoder")
"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of what a new process, which begins with ``import lare``, printed and had imported after each step."""
    folder = tmp_path_factory.mktemp("steps")
    vision = CLIPVisionConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=3,
                              image_size=64, patch_size=16)  # fmt: skip
    checkpoint = write_checkpoint(folder / "checkpoint", vision=vision)
    pictures(1)[0].save(folder / "scene.png")
    LareVisionModel(LareVisionConfig(image_size=64, widths=(4, 4, 8, 8))).save_pretrained(folder / "encoder")
    words = [str(place) for place in (folder, checkpoint, folder / "scene.png", folder / "encoder")]
    command = [sys.executable, "-W", "error::ImportWarning", "-c", _STEPS, *words]
    done = subprocess.run(command, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, "\n".join(path.read_text() for path in folder.glob("*.err"))
    return folder


def modules(steps: Path, step: str) -> set[str]:
    return set((steps / f"{step}.modules").read_text(encoding="utf8").split())


def test_importing_lare_first_registers_it_with_transformers(steps: Path) -> None:
    """A mere probe for transformers, as accelerate does one, must not use the registration up."""
    assert (steps / "register.out").read_text() == (steps / "register.err").read_text() == ""
    assert "lare.model" in modules(steps, "register")


def test_an_answer_is_all_that_ask_prints_and_imports(steps: Path) -> None:
    assert (steps / "ask.err").read_text() == ""
    assert json.loads((steps / "ask.out").read_text())["latent_steps"] == 2
    found = modules(steps, "ask")
    assert "lare.model.generation" in found, "or nothing was answered"
    assert not found.intersection(UNUSED)


def test_training_a_full_size_model_loads_nothing_of_the_embedded_world(steps: Path) -> None:
    found = modules(steps, "train")
    assert {"lare.training.prepare", "lare.cost.sizes"} <= found
    assert not [name for name in found if "embedded" in name]


def test_transformers_finds_a_registered_encoder_when_it_is_asked_for(steps: Path) -> None:
    """By name, from a folder, inside a LaRe checkpoint."""
    assert "lare.embedded.vision_conv" in modules(steps, "encoder") - modules(steps, "train")
