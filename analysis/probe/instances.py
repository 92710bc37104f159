"""Instances of the probe: an image, a question and its rationale, with a model's vectors for them.

Shapes: N instances, K latent iterations, m latents an iteration, d width of the decoder, g side of the fine grid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from analysis.shared.questions import Question
from lare.embedded.world.items import ItemSampler
from lare.embedded.world.questions import FAMILIES
from lare.embedded.world.render import render_image
from lare.embedded.world.scene import IMAGE_SIZE, sample_scene
from lare.embedded.world.versions import scene_named
from lare.errors import LareError
from lare.losses.alignment import hybrid_mean_max
from lare.methods.base import Sampling
from lare.model.window import saliency_grid, select_window, window_cells
from lare.trace import AnswerRecord, TraceReader, TraceWriter
from lare.training.model import rationale_states

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.methods.base import Method

__all__ = [
    "ANCHORS",
    "RATIONALES",
    "Asked",
    "Instances",
    "asked_in",
    "embed",
    "from_questions",
    "from_world",
    "run_traces",
]

ANCHORS = ("windows", "all", "boxes")
"""What the visual anchor pools: tokens in the windows of the run, all fine tokens, or those of what the question is
about (the same for every model)."""

RATIONALES = ("states", "embeddings")
"""What the rationale's vector pools: the decoder's states over the rationale read alone, as the alignment loss has
them, or its token embeddings."""

FIRST_SCENE = 500_000
"""Scenes from here on, so that no picture is one of the mini tasks'."""

BATCH = 64
TASK = "probe"

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Asked:
    """One question about one image.

    Attributes:
        image: Name of the scene, "split/seed".
        question: What is asked.
        rationale: The ground-truth reasoning.
        boxes: (left, top, right, bottom) in pixels of what the question is about; may be empty.
        picture: The picture itself; None draws that of the embedded world's scene.
    """

    image: str
    question: str
    rationale: str
    boxes: tuple[tuple[int, ...], ...] = ()
    picture: Image | None = field(default=None, repr=False, compare=False)

    @property
    def shown(self) -> Image:
        """The picture that is asked about."""
        return _picture(self.image) if self.picture is None else self.picture

    @property
    def key(self) -> str:
        """Names the question in a trace."""
        return hashlib.sha256(f"{self.image}\n{self.question}".encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Instances:
    """A model's vectors for N questions.

    Attributes:
        image: (N,) names of images.
        question: (N,) what was asked.
        rationale: (N,) the ground-truth reasoning.
        steps: (N, K, d) pooled latents of each iteration.
        latent: (N, d) latents of all iterations pooled: z.
        text: (N, d) pooled rationale: t; zeros where the questions have none.
        vision: (N, d) pooled visual tokens: v.
        looked: (N,) numbers, equal where two anchors pool the very same tokens.
    """

    image: npt.NDArray[np.str_]
    question: npt.NDArray[np.str_]
    rationale: npt.NDArray[np.str_]
    steps: Array
    latent: Array
    text: Array
    vision: Array
    looked: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.image)


def from_world(images: int, per_image: int) -> list[Asked]:
    """Questions of the embedded world's test split, several an image, without options.

    Args:
        images: Scenes.
        per_image: Different questions about each.

    Raises:
        LareError: If a number is below 2.
    """
    if images < 2 or per_image < 2:
        raise LareError(f"--images is {images} and --questions {per_image}; negatives need at least 2 of each")
    sampler = ItemSampler(dict.fromkeys(FAMILIES, 1.0), {"open": 1.0}, (0, FIRST_SCENE))
    asked: list[Asked] = []
    for number in range(images):
        scene = sample_scene("test", FIRST_SCENE + number)
        chosen: dict[str, Asked] = {}
        for _ in range(60 * per_image):
            if len(chosen) == per_image:
                break
            item = sampler.draw(scene, "open")
            if item is None or not item.question.rationale:
                continue
            boxes = tuple(scene.box(cell) for cell in item.question.cells)
            one = Asked(f"test/{scene.seed}", item.prompt, " ".join(item.question.rationale), boxes)
            chosen.setdefault(one.question, one)
        asked += chosen.values()
    return asked


def asked_in(reader: TraceReader) -> tuple[list[Asked], list[int], int]:
    """The questions of a trace that can be probed: answered with latents, about a known scene, with a rationale.

    Returns:
        The questions, their places in the trace, and how many were left out.

    Raises:
        LareError: If none can.
    """
    names = ("question", "meta.scene", "meta.rationale", "meta.boxes", "latent_steps")
    asked: list[Asked] = []
    places: list[int] = []
    seen: set[tuple[str, str]] = set()
    for place, row in enumerate(zip(*(reader.column(name) for name in names), strict=True)):
        question, scene, rationale, boxes, steps = row
        if not (scene and rationale and steps) or (scene, question) in seen:
            continue
        seen.add((scene, question))
        parsed = json.loads(boxes) if isinstance(boxes, str) else boxes or []
        asked.append(Asked(str(scene), str(question), str(rationale), tuple(tuple(map(int, box)) for box in parsed)))
        places.append(place)
    if not asked:
        raise LareError(
            "no answer of the given traces has latents, a scene and a rationale; give traces of the mini tasks, or "
            "leave --traces out to make some"
        )
    return asked, places, len(reader) - len(asked)


@lru_cache(maxsize=4096)
def _picture(image: str) -> Image:
    scene = scene_named(image)
    if scene is None:
        raise LareError(f"the trace's scene {image!r} is none of the embedded world (split/number); probe its traces")
    return render_image(scene)


def from_questions(questions: Sequence[Question]) -> tuple[list[Asked], int]:
    """Questions of any task, each about its picture; and how many were left out.

    A question whose task gives no rationale is left out where others have one. Where none has, nothing is probed for
    rationales.
    """
    from lare_eval.store import image_digest

    reasoned = any(one.rationale for one in questions)
    kept = [one for one in questions if one.rationale or not reasoned]
    asked: dict[str, Asked] = {}
    for one in kept:
        boxes = tuple(tuple(round(edge * IMAGE_SIZE) for edge in box) for box in one.boxes)
        made = Asked(image_digest(one.image), one.text, one.rationale, boxes, one.image)
        asked.setdefault(made.key, made)
    return list(asked.values()), len(questions) - len(asked)


def _batches(total: int) -> Iterator[slice]:
    return (slice(start, start + BATCH) for start in range(0, total, BATCH))


def run_traces(
    method: Method, fingerprint: str, asked: Sequence[Asked], folder: Path, say: Callable[[str], None] = print
) -> tuple[TraceReader, list[int]]:
    """Ask a model all questions that its traces do not hold yet.

    Args:
        method: The model.
        fingerprint: Name of its weights.
        asked: The questions.
        folder: Where the traces are kept.
        say: Takes a line about progress.

    Returns:
        The traces, and the place of every question in them.
    """
    known = set(TraceReader(folder).column("key")) if (folder / "manifest.json").exists() else set()
    lacking = [(number, one) for number, one in enumerate(asked) if one.key not in known]
    if lacking:
        say(f"asking {len(lacking)} questions; traces go to {folder}")
        sampling = Sampling(max_new_tokens=64)
        with TraceWriter(folder, {"method": method.arguments(), "checkpoint": fingerprint}) as writer:
            for part in _batches(len(lacking)):
                batch = lacking[part]
                pictures = [one.shown for _, one in batch]
                answers = method.answer(pictures, [one.question for _, one in batch], sampling, trace=True)
                for (number, one), answer in zip(batch, answers, strict=True):
                    writer.append(_record(method, fingerprint, number, one, answer))
                writer.flush()
    reader = TraceReader(folder)
    place = {key: number for number, key in enumerate(reader.column("key"))}
    return reader, [place[one.key] for one in asked]


def _record(method: Method, fingerprint: str, number: int, one: Asked, answer: Any) -> AnswerRecord:
    return AnswerRecord(
        method=method.name,
        checkpoint=fingerprint,
        task=TASK,
        doc_id=number,
        question=one.question,
        text=answer.text,
        answer=answer.text,
        input_tokens=answer.input_tokens,
        output_tokens=answer.output_tokens,
        latent_steps=answer.latent_steps,
        stop_reason=answer.stop_reason,
        seconds=answer.seconds,
        meta={"scene": one.image, "rationale": one.rationale, "boxes": json.dumps(one.boxes)},
        key=one.key,
        **answer.arrays,
    )


@torch.inference_mode()
def embed(
    method: Method,
    asked: Sequence[Asked],
    reader: TraceReader,
    places: Sequence[int],
    anchor: str = "windows",
    rationale: str = "states",
) -> Instances:
    """Pool latents, rationales and visual tokens with the model's own pooling.

    Args:
        method: The model whose traces they are.
        asked: The questions.
        reader: Its traces.
        places: Place of every question in them.
        anchor: One of `ANCHORS`.
        rationale: One of `RATIONALES`.

    Raises:
        LareError: If the questions took different numbers of latent iterations, or an option is unknown.
    """
    if anchor not in ANCHORS or rationale not in RATIONALES:
        raise LareError(f"anchor {anchor!r} or rationale {rationale!r} is unknown; see --help")
    column = reader.column("latents")
    chosen = [torch.from_numpy(np.array(column[place])) for place in places]
    if len({one.shape for one in chosen}) > 1:
        raise LareError(
            "the questions took different numbers of latent iterations; trace with a fixed number (stop=fixed)"
        )
    latents = torch.stack(chosen)
    reasoned = any(one.rationale for one in asked)
    vision, looked = _anchors(method.model, method.processor, asked, reader, places, anchor)
    return Instances(
        image=np.array([one.image for one in asked]),
        question=np.array([one.question for one in asked]),
        # Without rationales each counts as different, since equal ones are never a negative.
        rationale=np.array([one.rationale for one in asked] if reasoned else [one.key for one in asked]),
        steps=hybrid_mean_max(latents.flatten(0, 1)).reshape(*latents.shape[:2], -1).numpy(),
        latent=hybrid_mean_max(latents.flatten(1, 2)).numpy(),
        text=_texts(method, [one.rationale for one in asked], rationale) if reasoned else np.zeros_like(vision),
        vision=vision,
        looked=looked,
    )


def _texts(method: Method, texts: Sequence[str], kind: str) -> Array:
    """(N, d) pooled rationales; read with a space before them, as in training."""
    model, tokenizer = method.model, method.processor.tokenizer
    rows = []
    for part in _batches(len(texts)):
        ids = [tokenizer(f" {text}", add_special_tokens=False)["input_ids"] for text in texts[part]]
        width = max(map(len, ids))
        padded = torch.tensor([one + [0] * (width - len(one)) for one in ids], device=model.device)
        mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in ids], device=model.device)
        states = rationale_states(model, padded, mask) if kind == "states" else model.embed(padded)
        rows.append(hybrid_mean_max(states, mask).float().cpu())
    return np.asarray(torch.cat(rows).numpy())


def _anchors(
    model: Any, processor: Any, asked: Sequence[Asked], reader: TraceReader, places: Sequence[int], anchor: str
) -> tuple[Array, npt.NDArray[np.int64]]:
    """(N, d) visual anchors and (N,) which of them are the same."""
    pictures = {one.image: one.shown for one in asked}
    rows: dict[str, list[int]] = {name: [] for name in sorted(pictures)}
    for row, one in enumerate(asked):
        rows[one.image].append(row)
    windows, saliency = reader.column("windows"), reader.column("saliency")
    vectors: dict[int, Tensor] = {}
    marks: dict[int, str] = {}
    names = list(rows)
    for part in _batches(len(names)):
        shown = [pictures[name] for name in names[part]]
        pixels = processor.image_processor(shown, return_tensors="pt")["pixel_values"]
        seen = model.encode_images(pixels.to(model.device, model.dtype)).refocus
        for name, tokens in zip(names[part], seen.float().cpu(), strict=True):
            for row in rows[name]:
                if anchor == "windows":
                    corners = torch.from_numpy(np.array(windows[places[row]]))
                    cells = _seen_cells(model.config, corners, saliency[places[row]])
                else:
                    cells = _box_cells(asked[row].boxes if anchor == "boxes" else (), model.config.grid)
                vectors[row] = hybrid_mean_max(tokens[cells][None])[0]
                marks[row] = f"{name} {sorted(cells.tolist())}"
    order = range(len(asked))
    alike = np.unique([marks[row] for row in order], return_inverse=True)[1].astype(np.int64)
    return torch.stack([vectors[row] for row in order]).numpy(), alike


def _seen_cells(config: Any, windows: Tensor, saliency: npt.NDArray[Any]) -> Tensor:
    """Fine cells of all windows of a run, repeated where they were looked at again.

    A model without windows looks nowhere; for it they are the windows that its attention would have chosen.
    """
    if not config.use_window:
        grid = saliency_grid(torch.from_numpy(saliency.astype(np.float32)).flatten(1), saliency.shape[-1], config.grid)
        windows = select_window(grid, config.window)[0]
    return window_cells(windows.long(), config.window, config.grid).flatten()


def _box_cells(boxes: Sequence[Sequence[int]], grid: int) -> Tensor:
    """Fine cells that boxes touch; all where there is no box."""
    inside = torch.zeros(grid, grid, dtype=torch.bool)
    for left, top, right, bottom in boxes:
        first = [int(edge * grid // IMAGE_SIZE) for edge in (left, top)]
        last = [-int(-edge * grid // IMAGE_SIZE) for edge in (right, bottom)]
        inside[first[1] : last[1], first[0] : last[0]] = True
    return inside.flatten().nonzero().squeeze(1) if bool(inside.any()) else torch.arange(grid * grid)
