"""What `import lare` promises: it is cheap, and it registers the model with transformers whatever is imported first."""

import subprocess
import sys
from pathlib import Path

import pytest

import lare

ROOT = Path(__file__).parents[1]


def run(code):
    return subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], capture_output=True, text=True)


def test_import_is_light():
    result = run("import sys, lare, lare.cli; print([m for m in ('torch', 'transformers', 'PIL') if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


REGISTERED = "AutoConfig.for_model('lare'); AutoModelForImageTextToText._model_mapping[lare.LareConfig]"


def test_importing_lare_last_is_enough():
    result = run(f"from transformers import AutoConfig, AutoModelForImageTextToText\nimport lare\n{REGISTERED}")
    assert result.returncode == 0, result.stderr


def test_broken_model_does_not_break_transformers():
    code = (
        "import sys, warnings; sys.modules['lare.model'] = None; import lare\n"
        "warnings.simplefilter('always')\n"
        "import transformers; print(transformers.__version__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "not registered" in result.stderr


@pytest.mark.parametrize("name", [name for name in lare.__all__ if name != "default_checkpoint"])
def test_public_names_exist(name):
    assert getattr(lare, name) is not None


def test_unknown_name():
    with pytest.raises(AttributeError, match="no_such"):
        lare.no_such  # noqa: B018


def test_project_file():
    project = (ROOT / "pyproject.toml").read_text()
    assert 'lare = "lare.cli:main"' in project
    assert '[project.entry-points."lmms_eval.models"]\nlare = "lare_eval.manifest:manifests"' in project
    assert '"torch",' in project and "torchvision==" not in project and "torch==" not in project
