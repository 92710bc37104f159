"""The probe's tables, from the seeds' results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.probe.experiment import CLASSIFIERS, CONDITIONS, MODALITIES, Measured, Model, grouped
from analysis.probe.pairs import KINDS, Split
from analysis.probe.permuting import PERMUTATIONS, combined_p
from analysis.probe.similarity import NEIGHBOURS, Similar
from analysis.probe.summary import Gap, Spread, corrected_gap, spread
from analysis.shared.cells import share
from analysis.shared.report.document import Column, Table

__all__ = ["MODULES", "PAPER", "accuracy_of", "gaps", "tables"]

PAPER: Mapping[tuple[str, str], tuple[tuple[float, float], ...]] = {
    ("without", "SVM"): ((58.3, 61.2), (59.1, 62.8), (57.6, 60.9)),
    ("with", "SVM"): ((94.7, 95.1), (95.3, 95.6), (93.8, 94.2)),
    ("without", "MLP"): ((59.8, 62.5), (60.2, 63.4), (58.7, 61.5)),
    ("with", "MLP"): ((96.2, 96.8), (94.9, 95.3), (93.5, 94.0)),
}
"""Table 6 as reported: (vision, text) in percent of Qwen2.5-0.5B, Qwen2.5-1.5B and Llama-3.2-1B."""

MODULES = {"with": "with Extractor", "without": "w/o Extractor", "untrained": "random weights"}
LABELS = {one.key: one.label for one in CONDITIONS}
PAIRING = (
    "of the pairing: how often the fitted probe is as accurate with test partners exchanged "
    f"({PERMUTATIONS} times a seed); twice the mean over seeds"
)

_WHO = (Column("model", "Model"), Column("module", "Module"))
_PROBED = (*_WHO, Column("probe", "Probe"), Column("modality", "Partner"), Column("by", "Classifier"))

Groups = Mapping[tuple[str, str, str, str, str], list[Measured]]


def accuracy_of(rows: Sequence[Measured]) -> Spread:
    """Accuracy in percent over seeds."""
    return spread([100 * one.judged.accuracy for one in rows])


def _reported(role: str, classifier: str, modality: str) -> str | None:
    values = [pair[MODALITIES.index(modality)] for pair in PAPER.get((role, classifier), ())]
    return f"{min(values)}\u2013{max(values)} %" if values else None


def _interval(low: float | None, high: float | None) -> list[float] | None:
    return None if low is None or high is None else [low, high]


def tables(
    models: Sequence[Model], found: Sequence[Measured], splits: Sequence[Split], alike: Sequence[Similar] = ()
) -> tuple[Table, ...]:
    """All tables, the main one first.

    Args:
        models: What was probed.
        found: Results of all seeds.
        splits: One a seed.
        alike: How alike latents and partners are without a projection; empty for no such table.
    """
    groups = grouped(found)
    return (
        _main(models, groups),
        _gap_table(models, groups, splits),
        _kind_table(models, groups),
        _other_table(models, groups),
        *((_similar_table(alike, len(models[0].instances)),) if alike else ()),
        _seed_table(groups),
        _data_table(models, groups, splits),
    )


def _main(models: Sequence[Model], groups: Groups) -> Table:
    columns = [*_WHO, Column("probe", "Probe"), Column("by", "Classifier")]
    probed = [modality for modality in MODALITIES if any(key[3] == modality for key in groups)]
    for modality in probed:
        name = modality.capitalize()
        columns += [
            Column(modality, name, "percent", 1, f"latent-{modality} matching, mean over seeds"),
            Column(f"{modality}_i", "95 %", "interval", 1, "t interval over seeds"),
            Column(f"{modality}_p", "p", "p", 3, PAIRING),
        ]
    for modality in probed:
        columns += [
            Column(f"{modality}_paper", f"Paper, {modality}", "text", 1, "Table 6 as reported, its three backbones"),
            Column(f"{modality}_sd", f"sd, {modality}", "number", 1, "standard deviation over seeds, in points"),
        ]
    rows = []
    # What a reader looks for first: every model with and without. Then the controls, random weights among them.
    trained = [model for model in models if model.role != "untrained"]
    untrained = [model for model in models if model.role == "untrained"]
    for condition in CONDITIONS:
        for model in (*trained, *untrained):
            for classifier in CLASSIFIERS:
                row: dict[str, Any] = {"model": model.backbone, "module": MODULES[model.role], "by": classifier}
                row["probe"] = condition.label
                for modality in MODALITIES:
                    results = groups.get((*model.key, condition.key, modality, classifier))
                    if results is None:
                        continue
                    value = accuracy_of(results)
                    row |= {modality: value.mean, f"{modality}_sd": value.sd}
                    row[f"{modality}_i"] = _interval(value.low, value.high)
                    if condition.key == "main":
                        row[f"{modality}_p"] = combined_p([one.p for one in results])
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
    return Table("gap", "What the Extractor changes.", columns, tuple(rows), note, main=True)


def _kind_table(models: Sequence[Model], groups: Groups) -> Table:
    columns = [*_PROBED, Column("k0", "Matches", "percent", 1)]
    columns += [Column(f"k{kind + 1}", name.capitalize(), "percent", 1) for kind, name in enumerate(KINDS)]
    columns += [Column("balanced", "Balanced", "percent", 1), Column("auc", "AUC", "number", 3)]
    rows = []
    for (backbone, role, key, modality, classifier), results in groups.items():
        if key not in LABELS:
            continue
        kinds = 100 * np.array([one.judged.kinds for one in results]).mean(0)
        rows.append(
            {"model": backbone, "module": MODULES[role], "probe": LABELS[key], "modality": modality, "by": classifier}
            | {f"k{kind}": float(value) for kind, value in enumerate(kinds)}
            | {"balanced": 100 * float(np.mean([one.judged.balanced for one in results]))}
            | {"auc": float(np.mean([one.judged.auc for one in results]))}
        )
    note = "Share judged rightly. A probe that says no to everything has 100 % on all negatives and 0 % on matches."
    return Table("kinds", "By kind of pair, mean over seeds.", tuple(columns), tuple(rows), note)


def _other_table(models: Sequence[Model], groups: Groups) -> Table:
    rows = []
    for model in models:
        for modality in MODALITIES:
            results = groups.get((*model.key, "main", modality, "SVM"))
            if results is None:
                continue
            control = groups.get((*model.key, "shuffled", modality, "SVM"))
            gap = None
            if control is not None:
                gap = accuracy_of(results).mean - accuracy_of(control).mean
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
        *_WHO,
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


def _similar_table(alike: Sequence[Similar], total: int) -> Table:
    rows = [
        {
            "model": one.backbone,
            "module": MODULES[one.role],
            "modality": one.modality,
            "cka": one.cka,
            "cka_i": list(one.cka_interval),
            "cka_shuffled": one.cka_shuffled,
            "near": 100 * one.neighbours,
            "near_i": [100 * end for end in one.neighbours_interval],
            "near_shuffled": 100 * one.neighbours_shuffled,
        }
        for one in alike
    ]
    columns = (
        *_WHO,
        Column("modality", "Partner"),
        Column("cka", "CKA", "number", 3, "linear centred kernel alignment of latents and partners, from 0 to 1"),
        Column("cka_i", "95 %", "interval", 3, "jackknife over images"),
        Column("cka_shuffled", "Shuffled", "number", 3, "the same with partners permuted"),
        Column(
            "near", "Mutual neighbours", "percent", 1, f"of the {NEIGHBOURS} nearest of other images, both agree on"
        ),
        Column("near_i", "95 %", "interval", 1, "over images"),
        Column("near_shuffled", "Shuffled", "percent", 1, "the same with partners permuted"),
    )
    note = (
        f"Of all {total:,} instances; no projection, no classifier, no split. What makes whole families of questions "
        "alike in both spaces counts here too, so a high value does not say that a latent fits its own partner."
    )
    return Table("similarity", "How alike latents and partners are as they stand.", columns, tuple(rows), note)


def _compression(results: Sequence[Measured] | None) -> float | None:
    codes = [one.code.compression for one in results or () if one.code is not None]
    return float(np.mean(codes)) if codes else None


def _seed_table(groups: Groups) -> Table:
    rows = []
    for (backbone, role, key, modality, classifier), results in groups.items():
        if key not in ("main", "shuffled") or role == "untrained":
            continue
        who = {"model": backbone, "module": MODULES[role], "probe": LABELS[key], "modality": modality, "by": classifier}
        for one in results:
            ends = share(round(one.judged.accuracy * one.judged.n), one.judged.n)
            rows.append(
                {**who, "seed": one.seed, "accuracy": 100 * one.judged.accuracy, "interval": ends, "n": one.judged.n}
            )
    columns = (
        *_PROBED,
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
            "Test pairs' question texts that training pairs have too",
            ", ".join(f"{100 * one.shared_questions:.0f} %" for one in splits),
        ),
    ]
    if any(one.left_out for one in splits):
        rows.append(("Instances on neither side", ", ".join(f"{one.left_out:,}" for one in splits)))
    columns = (Column("fact", "What"), Column("value", "Value"))
    made = tuple({"fact": fact, "value": value} for fact, value in rows)
    return Table("data", "What was probed on.", columns, made, "Lists are by seed.")
