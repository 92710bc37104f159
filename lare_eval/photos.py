"""The `lare_photos` tasks: questions about held-back photographs, in lmms-eval's own forms.

``lare_photos_pope`` asks POPE's yes-no questions of its three kinds, made from human captions; ``lare_photos_daquar``
DAQUAR's questions; ``lare_photos_captions`` for a caption; ``lare_photos_animals`` where to look. What is asked is made
by `lare.data` from the very files that runs train on; here only photographs of the test split are asked about (of the
validation split in ``lare_photos_val_*``). The files are in the folder ``data``, or in that which the environment
variable ``LARE_PHOTOGRAPHS`` names, since lmms-eval has no option for it: ``animals/animals.jsonl``,
``flickr8k_1000/captions.jsonl``, ``daquar/daquar.jsonl``, each with its ``images.zip``.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import datasets
from lmms_eval.api.task import ConfigurableMessagesTask
from lmms_eval.tasks.pope.utils import pope_process_results
from PIL.Image import Image

from lare.data.pictures import Pictures
from lare.data.sample import Sample
from lare.data.source import Source
from lare.errors import LareError
from lare.images import load_image
from lare_eval.cider import cider
from lare_eval.wups import exact, items_of, wordnet, wups

__all__ = [
    "FOLDER",
    "PhotoTask",
    "animals_results",
    "captions_cider",
    "captions_results",
    "daquar_results",
    "photo",
    "photo_rows",
    "photo_text",
    "pope_results",
]

FOLDER = "LARE_PHOTOGRAPHS"
"""Environment variable that names the folder of photographs."""

_FILES = {
    "pope": ("captions", "flickr8k_1000/captions.jsonl"),
    "captions": ("captions", "flickr8k_1000/captions.jsonl"),
    "daquar": ("daquar", "daquar/daquar.jsonl"),
    "animals": ("animals", "animals/animals.jsonl"),
}
_KINDS = ("random", "popular", "adversarial")  # POPE's
_NOT_KNOWN = float("nan")

Row = Mapping[str, Any]


class PhotoTask(ConfigurableMessagesTask):  # type: ignore[misc]
    """An lmms-eval chat task on photographs in a folder.

    Args:
        config: The task file's content; ``dataset_name`` says what is asked, ``test_split`` of which photographs.
        model_name: Name of the model that will answer.

    Raises:
        LareError: If the folder of photographs lacks what is needed.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, model_name: str | None = None) -> None:
        own = {name: value for name, value in (config or {}).items() if name != "class"}
        super().__init__(config=own, model_name=model_name)

    def download(self, dataset_kwargs: Any = None) -> None:
        """Read the rows; photographs are opened when they are asked about."""
        split = str(self.config.test_split)
        rows = datasets.Dataset.from_list(photo_rows(str(self.config.dataset_name), split))
        self.dataset = datasets.DatasetDict({split: rows})
        self.dataset_no_image = self.dataset


def photo_rows(name: str, split: str = "test", folder: Path | None = None) -> list[dict[str, Any]]:
    """The rows of a task.

    Args:
        name: "pope", "daquar", "captions" or "animals".
        split: Which photographs; a split of `lare.data.splits`.
        folder: That of the photographs; None takes the one that `FOLDER` names, else ``data``.

    Raises:
        LareError: If the file is missing or leaves no question.
    """
    form, file = _FILES[name]
    home = folder if folder is not None else Path(os.environ.get(FOLDER, "data"))
    path = home / file
    if not path.is_file():
        raise LareError(
            f"there are no photographs at {str(path)!r}; name the folder that holds {file} in the environment variable "
            f"{FOLDER}, or link it as data"
        )
    samples = Source(path, form, split=split).samples()
    rows = [row | {"folder": str(path.parent.resolve())} for row in _ROWS[name](samples)]
    if not rows:
        raise LareError(f"{str(path)!r} has no photograph in the {split} split; give more rows")
    return [row | {"question_id": str(number)} for number, row in enumerate(rows)]


def _row(sample: Sample, category: str) -> dict[str, Any]:
    return {
        "question": sample.question,
        "answer": sample.answer,
        "category": category,
        "photograph": str(sample.image),
        "rationale": sample.rationale,
        # As the tasks of the drawn world name them, for rows of experiments and for analyses.
        "scene": str(sample.image),
        "sort": category,
        "hops": sample.hops or 0,
        "boxes": json.dumps(sample.boxes or []),
    }


def _each(samples: Iterator[Sample]) -> Iterator[dict[str, Any]]:
    return (_row(sample, sample.family) for sample in samples)


def _presence(samples: Iterator[Sample]) -> Iterator[dict[str, Any]]:
    for sample in samples:
        kind = sample.family.rpartition("_")[2]
        if sample.family.startswith("presence_") and kind in _KINDS:
            yield _row(sample, kind)


def _captions(samples: Iterator[Sample]) -> Iterator[dict[str, Any]]:
    """One row a photograph, with all its captions."""
    found: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.family == "caption":
            found[str(sample.image)].append(sample)
    for of_photo in found.values():
        yield _row(of_photo[0], "caption") | {"references": [one.answer for one in of_photo]}


_ROWS: dict[str, Callable[[Iterator[Sample]], Iterator[dict[str, Any]]]] = {
    "pope": _presence,
    "captions": _captions,
    "daquar": _each,
    "animals": _each,
}


@cache
def _pictures(folder: str) -> Pictures:
    return Pictures(Path(folder))


def photo(row: Row) -> list[Image]:
    """The one photograph of a row."""
    return [load_image(_pictures(row["folder"]).read(row["photograph"]))]


def photo_text(row: Row, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """What is asked, as runs are trained to be asked."""
    return str(row["question"])


# Scores --------------------------------------------------------------------------------------------------------------


def pope_results(row: Row, results: list[str]) -> dict[str, Any]:
    """POPE's record of an answer."""
    scores: dict[str, Any] = pope_process_results(row, results)
    return {**scores, "score": scores["pope_accuracy"]["score"]}


def animals_results(row: Row, results: list[str]) -> dict[str, Any]:
    """Right or wrong, case aside."""
    return {"score": float(" ".join(results[0].split()).casefold() == row["answer"].casefold())}


def daquar_results(row: Row, results: list[str]) -> dict[str, Any]:
    """Exact match, and WUPS at 0.9 and 0.0 (not a number where there is no WordNet; see `lare_eval.wups`)."""
    said, right = items_of(results[0]), items_of(row["answer"])
    known = wordnet() is not None
    score = exact(said, right)
    return {
        "score": score,
        "exact_match": score,
        "wups_0.9": wups(said, right, 0.9) if known else _NOT_KNOWN,
        "wups_0.0": wups(said, right, 0.0) if known else _NOT_KNOWN,
    }


def captions_results(row: Row, results: list[str]) -> dict[str, Any]:
    """A caption with the human ones; what it is worth is told by all of them together."""
    return {"cider": {"caption": results[0], "references": list(row["references"])}}


def captions_cider(records: Sequence[Mapping[str, Any]]) -> float:
    """CIDEr of the captions of a task."""
    found = cider([one["caption"] for one in records], [one["references"] for one in records])
    return sum(found) / len(found) if found else _NOT_KNOWN
