"""Models to probe: with the Extractor, without it, and with random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from analysis.probe.experiment import Model
from analysis.probe.heads import Heads, random_heads, trained_heads
from analysis.probe.instances import Asked, asked_in, embed, from_world, run_traces
from analysis.shared.traces import open_traces
from lare.errors import LareError
from lare.methods import load_method
from lare.methods.lare import Lare

if TYPE_CHECKING:
    from lare.methods.base import Method

__all__ = ["Chosen", "Named", "gather", "named"]

CACHE = Path("results/probe")


@dataclass(frozen=True)
class Named:
    """A checkpoint as the command line names it.

    Attributes:
        backbone: Models of one backbone are compared with one another.
        checkpoint: Folder, hub id or shipped name; None for the default one.
        without: Whether it was trained without the Extractor.
    """

    backbone: str
    checkpoint: str | None
    without: bool


@dataclass(frozen=True)
class Chosen:
    """What is probed.

    Attributes:
        models: All over the same instances.
        hashes: Fingerprints by name.
        left_out: Answers of given traces that can't be probed.
    """

    models: tuple[Model, ...]
    hashes: dict[str, str]
    left_out: int


def named(given: Sequence[str] | None) -> list[Named]:
    """Read ``NAME=CHECKPOINT`` and ``NAME=CHECKPOINT:without``.

    Raises:
        LareError: If one is of another form, or given twice.
    """
    if not given:
        return [Named("embedded", None, False)]
    found = []
    for text in given:
        name, equals, place = text.partition("=")
        without = place.endswith(":without")
        place = place.removesuffix(":without")
        if not (name and equals and place):
            raise LareError(f"--model is {text!r}; give NAME=CHECKPOINT, or NAME=CHECKPOINT:without")
        found.append(Named(name, place, without))
    keys = [(one.backbone, one.without) for one in found]
    for one, key in zip(found, keys, strict=True):
        if keys.count(key) > 1:
            module = "without" if one.without else "with"
            raise LareError(f"--model gives {one.backbone!r} {module} the Extractor twice; give each its own name")
    return found


def _switched_off(method: Method) -> Method:
    """The same weights, fed their last hidden state instead of the Extractor's latents."""
    model = copy.deepcopy(method.model)
    model.extractor = None
    model.config.use_extractor = model.config.use_window = False
    return Lare(model, method.processor)


def _untrained(method: Method) -> Method:
    """Random weights of the same configuration; the frozen encoder stays, as training never changes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = type(method.model)(copy.deepcopy(method.model.config))
    model.vision_tower.load_state_dict(method.model.vision_tower.state_dict())
    return Lare(model.to(method.model.device).to(method.model.dtype).eval(), method.processor)  # type: ignore[arg-type]


def _load(one: Named) -> Method:
    method = load_method("lare", one.checkpoint)
    has = method.model.extractor is not None
    if has == one.without:
        mend = "leave ':without' out" if has else "add ':without'"
        raise LareError(
            f"the checkpoint {one.checkpoint!r} of --model {one.backbone} was trained "
            f"{'with' if has else 'without'} the Extractor; {mend}"
        )
    return method


@dataclass(frozen=True)
class _Loaded:
    """A model before its questions are asked."""

    backbone: str
    role: str
    method: Method
    note: str
    heads: Heads | None


def _methods(given: Sequence[Named]) -> list[_Loaded]:
    """A backbone's models beside one another."""
    found = []
    for backbone in dict.fromkeys(one.backbone for one in given):
        own = {one.without: _load(one) for one in given if one.backbone == backbone}
        heads = {one.without: trained_heads(one.checkpoint) for one in given if one.backbone == backbone}
        if False in own:
            found.append(_Loaded(backbone, "with", own[False], "", heads[False]))
        if True in own:
            found.append(_Loaded(backbone, "without", own[True], _without_note(own[True]), heads[True]))
        else:
            note = "untrained for it: switched off afterwards"
            found.append(_Loaded(backbone, "without", _switched_off(own[False]), note, heads[False]))
        first = False in own
        known = heads[not first]
        fresh = None if known is None else random_heads(known)
        found.append(_Loaded(backbone, "untrained", _untrained(own[not first]), "random weights", fresh))
    return found


def _without_note(method: Method) -> str:
    mixed = method.model.config.use_window
    return "its latents are the last hidden state averaged with the window's mean" if mixed else "trained without it"


def _check_heads(methods: Sequence[_Loaded]) -> None:
    """Name the first model without alignment heads."""
    headless = next((one for one in methods if one.heads is None), None)
    if headless is not None:
        raise LareError(
            f"the checkpoint of --model {headless.backbone} has no alignment heads (no heads.safetensors that holds "
            "them); give the folder RUN/STAGE/final of a run that trained them, or another --projection"
        )


def gather(
    given: Sequence[Named],
    traces: Sequence[str] | None,
    images: int,
    questions: int,
    anchor: str,
    rationale: str,
    say: Callable[[str], None],
    cache: Path = CACHE,
    need_heads: bool = False,
    others: Sequence[Asked] = (),
) -> Chosen:
    """Load, ask and embed.

    Args:
        given: What comes from `named`.
        traces: Traces of the first model; its questions are put to all models. None makes questions.
        images: Scenes to make.
        questions: Questions about each.
        anchor: See `analysis.probe.instances.ANCHORS`.
        rationale: See `analysis.probe.instances.RATIONALES`.
        say: Takes a line about progress.
        cache: Where traces are kept, by fingerprint.
        need_heads: Whether every model must have its alignment heads.
        others: Questions to ask in place of made ones.

    Raises:
        LareError: If a checkpoint can't be probed or lacks heads, or the traces are of another model.
    """
    methods = _methods(given)
    if need_heads:
        _check_heads(methods)
    asked, reader, places, left_out = list(others), None, [0], 0
    if traces:
        reader = open_traces(traces)
        asked, places, left_out = asked_in(reader)
    elif not asked:
        asked = from_world(images, questions)
    if anchor == "boxes" and not any(one.boxes for one in asked):
        raise LareError("no question has boxes of what it is about, so --anchor boxes pools nothing; give another")
    models, hashes = [], {}
    for number, one in enumerate(methods):
        name = one.method.fingerprint()
        hashes[f"{one.backbone}, {one.role}"] = name
        if reader is not None and number == 0:
            seen = set(reader.column("checkpoint"))
            if seen != {name}:
                raise LareError(
                    f"the traces {', '.join(map(repr, traces or ()))} are of the weights {', '.join(sorted(seen))}, "
                    f"but the first model is {name}; give its checkpoint by --model NAME=CHECKPOINT"
                )
            own, where = reader, places
        else:
            own, where = run_traces(one.method, name, asked, cache / name, say)
        vectors = embed(one.method, asked, own, where, anchor, rationale)
        models.append(Model(one.backbone, one.role, vectors, one.note, one.heads))
    return Chosen(tuple(models), hashes, left_out)
