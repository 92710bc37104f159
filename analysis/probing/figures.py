"""The probe's figures: accuracy by iteration, by kind of pair, and the online code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.probing.experiment import CLASSIFIERS, MODALITIES, Measured, Model, grouped
from analysis.probing.pairs import KINDS
from analysis.probing.summary import Spread, spread
from analysis.probing.tables import MODULES
from analysis.report.document import Figure, Series

__all__ = ["figures"]

Groups = Mapping[tuple[str, str, str, str, str], list[Measured]]


def figures(models: Sequence[Model], found: Sequence[Measured]) -> tuple[Figure, ...]:
    """Accuracy by iteration, by kind of negative, and the online code."""
    groups = grouped(found)
    made = [_kind_figure(models, groups, modality) for modality in MODALITIES]
    steps = _step_series(groups)
    if steps:
        text = (
            "Accuracy of the MLP on the latents of one iteration alone, mean over seeds with the 95 % t interval; a "
            "line a model and partner. The dashed line is chance."
        )
        made.insert(
            0, Figure("steps", "By iteration", text, "lines", steps, "latent iteration", "accuracy, %", reference=50.0)
        )
    text = (
        "Bits a label in each block of the online code, mean over seeds: how sure the MLP is of labels it has not seen "
        "after the labels before. 1 bit is a guess; below it the probe has learned something."
    )
    made.append(
        Figure(
            "mdl",
            "Code length",
            text,
            "lines",
            _code_series(groups),
            "labels seen, as a power of 2",
            "bits a label",
            reference=1.0,
        )
    )
    return tuple(made)


def _name(models: Sequence[str], backbone: str, role: str) -> str:
    return MODULES[role] if len(set(models)) == 1 else f"{backbone}, {MODULES[role]}"


def _step_series(groups: Groups) -> tuple[Series, ...]:
    backbones = [key[0] for key in groups]
    lines: dict[tuple[str, str, str], dict[int, Spread]] = {}
    for (backbone, role, key, modality, _), results in groups.items():
        if key.startswith("step "):
            lines.setdefault((backbone, role, modality), {})[int(key[5:])] = spread(
                [100 * one.judged.accuracy for one in results]
            )
    return tuple(
        Series(
            f"{_name(backbones, backbone, role)}, {modality}",
            tuple(float(step) for step in sorted(line)),
            tuple(line[step].mean for step in sorted(line)),
            tuple(line[step].low for step in sorted(line)),
            tuple(line[step].high for step in sorted(line)),
        )
        for (backbone, role, modality), line in lines.items()
    )


def _kind_figure(models: Sequence[Model], groups: Groups, modality: str) -> Figure:
    backbones = [model.backbone for model in models]
    series = []
    for model in models:
        for classifier in CLASSIFIERS:
            results = groups[(*model.key, "main", modality, classifier)]
            bars = [spread([100 * one.judged.kinds[kind] for one in results]) for kind in range(len(KINDS) + 1)]
            series.append(
                Series(
                    f"{_name(backbones, *model.key)}, {classifier}",
                    ("match", *KINDS),
                    tuple(bar.mean for bar in bars),
                    tuple(bar.low for bar in bars),
                    tuple(bar.high for bar in bars),
                )
            )
    text = (
        f"Latent-{modality} matching: share of each kind of pair judged rightly, mean over seeds with the 95 % t "
        "interval. Read all four together: a probe that always says no has 100 % on all negatives."
    )
    title = f"By kind of pair, {modality}"
    return Figure(f"kinds-{modality}", title, text, "bars", tuple(series), "", "judged rightly, %", reference=50.0)


def _code_series(groups: Groups) -> tuple[Series, ...]:
    backbones = [key[0] for key in groups]
    made = []
    for (backbone, role, key, modality, classifier), results in groups.items():
        codes = [one.code for one in results if one.code is not None]
        if key != "main" or classifier != "SVM" or not codes or role == "untrained":
            continue
        # Numbers of labels differ by a few from seed to seed, as held-out images do: blocks are put together by rank.
        shared = min(len(code.ends) for code in codes)
        ends = np.array([(0, *code.ends[:shared]) for code in codes], dtype=float)
        rates = np.array([code.blocks[:shared] for code in codes]) / np.diff(ends, axis=1)
        made.append(
            Series(
                f"{_name(backbones, backbone, role)}, {modality}",
                tuple(np.log2(ends[:, 1:-1].mean(0)).round(2).tolist()),  # nothing is seen before the first block
                tuple(rates.mean(0)[1:].tolist()),
            )
        )
    return tuple(made)
