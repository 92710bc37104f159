"""``lare ask`` and ``lare info`` on a tiny checkpoint with random weights."""

import contextlib
import io
import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from lare.cli import main
from lare.cli.info import parameter_counts
from lare.model import LareForConditionalGeneration
from tests.methods.tiny_checkpoint import pictures, write_checkpoint
from tests.processes import run_processes

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(write_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "scene.png"
    pictures(1)[0].save(path)
    return str(path)


def ask(capsys, *words):
    code = main(["ask", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def ask_json(capsys, *words):
    code, out, err = ask(capsys, *words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_answer(capsys, checkpoint, image):
    reply = ask_json(capsys, image, "Is there a dog?", "--checkpoint", checkpoint, "--max-new-tokens", "7")
    assert reply["latent_steps"] == 2 and reply["stop_reason"] == "fixed"
    assert reply["output_tokens"] <= 7
    assert set(reply["seconds"]) == {"vision", "prefill", "think", "decode"}
    assert reply["checkpoint"] == checkpoint
    code, out, _ = ask(capsys, image, "Is there a dog?", "--checkpoint", checkpoint, "--max-new-tokens", "7")
    assert code == 0 and out.strip() == reply["answer"]


@pytest.mark.parametrize(("options", "steps"), [(["--iterations", "0"], 0), (["--iterations", "5"], 5)])
def test_iterations(capsys, checkpoint, image, options, steps):
    words = [image, "Why?", "--checkpoint", checkpoint, "--max-new-tokens", "3", *options]
    assert ask_json(capsys, *words)["latent_steps"] == steps


def test_another_method_and_its_options(capsys, checkpoint, image):
    words = [image, "Why?", "--checkpoint", checkpoint, "--max-new-tokens", "3"]
    assert ask_json(capsys, *words, "--method", "llava", "--option", "image=blank")["latent_steps"] == 0
    steps = ask_json(capsys, *words, "--option", "window_mode=random", "--option", "iterations=3")["latent_steps"]
    assert steps == 3


def test_interventions_and_what_they_lack(capsys, checkpoint, image):
    words = [image, "Why?", "--checkpoint", checkpoint, "--max-new-tokens", "3", "--intervene"]
    assert ask_json(capsys, *words, "marks")["latent_steps"] == 0
    assert ask_json(capsys, *words, "more")["latent_steps"] == 4
    code, _, err = ask(capsys, *words, "other")
    assert code == 2 and "intervene_from" in err and err.count("\n") == 1
    code, _, err = ask(capsys, *words, "other", "--intervene-from", "nowhere")
    assert code == 2 and "nowhere" in err
    assert main(["info", "--interventions"]) == 0
    out = capsys.readouterr().out
    assert "zeros: Zeros" in out and "holds fixed prompt, image, marks" in out


def test_adaptive_stop(capsys, checkpoint, image):
    words = [image, "Why?", "--checkpoint", checkpoint, "--max-new-tokens", "3"]
    reply = ask_json(capsys, *words, "--stop", "l2:1000000")
    assert (reply["latent_steps"], reply["stop_reason"]) == (2, "converged")
    assert ask_json(capsys, *words, "--stop", "cosine:1")["stop_reason"] == "max_iterations"


@pytest.mark.parametrize("steps", [0, 2])
def test_trace(capsys, checkpoint, image, tmp_path, steps):
    path = tmp_path / "how.html"
    words = ["<b>Why</b>?", "--checkpoint", checkpoint, "--iterations", str(steps), "--max-new-tokens", "3"]
    code, _, err = ask(capsys, image, *words, "--trace", str(path))
    assert (code, err) == (0, "")
    page = path.read_text(encoding="utf-8")
    assert page.count("<img") == steps + 1
    assert "&lt;b&gt;Why&lt;/b&gt;?" in page and "<b>" not in page


def test_trace_does_not_change_the_answer(capsys, checkpoint, image, tmp_path):
    words = [image, "Why?", "--checkpoint", checkpoint, "--max-new-tokens", "9"]
    plain = ask_json(capsys, *words)
    assert ask_json(capsys, *words, "--trace", str(tmp_path / "t.html"))["text"] == plain["text"]


def test_checkpoint_defaults_to_the_embedded_one(capsys, checkpoint, image, monkeypatch):
    monkeypatch.setattr("lare.checkpoints.default_checkpoint", lambda: checkpoint)
    assert ask_json(capsys, image, "Why?", "--max-new-tokens", "2")["checkpoint"] == "embedded"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "none.png"}, "no file 'none.png'"),
        ({"question": " "}, "question is empty"),
        ({"question": "Why? " * 400}, "shorten the question"),
        ({"--max-new-tokens": "0"}, "--max-new-tokens is 0"),
        ({"--iterations": "-1"}, "--iterations is -1"),
        ({"--stop": "cosine:2"}, "cosine"),
        ({"--stop": "soon"}, "soon"),
        ({"--device": "abacus"}, "abacus"),
        ({"--device": ""}, "the device '' can't be used"),
        ({"--device": "meta"}, "the device 'meta' can't be used (Tensor.item() cannot be called on meta tensors)"),
        ({"--device": "hpu"}, "the device 'hpu' can't be used"),
        ({"--device": "vulkan"}, "the device 'vulkan' can't be used (Could not run"),
        ({"--checkpoint": "./nowhere"}, "no checkpoint folder './nowhere'"),
        ({"--checkpoint": "nowhere/at-all"}, "nowhere/at-all"),
        ({"--trace": "no/such/folder/how.html"}, "doesn't exist"),
        ({"--trace": "."}, "is a folder"),
        ({"--method": "nothing"}, "no method 'nothing'; choose from"),
        ({"--option": "crops=2"}, "the method 'lare' has no option 'crops'; it takes"),
        ({"--option": "device=cpu"}, "the method 'lare' has no option 'device'"),
        ({"--option": "window"}, "write name=value"),
    ],
)
def test_mistakes_are_one_line(capsys, checkpoint, image, changes, message):
    words = {"image": image, "question": "Why?", "--checkpoint": checkpoint} | changes
    options = [part for name, value in words.items() if name.startswith("--") for part in (name, value)]
    code, out, err = ask(capsys, words["image"], words["question"], *options)
    assert (code, out) == (2, "")
    assert err.startswith("lare: ") and err.count("\n") == 1
    assert message in err


def test_help_has_an_example(capsys):
    for command in ("ask", "info"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert f"\n  lare {command}" in capsys.readouterr().out


def test_info_lists_methods_and_their_options(capsys):
    assert main(["info", "--methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("llava: ") for line in lines)
    assert "  iterations (default None): latent iterations K; 0 makes no latents" in lines


def test_info_counts_parameters(capsys, checkpoint):
    assert main(["info", checkpoint, "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    model = LareForConditionalGeneration.from_pretrained(checkpoint)
    assert info["parameters"]["total"] == sum(tensor.numel() for tensor in model.state_dict().values())
    assert info["parameters"]["total"] == sum(info["parameters"].values()) / 2
    assert info["parameters"]["extractor"] == sum(tensor.numel() for tensor in model.extractor.state_dict().values())
    assert info["settings"]["refocus_source"] == "fine" and info["settings"]["window"] == 2
    assert info["text"]["hidden_size"] == 32
    assert info["bytes_on_disk"] > info["parameters"]["total"] * 4


def test_info_table(capsys, checkpoint):
    assert main(["info", checkpoint]) == 0
    printed = capsys.readouterr().out
    for word in ("parameters", "extractor", "refocus_source", "weights"):
        assert word in printed


def test_parameter_counts():
    assert parameter_counts({"a.b": [2, 3], "model.a.c": [], "d": [4]}) == {"total": 11, "a": 7, "d": 4}


def broken(folder, checkpoint, change):
    shutil.copytree(checkpoint, folder)
    change(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: (folder / "config.json").write_text("[]"), "model type None"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'), "'llama', not 'lare'"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no *.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"rubbish"), "is damaged"),
    ],
)
@pytest.mark.parametrize("command", ["info", "ask"])
def test_broken_checkpoints_are_one_line(capsys, checkpoint, image, tmp_path, change, message, command):
    folder = broken(tmp_path / "broken", checkpoint, change)
    words = ["info", folder] if command == "info" else ["ask", image, "Why?", "--checkpoint", folder]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("lare: ") and captured.err.count("\n") == 1
    if command == "info":
        assert message in captured.err


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m", "TemplateSyntaxError"),
        ("{{ messages | no_such_filter }}", "No filter named 'no_such_filter'"),
        ("{{ messages.nothing.at_all }}", "UndefinedError"),
        ("{{ raise_exception('not this one') }}", "not this one"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_broken_chat_template_is_one_line(capsys, checkpoint, image, tmp_path, template, message):
    folder = broken(tmp_path / "broken", checkpoint, lambda place: (place / "chat_template.jinja").write_text(template))
    code, out, err = ask(capsys, image, "Why?", "--checkpoint", folder)
    assert (code, out) == (2, "")
    assert err.startswith("lare: The chat template of ") and err.count("\n") == 1
    assert message in err and "mend its chat_template.jinja" in err


def _lost(rank, port, image, folder):
    """In a process of its own, whose address space allows the tiny model alone."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 2 * 2**30, held + 2 * 2**30))
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["ask", image, "Why?", "--checkpoint", folder]) == 2
    assert "language_model.model.embed_tokens.weight is (" in said.getvalue() and "(32000, 4096)" in said.getvalue()
    assert "put the text_config in it back" in said.getvalue()


def test_a_lost_text_configuration_allocates_nothing(checkpoint, image, tmp_path):
    """Its default is a 7B decoder."""

    def lose(folder):
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | {"text_config": {}}))

    folder = broken(tmp_path / "broken", checkpoint, lose)
    run_processes(__file__, "_lost", 1, image, folder)


def test_an_animated_transparent_picture_can_be_asked_about(capsys, checkpoint, tmp_path):
    path = tmp_path / "a.gif"
    frames = [Image.new("RGBA", (1, 30), (255, 0, 0, 0)), Image.new("RGBA", (1, 30), (0, 255, 0, 255))]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert ask_json(capsys, str(path), "Why?", "--checkpoint", checkpoint, "--max-new-tokens", "2")["text"] is not None
