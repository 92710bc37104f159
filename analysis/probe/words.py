"""What the probe's report says in words: the verdict, and what stands first as a warning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scipy import stats as scipy_stats

from analysis.probe.classifiers import MAX_STEPS
from analysis.probe.experiment import CONDITIONS, MODALITIES, Measured, Model, grouped
from analysis.probe.pairs import Split
from analysis.probe.summary import Gap, Spread
from analysis.probe.tables import LABELS, MODULES, accuracy_of, gaps

__all__ = ["verdict", "warnings_of"]

ABOVE_CHANCE = 53.0
"""A control whose mean is above this is spoken of, in percent."""

LEAK_P = 1e-3
"""And called a leak if guessing reaches its right answers of all seeds with a smaller probability; there are a dozen
controls, so 5 % would cry wolf."""

Groups = Mapping[tuple[str, str, str, str, str], list[Measured]]


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _span(value: Spread | Gap, unit: str = "%") -> str:
    if value.low is None or value.high is None:
        return f"{value.mean:.1f} {unit} (one seed, no interval)"
    return f"{value.mean:.1f} {unit} [{value.low:.1f}, {value.high:.1f}]"


def verdict(models: Sequence[Model], found: Sequence[Measured], splits: Sequence[Split]) -> str:
    """The first backbone's answer in three sentences, whatever it is."""
    groups, first = grouped(found), models[0]
    backbone = first.backbone

    def accuracy(role: str, modality: str, key: str = "main") -> str:
        results = groups.get((backbone, role, key, modality, "SVM"))
        return "not measured" if results is None else _span(accuracy_of(results))

    seeds = len({one.seed for one in found})
    probed = [modality for modality in MODALITIES if any(key[3] == modality for key in groups)]
    matched = {"vision": "with what was looked at", "text": "with the rationale"}
    parts = [
        f"{backbone}, linear SVM, {_seeds(seeds)} of {len(splits[0].test)} test pairs, chance 50 %: latents of the "
        f"model {'with' if first.role == 'with' else 'without'} the Extractor are matched "
        + " and ".join(f"{matched[modality]} in {accuracy(first.role, modality)}" for modality in probed)
        + "."
    ]
    gap = gaps(models, groups, splits)
    if (backbone, "vision", "SVM") in gap:
        note = next(one.note for one in models if one.key == (backbone, "without"))
        told = ", ".join(f"{_span(gap[backbone, modality, 'SVM'], 'points')} for {modality}" for modality in probed)
        parts.append(f"With minus without the Extractor ({note}): {told}, corrected for seeds that share instances.")
    parts.append(
        "Shuffled partners: "
        + " and ".join(f"{accuracy(first.role, modality, 'shuffled')} ({modality})" for modality in probed)
        + ". That a probe can read something from latents does not say "
        "that the decoder uses it."
    )
    return " ".join(parts)


def warnings_of(
    models: Sequence[Model], found: Sequence[Measured], splits: Sequence[Split], left_out: int = 0
) -> tuple[str, ...]:
    """Leaks first, then what was short, missing or bounded."""
    made = []
    shared = [one.shared_images for one in splits]
    if any(shared):
        made.append(
            f"LEAK: up to {max(shared)} images stand in training and test pairs at once, so the probe can know test "
            "instances from training; no accuracy of this report means anything. Split images (--split images)"
        )
    made += _controls_above_chance(grouped(found), bool(any(shared)))
    made += sorted({line for one in splits for line in one.short})
    if left_out:
        made.append(f"{left_out} answers of the traces have no latents, scene or rationale, or ask twice; left out")
    for model in models:
        if model.role == "without" and model.note.startswith("untrained"):
            made.append(
                f"{model.backbone}: no checkpoint without the Extractor was given, so it was switched off in the model "
                "that was trained with it; the comparison is not Table 6's (give --model NAME=CHECKPOINT:without)"
            )
    bounded = {}
    for (backbone, role, key, modality, by), results in grouped(found).items():
        ceiling = min(one.ceiling for one in results)
        if key == "main" and by == "SVM" and ceiling < 0.99:
            bounded[f"{backbone}, {MODULES[role]}, {modality}"] = f"{100 * ceiling:.1f} %"
    if bounded:
        made.append(
            "some negatives carry the very partner of the match (the model looked at the same for both questions), so "
            "no probe can pass " + "; ".join(f"{value} ({name})" for name, value in bounded.items())
        )
    made += _unsettled(found)
    if len(splits) < 5:
        made.append(f"{_seeds(len(splits))} run; the paper's values are means over at least 4, give 5 or more")
    return tuple(made)


def _unsettled(found: Sequence[Measured]) -> list[str]:
    """How many fits of the SVM the step limit cut short, final ones by condition."""
    fits = [one for one in found if one.classifier == "SVM"]
    cut, folds = [one for one in fits if not one.settled], sum(one.unsettled_folds for one in fits)
    if not cut and not folds:
        return []
    keys = [one.condition for one in cut]
    where = ", ".join(f"{one.label} {keys.count(one.key)}" for one in CONDITIONS if one.key in keys)
    return [
        f"{len(cut)} of {len(fits)} fitted SVMs had not converged after {MAX_STEPS:,} steps and are judged as they are"
        f"{f' ({where})' if where else ''}, and {folds:,} fits of the search for their C; the MLP has no such limit"
    ]


def _controls_above_chance(groups: Groups, leaking: bool) -> list[str]:
    made = []
    for (backbone, role, key, modality, classifier), results in groups.items():
        value = accuracy_of(results)
        if key not in ("shuffled", "latent", "partner") or value.mean <= ABOVE_CHANCE:
            continue
        where = f"{LABELS[key]} ({backbone}, {MODULES[role]}, {modality}, {classifier})"
        right, total = (
            sum(numbers)
            for numbers in zip(
                *((round(one.judged.accuracy * one.judged.n), one.judged.n) for one in results), strict=True
            )
        )
        p = float(scipy_stats.binomtest(right, total, alternative="greater").pvalue)
        if p < LEAK_P:
            why = "; the shared images show why" if leaking else ""
            made.append(f"LEAK: {where}: {_span(value)}, above chance where nothing is to be learned{why}")
        else:
            made.append(
                f"control {where}: {_span(value)}, should be 50 %; chance alone does this with p = {p:.3f}, run more "
                "seeds"
            )
    return made
