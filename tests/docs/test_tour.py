"""The notebook docs/tour.ipynb runs from top to bottom and shows what its text says."""

import contextlib
import io
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOUR = ROOT / "docs" / "tour.ipynb"

pytestmark = pytest.mark.skipif(not TOUR.exists(), reason="runs in a checkout only")


def cells():
    """Source of every code cell."""
    content = json.loads(TOUR.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def test_every_cell_runs(monkeypatch):
    """In this process, whose imports are done; the test below does it in a kernel."""
    pytest.importorskip("lmms_eval")
    monkeypatch.chdir(ROOT / "docs")
    names, printed = {"__name__": "tour"}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        for number, source in enumerate(cells()):
            exec(compile(source, f"tour.ipynb, code cell {number}", "exec"), names)
    assert names["code"] == 0 and len(names["reader"]) == 12
    assert len(names["windows"]) == names["model"].config.iterations == int(names["answer"].steps[0])
    assert names["record"].latents.shape[0] == 4
    answers = names["answers"]
    assert answers["own latents"] != answers["zeros"], "taking the latents away must show"
    score = {name: sum(map(str.__eq__, given, names["right"])) for name, given in answers.items()}
    assert score["own latents"] > max(score["zeros"], score["no latents"])
    assert "lare_mini_pope" in printed.getvalue()


def test_shown_outputs_are_of_these_cells_and_small():
    content = json.loads(TOUR.read_text(encoding="utf-8"))
    assert TOUR.stat().st_size <= 250_000
    shown = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] == number for number, cell in enumerate(shown, 1))
    assert not any(output["output_type"] == "error" for cell in shown for output in cell["outputs"])


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel():
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(TOUR, 4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "docs")}}).execute()
    assert "exit code 0" in str(notebook.cells[-4].outputs)
