"""Presets from the command line of lmms-eval, and by `lare ask`."""

import numpy as np
import pytest

from lare.cli import main
from lare.reasoners import load_preset
from lare.trace import TraceReader
from tests.reasoners import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("checkpoint"), load_preset("mirage"), "qwen2_5_vl")


@pytest.mark.slow
def test_lmms_eval_asks_a_preset_and_traces_it(folder, tmp_path):
    from lare_eval.models import adapter_class
    from lare_eval.passes import evaluate_pass

    arguments = f"pretrained={folder},preset=mirage,iterations=2,batch_size=2,max_new_tokens=4"
    adapter = adapter_class("feedback").create_from_arg_string(arguments, {"device": "cpu"})
    (method,) = adapter._method
    assert method.options.preset == "mirage" and method.block.count == 2
    found = evaluate_pass("mirage", method.changed(iterations=3), ["lare_mini_pope"], tmp_path, 4, 4)
    traces = TraceReader(tmp_path / "traces" / "mirage")
    assert len(found.scores["lare_mini_pope"]) == len(traces.column("text")) == 4
    assert traces.infos[0]["arguments"]["preset"] == "mirage" and set(traces.column("method")) == {"feedback"}
    for latents, blocks, steps in zip(*map(traces.column, ("latents", "blocks", "latent_steps")), strict=True):
        assert len(latents) == steps == blocks.sum() and np.isfinite(latents).all()


def test_lare_ask(folder, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    tiny.pictures(1)[0].save(picture)
    words = ["ask", str(picture), "What?", "--method", "feedback", "--checkpoint", str(folder), "--max-new-tokens", "4"]
    assert main([*words, "--iterations", "2", "--json"]) == 0
    assert '"latent_steps"' in capsys.readouterr().out
    assert main([*words, "--trace", str(tmp_path / "how.html")]) == 2
    assert "leave it out, or evaluate with trace=DIR" in capsys.readouterr().err
    assert main(["ask", str(picture), "What?", "--method", "slots", "--checkpoint", str(folder)]) == 2
    assert "preset" in capsys.readouterr().err
