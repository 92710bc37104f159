"""What the probe's report says: tables, warnings and the verdict, from the seeds' results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from analysis.probing.experiment import CLASSIFIERS, CONDITIONS, MODALITIES, Measured, Model, Settings, grouped
from analysis.probing.pairs import KINDS, Split
from analysis.probing.summary import Gap, Spread, corrected_gap, spread
from analysis.report.document import Column, Table
from analysis.stats import wilson

__all__ = ["MODULES", "PAPER", "gaps", "tables", "verdict", "warnings_of"]

PAPER: Mapping[tuple[str, str], tuple[tuple[float, float], ...]] = {
    ("without", "SVM"): ((58.3, 61.2), (59.1, 62.8), (57.6, 60.9)),
    ("with", "SVM"): ((94.7, 95.1), (95.3, 95.6), (93.8, 94.2)),
    ("without", "MLP"): ((59.8, 62.5), (60.2, 63.4), (58.7, 61.5)),
    ("with", "MLP"): ((96.2, 96.8), (94.9, 95.3), (93.5, 94.0)),
}
"""Table 6 as reported: (vision, text) in percent of Qwen2.5-0.5B, Qwen2.5-1.5B and Llama-3.2-1B."""

MODULES = {"with": "with Extractor", "without": "w/o Extractor", "untrained": "random weights"}
ABOVE_CHANCE = 53.0
"""A control whose mean is above this is spoken of, in percent."""

LEAK_P = 1e-3
"""And called a leak if guessing reaches its right answers of all seeds with a smaller probability; there are a dozen
controls, so 5 % would cry wolf."""

Groups = Mapping[tuple[str, str, str, str, str], list[Measured]]


def _accuracy(rows: Sequence[Measured]) -> Spread:
    return spread([100 * one.judged.accuracy for one in rows])


def _reported(role: str, classifier: str, modality: str) -> str | None:
    values = [pair[MODALITIES.index(modality)] for pair in PAPER.get((role, classifier), ())]
    return f"{min(values)}\u2013{max(values)} %" if values else None


def _interval(low: float | None, high: float | None) -> list[float] | None:
    return None if low is None or high is None else [low, high]


def tables(
    models: Sequence[Model], found: Sequence[Measured], splits: Sequence[Split], settings: Settings
) -> tuple[Table, ...]:
    """All tables, the main one first.

    Args:
        models: What was probed.
        found: Results of all seeds.
        splits: One a seed.
        settings: The protocol.
    """
    groups = grouped(found)
    return (
        _main(models, groups),
        _gap_table(models, groups, splits),
        _kind_table(models, groups),
        _other_table(models, groups),
        _seed_table(groups),
        _data_table(models, groups, splits),
    )


def _main(models: Sequence[Model], groups: Groups) -> Table:
    columns = [
        Column("model", "Model"),
        Column("module", "Module"),
        Column("probe", "Probe"),
        Column("by", "Classifier"),
    ]
    for modality in MODALITIES:
        name = modality.capitalize()
        columns += [
            Column(modality, name, "percent", 1, f"latent-{modality} matching, mean over seeds"),
            Column(f"{modality}_i", "95 %", "interval", 1, "t interval over seeds"),
            Column(f"{modality}_sd", "sd", "number", 1, "standard deviation over seeds, in points"),
            Column(f"{modality}_paper", "Paper", "text", 1, "Table 6 as reported, its three backbones"),
        ]
    rows = []
    for condition in CONDITIONS:
        for model in models:
            for classifier in CLASSIFIERS:
                row: dict[str, Any] = {"model": model.backbone, "module": MODULES[model.role], "by": classifier}
                row["probe"] = condition.label
                for modality in MODALITIES:
                    results = groups.get((*model.key, condition.key, modality, classifier))
                    if results is None:
                        continue
                    value = _accuracy(results)
                    row |= {modality: value.mean, f"{modality}_sd": value.sd}
                    row[f"{modality}_i"] = _interval(value.low, value.high)
                    if condition.key == "main":
                        row[f"{modality}_paper"] = _reported(model.role, classifier, modality)
                if "vision" in row or "text" in row:
                    rows.append(row)
    notes = "; ".join(f"{one.backbone} {MODULES[one.role]}: {one.note}" for one in models if one.note)
    return Table(
        "table-6",
        "Latent-vision and latent-text matching (Table 6), and every control by the same protocol.",
        tuple(columns),
        tuple(rows),
        note=(
            "Accuracy in percent; chance is 50 %. Below the first rows stand the controls: shuffled partners, latent "
            "alone (by construction: each test latent stands in a match and in a negative) and partner alone must be "
            "at chance. Cosine only fits nothing but a threshold. The paper's values (range of its three backbones, as "
            "reported) are of other models on other data, and are no target. " + (notes + "." if notes else "")
        ),
        main=True,
    )


def gaps(models: Sequence[Model], groups: Groups, splits: Sequence[Split]) -> dict[tuple[str, str, str], Gap]:
    """With minus without the Extractor in points, by (backbone, modality, classifier)."""
    train, test = len(splits[0].train), len(splits[0].test)
    made = {}
    for backbone in dict.fromkeys(model.backbone for model in models):
        for modality in MODALITIES:
            for classifier in CLASSIFIERS:
                pair = [groups.get((backbone, role, "main", modality, classifier)) for role in ("with", "without")]
                if pair[0] and pair[1]:
                    values = [[100 * one.judged.accuracy for one in side] for side in pair if side]
                    made[backbone, modality, classifier] = corrected_gap(values[0], values[1], train, test)
    return made


def _gap_table(models: Sequence[Model], groups: Groups, splits: Sequence[Split]) -> Table:
    rows = []
    for (backbone, modality, classifier), gap in gaps(models, groups, splits).items():
        pairs = zip(PAPER["with", classifier], PAPER["without", classifier], strict=True)
        place = MODALITIES.index(modality)
        paper = [one[place] - other[place] for one, other in pairs]
        rows.append(
            {
                "model": backbone,
                "modality": modality,
                "by": classifier,
                "gap": gap.mean,
                "interval": _interval(gap.low, gap.high),
                "p": gap.p,
                "seeds": gap.n,
                "paper": f"{min(paper):.1f}\u2013{max(paper):.1f}",
            }
        )
    columns = (
        Column("model", "Model"),
        Column("modality", "Matching"),
        Column("by", "Classifier"),
        Column("gap", "With minus without, points", "number", 1),
        Column("interval", "95 % corrected", "interval", 1),
        Column("p", "p", "p"),
        Column("seeds", "Seeds", "count"),
        Column("paper", "Paper, points", "text", 1, "difference of Table 6's values, as reported"),
    )
    note = (
        "In points of accuracy, paired by seed. Seeds draw from the same instances, so the variance of the mean is "
        "corrected for that (Nadeau and Bengio 2003). One pair of models: the interval is over splits, not over "
        "trainings, and the gap is the Extractor's only if the two were otherwise trained alike."
    )
    return Table("gap", "What the Extractor changes.", columns, tuple(rows), note)


def _kind_table(models: Sequence[Model], groups: Groups) -> Table:
    columns = [Column("model", "Model"), Column("module", "Module"), Column("probe", "Probe")]
    columns += [Column("modality", "Partner"), Column("by", "Classifier"), Column("k0", "Matches", "percent", 1)]
    columns += [Column(f"k{kind + 1}", name.capitalize(), "percent", 1) for kind, name in enumerate(KINDS)]
    columns += [Column("balanced", "Balanced", "percent", 1), Column("auc", "AUC", "number", 3)]
    rows = []
    for (backbone, role, key, modality, classifier), results in groups.items():
        label = next((one.label for one in CONDITIONS if one.key == key), None)
        if label is None:
            continue
        kinds = 100 * np.array([one.judged.kinds for one in results]).mean(0)
        rows.append(
            {"model": backbone, "module": MODULES[role], "probe": label, "modality": modality, "by": classifier}
            | {f"k{kind}": float(value) for kind, value in enumerate(kinds)}
            | {
                "balanced": 100 * float(np.mean([one.judged.balanced for one in results])),
                "auc": float(np.mean([one.judged.auc for one in results])),
            }
        )
    note = "Share judged rightly. A probe that says no to everything has 100 % on all negatives and 0 % on matches."
    return Table("kinds", "By kind of pair, mean over seeds.", tuple(columns), tuple(rows), note)


def _other_table(models: Sequence[Model], groups: Groups) -> Table:
    rows = []
    for model in models:
        for modality in MODALITIES:
            results = groups[(*model.key, "main", modality, "SVM")]
            control = groups.get((*model.key, "shuffled", modality, "SVM"))
            gap = None
            if control is not None:
                gap = _accuracy(results).mean - _accuracy(control).mean
            codes = [one.code for one in results if one.code is not None]
            recall = 100 * np.array([one.recall for one in results]).mean(0)
            candidates = float(np.mean([one.candidates for one in results]))
            rows.append(
                {
                    "model": model.backbone,
                    "module": MODULES[model.role],
                    "modality": modality,
                    "selectivity": gap,
                    "bits": float(np.mean([code.bits for code in codes])),
                    "compression": float(np.mean([code.compression for code in codes])),
                    "control": _compression(control),
                    "r1": float(recall[0]),
                    "r5": float(recall[1]),
                    "chance": 100 / candidates,
                    "ceiling": 100 * float(np.mean([one.ceiling for one in results])),
                }
            )
    columns = (
        Column("model", "Model"),
        Column("module", "Module"),
        Column("modality", "Partner"),
        Column("selectivity", "Selectivity, points", "number", 1, "SVM's accuracy minus that on shuffled partners"),
        Column("bits", "Code, bits", "number", 0, "online code of the training labels by the MLP"),
        Column("compression", "Compression", "number", 2, "labels by bits; 1 where nothing is learned"),
        Column("control", "Compression, shuffled", "number", 2),
        Column("r1", "R@1", "percent", 1, "own partner is the nearest among the test instances'"),
        Column("r5", "R@5", "percent", 1),
        Column("chance", "R@1 by chance", "percent", 1),
        Column("ceiling", "Ceiling of accuracy", "percent", 1, "some negatives have the very partner of the match"),
    )
    return Table("more", "Selectivity, code length and retrieval, mean over seeds.", columns, tuple(rows))


def _compression(results: Sequence[Measured] | None) -> float | None:
    codes = [one.code.compression for one in results or () if one.code is not None]
    return float(np.mean(codes)) if codes else None


def _seed_table(groups: Groups) -> Table:
    rows = []
    for (backbone, role, key, modality, classifier), results in groups.items():
        if key not in ("main", "shuffled") or role == "untrained":
            continue
        label = next(one.label for one in CONDITIONS if one.key == key)
        for one in results:
            low, high = wilson(round(one.judged.accuracy * one.judged.n), one.judged.n)
            rows.append(
                {"model": backbone, "module": MODULES[role], "probe": label, "modality": modality, "by": classifier}
                | {"seed": one.seed, "accuracy": 100 * one.judged.accuracy, "interval": [100 * low, 100 * high]}
                | {"n": one.judged.n}
            )
    columns = (
        Column("model", "Model"),
        Column("module", "Module"),
        Column("probe", "Probe"),
        Column("modality", "Partner"),
        Column("by", "Classifier"),
        Column("seed", "Seed", "number", 0),
        Column("accuracy", "Accuracy", "percent", 1),
        Column("interval", "95 % Wilson", "interval", 1),
        Column("n", "Test pairs", "count"),
    )
    return Table("seeds", "Every seed, with its interval over test pairs.", columns, tuple(rows))


def _data_table(models: Sequence[Model], groups: Groups, splits: Sequence[Split]) -> Table:
    first = models[0].instances
    _, per_image = np.unique(first.image, return_counts=True)
    _, per_question = np.unique(first.question, return_counts=True)
    rows = [
        ("Instances (image, question, rationale)", f"{len(first):,}"),
        ("Images", f"{len(per_image):,}"),
        ("Images with at least 2 questions", f"{int((per_image > 1).sum()):,}"),
        ("Question texts", f"{len(per_question):,}"),
        ("Question texts that recur", f"{int((per_question > 1).sum()):,}"),
        ("Training and test pairs of a seed", f"{len(splits[0].train)} and {len(splits[0].test)}"),
        ("Images in training and test pairs", ", ".join(str(one.shared_images) for one in splits)),
        (
            "Test pairs' question texts that training pairs have too, by design of the second kind of negative",
            ", ".join(f"{100 * one.shared_questions:.0f} %" for one in splits),
        ),
    ]
    columns = (Column("fact", "What"), Column("value", "Value"))
    made = tuple({"fact": fact, "value": value} for fact, value in rows)
    return Table("data", "What was probed on.", columns, made, "Lists are by seed.")


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
        return "not measured" if results is None else _span(_accuracy(results))

    seeds = len({one.seed for one in found})
    parts = [
        f"{backbone}, linear SVM, {_seeds(seeds)} of {len(splits[0].test)} test pairs, chance 50 %: latents of the "
        f"model {'with' if first.role == 'with' else 'without'} the Extractor are matched with what was looked at in "
        f"{accuracy(first.role, 'vision')} and with the rationale in {accuracy(first.role, 'text')}."
    ]
    gap = gaps(models, groups, splits)
    if (backbone, "vision", "SVM") in gap:
        note = next(one.note for one in models if one.key == (backbone, "without"))
        vision, text = (gap[backbone, modality, "SVM"] for modality in MODALITIES)
        parts.append(
            f"With minus without the Extractor ({note}): {_span(vision, 'points')} for vision, {_span(text, 'points')} "
            "for text, corrected for seeds that share instances."
        )
    parts.append(
        f"Shuffled partners: {accuracy(first.role, 'vision', 'shuffled')} (vision) and "
        f"{accuracy(first.role, 'text', 'shuffled')} (text). That a probe can read something from latents does not say "
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
    if len(splits) < 5:
        made.append(f"{_seeds(len(splits))} run; the paper's values are means over at least 4, give 5 or more")
    return tuple(made)


def _controls_above_chance(groups: Groups, leaking: bool) -> list[str]:
    made = []
    for (backbone, role, key, modality, classifier), results in groups.items():
        value = _accuracy(results)
        if key not in ("shuffled", "latent", "partner") or value.mean <= ABOVE_CHANCE:
            continue
        what = next(one.label for one in CONDITIONS if one.key == key)
        where = f"{what} ({backbone}, {MODULES[role]}, {modality}, {classifier})"
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
