"""What the attention report gets by asking again: chooses questions, loads the model, runs both settings.

The checkpoint must be the one that wrote the traces; else these parts are left out and the reason is returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.attention.measure import HEADLINE, AttentionOptions, Compared, Values
from analysis.shared.traces import strangers
from lare.errors import LareError

if TYPE_CHECKING:
    from analysis.attention.live import Again, Effects, Rows
    from lare.methods.base import Method

__all__ = ["Live", "Masked", "ask_again"]


@dataclass(frozen=True)
class Masked:
    """Effects of covering patches, for one setting and one map of attention.

    Attributes:
        setting: Whose answers and whose attention.
        map: Which attention chose the patches.
        effects: What covering them cost.
    """

    setting: str
    map: str
    effects: Effects


@dataclass(frozen=True)
class Live:
    """What asking again gave; sides are A, then B, as in `Compared`.

    Attributes:
        items: The questions asked, rows of `Compared.items`.
        rows: Attention around each side's own first token.
        forced: Attention with the other side's first token in place of the own.
        masked: Effects of covering patches.
        side: Cells a side of the decoder's visual grid, by side.
        gap: Largest difference of a question's visual share (in points) from the traces', over both rows and sides.
        same_text: Share of answers that read as in the traces.
        fill: What covered patches.
        draws: Random choices of patches.
    """

    items: pd.DataFrame
    rows: tuple[Rows, Rows]
    forced: tuple[Rows, Rows]
    masked: tuple[Masked, ...]
    side: tuple[int, int]
    gap: float
    same_text: float
    fill: str
    draws: int


def ask_again(compared: Compared, options: AttentionOptions) -> Live | str:
    """Ask both settings anew, or say in a sentence why not.

    Args:
        compared: Both sides' traces.
        options: `live`, `checkpoint`, `cover`, `draws`, `seeds`, `include_path`.

    Raises:
        LareError: If a checkpoint can't be loaded.
    """
    chosen = np.sort(np.random.default_rng(options.seeds[0]).permutation(len(compared.items))[: options.live])
    found = _questions(compared.items.iloc[chosen], options.include_path)
    if isinstance(found, str):
        return found
    methods = _methods(compared, options.checkpoint)
    if isinstance(methods, str):
        return methods
    return _gathered(compared, chosen, found, methods, options)


def _questions(items: pd.DataFrame, include_path: str | None) -> tuple[list[Any], list[str]] | str:
    """Pictures and texts of the items, or why they can't be had."""
    from analysis.shared.questions import questions_of_rows

    keys = [(str(task), int(number)) for task, number in zip(items["task"], items["doc_id"], strict=True)]
    try:
        made, _ = questions_of_rows(keys, include_path)
    except LareError as error:
        return f"the task's pictures are not at hand ({error})"
    wanted = zip(keys, items["question_a"], items["scene"], strict=True)
    for key, question, scene in wanted:
        if key not in made or made[key].text != question or (isinstance(scene, str) and made[key].scene != scene):
            return "the traces are of another version of the task, whose pictures are not at hand"
    return [made[key].image for key in keys], [made[key].text for key in keys]


def _methods(compared: Compared, paths: Sequence[str]) -> tuple[Method, Method] | str:
    """Both sides' methods with the options of their traces, or why they can't be had."""
    from lare.methods import get_method, load_method, method_names
    from lare.methods.generating import Generating

    given: list[str | None] = [paths[-1], paths[0]] if paths else [None, None]
    made: list[Method] = []
    for place, reader in enumerate(compared.readers):
        arguments = dict(reader.infos[0].get("arguments", {}))
        name, dtype = str(arguments.pop("method", "")), arguments.pop("dtype", None)
        if name not in method_names() or not issubclass(get_method(name), Generating):
            return f"the traces of {compared.names[place]} are of the method {name!r}, which can't be asked again"
        kept = {option: value for option, value in arguments.items() if value not in (None, "")}
        if made and given[0] == given[1]:
            method = get_method(name)(made[0].model, made[0].processor, **kept)
        else:
            method = load_method(name, given[place], dtype=dtype, **kept)
        if method.fingerprint() != compared.checkpoints[place]:
            return f"the traces of {compared.names[place]} are not of the checkpoint at hand; give it with --checkpoint"
        made.append(method)
    return made[0], made[1]


def _gathered(
    compared: Compared,
    chosen: npt.NDArray[np.int64],
    found: tuple[list[Any], list[str]],
    methods: tuple[Method, Method],
    options: AttentionOptions,
) -> Live:
    from analysis.attention.live import Again

    items = compared.items.iloc[chosen].reset_index(drop=True)
    again = (Again(methods[0], *found), Again(methods[1], *found))
    rows = (again[0].rows(), again[1].rows())
    forced = (again[0].rows(rows[1].first), again[1].rows(rows[0].first))
    traced = compared.shares[:, chosen][..., 2].mean((3, 4))
    here = np.stack([one.shares[..., 2].mean((2, 3)) for one in rows])
    texts = [one.texts() for one in again]
    same = [
        mine == str(theirs).strip()
        for mark, mine_all in zip("ab", texts, strict=True)
        for mine, theirs in zip(mine_all, items[f"text_{mark}"], strict=True)
    ]
    masked = tuple(
        one
        for place, name in enumerate(compared.names)
        for one in _masked(name, again[place], rows[place], items, options)
    )
    return Live(
        items=items,
        rows=rows,
        forced=forced,
        masked=masked,
        side=(int(again[0].model.config.lm_grid), int(again[1].model.config.lm_grid)),
        gap=100 * float(np.abs(traced - here).max()),
        same_text=float(np.mean(same)),
        fill=options.cover,
        draws=options.draws,
    )


def _masked(name: str, again: Again, rows: Rows, items: pd.DataFrame, options: AttentionOptions) -> list[Masked]:
    """A setting's effects: by the first token's own row, and by the Extractor's steps where there are any."""
    from analysis.attention.live import answer_words, masking_effects

    maps: Mapping[str, Values | None] = {
        "first token's own row": rows.visual[:, HEADLINE].mean(1),
        "Extractor over all steps": rows.extractor,
    }
    words = answer_words(*again.own, again.method.processor.tokenizer)
    other = strangers(items["cluster"], options.seeds[0])
    return [
        Masked(
            name,
            label,
            masking_effects(
                lambda cells: again.log_probs(cells, options.cover), scores, words, other,
                draws=options.draws, seed=options.seeds[0],
            ),
        )
        for label, scores in maps.items()
        if scores is not None
    ]  # fmt: skip
