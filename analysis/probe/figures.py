"""The probe's figures: matching of all models at a glance, then for each backbone by iteration, by kind and the code.

A figure of its own for each backbone keeps the lines of one drawing few, however many backbones there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.probe.experiment import MODALITIES, ROLES, Measured, Model, grouped
from analysis.probe.pairs import KINDS
from analysis.probe.summary import Spread, spread
from analysis.probe.tables import MODULES, accuracy_of
from analysis.shared.report.document import Figure, Series

__all__ = ["figures"]

Groups = Mapping[tuple[str, str, str, str, str], list[Measured]]


def figures(models: Sequence[Model], found: Sequence[Measured]) -> tuple[Figure, ...]:
    """All figures.

    Args:
        models: What was probed.
        found: Results of all seeds.
    """
    groups = grouped(found)
    backbones = list(dict.fromkeys(model.backbone for model in models))
    probed = [modality for modality in MODALITIES if any(key[3] == modality for key in groups)]
    made = [_overview(backbones, groups, modality) for modality in probed]
    for draw in (_steps, _kinds, _code):
        for number, backbone in enumerate(backbones):
            title = f": {backbone}" if len(backbones) > 1 else ""
            figure = draw(groups, backbone, f"-{number + 1}", title)
            if figure is not None:
                made.append(figure)
    return tuple(made)


def _series(name: str, places: Sequence[str | float], values: Sequence[Spread | None]) -> Series:
    return Series(
        name,
        tuple(places),
        tuple(None if one is None else one.mean for one in values),
        tuple(None if one is None else one.low for one in values),
        tuple(None if one is None else one.high for one in values),
    )


def _overview(backbones: Sequence[str], groups: Groups, modality: str) -> Figure:
    lines = [(MODULES[role], role, "main") for role in ROLES]
    lines.append((f"shuffled partners, {MODULES['with']}", "with", "shuffled"))
    series = []
    for name, role, condition in lines:
        results = [groups.get((backbone, role, condition, modality, "SVM")) for backbone in backbones]
        if any(results):
            series.append(_series(name, backbones, [accuracy_of(one) if one else None for one in results]))
    text = (
        f"Latent-{modality} matching by the linear SVM, mean over seeds with the 95 % t interval. The dashed line is "
        "chance."
    )
    return Figure(
        f"matching-{modality}", f"Matching, {modality}", text, "intervals", tuple(series), "accuracy, %", "", 50.0
    )


def _steps(groups: Groups, backbone: str, number: str, title: str) -> Figure | None:
    series = []
    for modality in MODALITIES:
        for role in ROLES:
            found = {
                int(key[2].removeprefix("step ")): accuracy_of(results)
                for key, results in groups.items()
                if key[:2] == (backbone, role) and key[2].startswith("step ") and key[3] == modality
            }
            if found:
                steps = sorted(found)
                name = f"{modality}, {MODULES[role]}"
                series.append(_series(name, [float(step) for step in steps], [found[step] for step in steps]))
    text = (
        "Accuracy of the MLP on the latents of one iteration alone, mean over seeds with the 95 % t interval. The "
        "dashed line is chance."
    )
    if not series:
        return None
    return Figure(
        f"steps{number}", f"By iteration{title}", text, "lines", tuple(series), "latent iteration", "accuracy, %", 50.0
    )


def _kinds(groups: Groups, backbone: str, number: str, title: str) -> Figure | None:
    series = []
    for role in ROLES:
        places, values = [], []
        for modality in MODALITIES:
            results = groups.get((backbone, role, "main", modality, "SVM"))
            for kind, name in enumerate(("match", *KINDS) if results else ()):
                places.append(f"{modality}, {name.partition(',')[0]}")
                values.append(spread([100 * one.judged.kinds[kind] for one in results or ()]))
        if values:
            series.append(_series(MODULES[role], places, values))
    text = (
        f"Share of each kind of pair that the linear SVM judges rightly ({'; '.join(KINDS)}), mean over seeds with the "
        "95 % t interval. Read the four of a partner together: a probe that always says no has 100 % on all negatives."
    )
    if not series:
        return None
    return Figure(
        f"kinds{number}", f"By kind of pair{title}", text, "intervals", tuple(series), "judged rightly, %", "", 50.0
    )


def _code(groups: Groups, backbone: str, number: str, title: str) -> Figure | None:
    series = []
    for modality in MODALITIES:
        for role in ROLES:
            results = groups.get((backbone, role, "main", modality, "SVM"), ())
            codes = [one.code for one in results if one.code is not None]
            if not codes or role == "untrained":
                continue
            # Numbers of labels differ by a few from seed to seed, as held-out images do: blocks go together by rank.
            shared = min(len(code.ends) for code in codes)
            ends = np.array([(0, *code.ends[:shared]) for code in codes], dtype=float)
            rates = np.array([code.blocks[:shared] for code in codes]) / np.diff(ends, axis=1)
            seen = np.log2(ends[:, 1:-1].mean(0)).round(2).tolist()  # nothing is seen before the first block
            series.append(Series(f"{modality}, {MODULES[role]}", tuple(seen), tuple(rates.mean(0)[1:].tolist())))
    text = (
        "Bits a label in each block of the online code, mean over seeds: how sure the MLP is of labels it has not seen "
        "after the labels before. 1 bit is a guess; below it the probe has learned something."
    )
    if not series:
        return None
    axis = "labels seen, as a power of 2"
    return Figure(f"mdl{number}", f"Code length{title}", text, "lines", tuple(series), axis, "bits a label", 1.0)
