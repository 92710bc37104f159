"""What a command imports: what it uses. Help is instant; an answer brings in no training, evaluation or analysis."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_an_answer_is_all_that_ask_prints_and_imports(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    pictures(1)[0].save(tmp_path / "scene.png")
    words = ["ask", str(tmp_path / "scene.png"), "Is there a dog?", "--json"]
    words += ["--checkpoint", str(checkpoint), "--max-new-tokens", "2"]
    done, found = imported(tmp_path, MAIN, *words)
    assert done.stderr == ""
    assert json.loads(done.stdout)["latent_steps"] == 2
    assert "lare.model.generation" in found, "or nothing was answered"
    assert not found.intersection(UNUSED)
