"""The ``lare`` command itself: help, errors in one line, exit codes, and quick starts."""

import os
import subprocess
import sys
import types

import pytest

from lare import __version__
from lare.cli import _COMMANDS, main
from lare.errors import LareError


@pytest.fixture
def command(monkeypatch):
    """Replace the module of a sub-command by one whose main is the given function."""

    def install(name, function):
        monkeypatch.setitem(sys.modules, _COMMANDS[name].module, types.SimpleNamespace(main=function))

    return install


def raising(error):
    def function(arguments):
        raise error

    return function


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_with_an_example(words, capsys):
    assert main(words) == 0
    printed = capsys.readouterr().out
    for name, entry in _COMMANDS.items():
        assert f"\n  {name} " in printed
        assert entry.example in printed


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"lare {__version__}"


def test_unknown_command(capsys):
    assert main(["aks", "x.png"]) == 2
    assert capsys.readouterr().err == (
        "lare: there is no command 'aks'; choose one of ask, eval, compare, trace, train, experiments, halting, data, "
        "fetch, export, world, info (see lare --help)\n"
    )


def test_arguments_and_exit_code_are_passed_through(command):
    seen = []
    command("eval", lambda arguments: seen.append(arguments) or 3)
    assert main(["eval", "--tasks", "pope", "--help"]) == 3
    assert seen == [["--tasks", "pope", "--help"]]
    command("world", lambda arguments: None)
    assert main(["world"]) == 0


def test_error_is_one_line_without_traceback(command, capsys):
    command("world", raising(LareError("the thing\n  is wrong;\nmend it")))
    assert main(["world"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "lare: the thing is wrong; mend it\n"
    assert captured.out == ""


def test_faults_of_lare_are_not_hidden(command):
    command("world", raising(RuntimeError("a fault")))
    with pytest.raises(RuntimeError):
        main(["world"])


def test_interrupt(command, capsys):
    command("world", raising(KeyboardInterrupt()))
    assert main(["world"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr("lare.cli.importlib.import_module", raising(ModuleNotFoundError("x", name="lmms_eval.api")))
    assert main(["eval"]) == 2
    assert "pip install 'lare[eval]'" in capsys.readouterr().err


def test_other_missing_modules_are_faults(monkeypatch):
    monkeypatch.setattr("lare.cli.importlib.import_module", raising(ModuleNotFoundError("x", name="something")))
    with pytest.raises(ModuleNotFoundError):
        main(["eval"])


def test_help_is_quick():
    """0.5 s of a processor, since by the clock a busy machine would fail it; the best of three."""
    times = []
    for _ in range(3):
        start = os.times()
        result = subprocess.run([sys.executable, "-m", "lare", "--help"], capture_output=True, text=True, check=True)
        end = os.times()
        times.append(end.children_user + end.children_system - start.children_user - start.children_system)
    assert "usage: lare" in result.stdout
    assert 0 < min(times) < 0.5


def test_closed_pipe_is_quiet():
    script = f"{sys.executable} -m lare --help | true"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert result.stderr == ""
