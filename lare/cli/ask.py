"""``lare ask IMAGE "QUESTION"``: one answer, and if wished the picture of how it was reached."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lare.cli.loading import add_checkpoint_option
from lare.cli.reply import Reply
from lare.commands import command_parser
from lare.errors import LareError

if TYPE_CHECKING:
    from lare.methods.base import Answer

__all__ = ["Reply", "main"]

_EPILOG = """examples:
  lare ask scene.png "What is left of the cat?"
  lare ask scene.png "What is left of the cat?" --trace how.html
  lare ask scene.png "Is there a dog?" --stop cosine:0.98 --json
  lare ask scene.png "Is there a dog?" --checkpoint runs/mine/IV/final --stop learned
  lare ask scene.png "Is there a dog?" --intervene zeros
"""


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("lare ask", "Answer one question about one image.", _EPILOG)
    parser.add_argument("image", metavar="IMAGE", help="path of an image file (PNG, JPEG, WEBP, ...)")
    parser.add_argument("question", metavar="QUESTION", help="the question, in quotes")
    add_checkpoint_option(parser)
    parser.add_argument(
        "--iterations", type=int, metavar="K", help="latent steps; 0 makes no latents; default: trained K"
    )
    parser.add_argument("--stop", metavar="RULE", help="when to stop thinking: fixed, cosine:C, l1:C, l2:C, learned")
    parser.add_argument(
        "--intervene", metavar="NAME", help="do something to the latents first; lare info --interventions lists what"
    )
    parser.add_argument("--intervene-from", metavar="DIR", help="traces to take other questions' latents from")
    parser.add_argument("--method", default="lare", metavar="NAME", help="what answers; lare info --methods lists them")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another option of the method, such as window_mode=random; can be given several times",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=64, metavar="N", help="longest text (default: %(default)s)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    parser.add_argument("--json", action="store_true", help="print the answer with its token counts and times as JSON")
    parser.add_argument("--trace", type=Path, metavar="OUT.html", help="also write where the model looked at each step")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lare ask`` and return the exit code."""
    options = _parser().parse_args(arguments)
    _check(options)
    from lare.images import load_image

    image = load_image(options.image)
    from lare.methods import load_method
    from lare.methods.base import Sampling

    method = load_method(options.method, options.checkpoint, options.device, **_method_options(options))
    if options.trace is not None and not hasattr(method.model.config, "use_window"):
        raise LareError("--trace draws where LaRe's own models look; leave it out, or evaluate with trace=DIR")
    sampling = Sampling(max_new_tokens=options.max_new_tokens)
    answer = method.answer([image], [options.question], sampling, trace=options.trace is not None)[0]
    reply = _reply(answer, options.checkpoint or "embedded")
    if options.trace is not None:
        from lare.cli.trace_html import seen_by, write_trace

        write_trace(options.trace, options.question, reply, seen_by(method, image), answer.arrays, method.model.config)
    print(json.dumps(asdict(reply), indent=2, ensure_ascii=False) if options.json else reply.answer)
    return 0


def _method_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the method that were given, all of them possible."""
    from lare.methods import get_method
    from lare.methods.options import parse_options

    names = ("iterations", "stop", "intervene", "intervene_from")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    given |= parse_options(options.option)
    get_method(options.method).options_type.read(options.method, given)
    return given


def _check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before seconds go into loading."""
    if not options.question.strip():
        raise LareError("the question is empty; write it in quotes after the image")
    if options.max_new_tokens < 1:
        raise LareError(f"--max-new-tokens is {options.max_new_tokens}; an answer needs at least 1")
    if options.iterations is not None and options.iterations < 0:
        raise LareError(f"--iterations is {options.iterations}; give 0 (no latent steps) or more")
    if options.trace is not None and not options.trace.absolute().parent.is_dir():
        raise LareError(f"the folder of --trace {str(options.trace)!r} doesn't exist; make it first")
    if options.trace is not None and options.trace.is_dir():
        raise LareError(f"--trace {str(options.trace)!r} is a folder; name the HTML file to write")


def _reply(answer: Answer, checkpoint: str) -> Reply:
    return Reply(
        answer=answer.text.rpartition("Answer:")[2].strip(),
        text=answer.text,
        latent_steps=answer.latent_steps,
        stop_reason=answer.stop_reason,
        output_tokens=answer.output_tokens,
        seconds={phase: round(seconds, 4) for phase, seconds in answer.seconds.items()},
        checkpoint=checkpoint,
    )
