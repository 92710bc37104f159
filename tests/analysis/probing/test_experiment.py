"""One seed of everything: planted signals, leaks planted on purpose, and what the report says of them."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.probe.experiment import Model, Settings, conditions_of, run_seed
from analysis.probe.figures import figures
from analysis.probe.similarity import similarities
from analysis.probe.tables import tables
from analysis.probe.words import verdict, warnings_of
from tests.analysis.probing.synthetic import planted


def _accuracy(found, condition="main", classifier="SVM", modality="vision"):
    return next(
        one.judged.accuracy
        for one in found
        if (one.condition, one.classifier, one.modality) == (condition, classifier, modality)
    )


@pytest.mark.parametrize(
    ("strength", "least", "most"), [(0.0, 0.42, 0.58), (0.5, 0.62, 0.9), (0.8, 0.8, 1.0), (2.0, 0.97, 1.0)]
)
def test_planted_signals_are_found_as_strong_as_they_are(strength, least, most):
    models = [Model("planted", "with", planted(strength, 400, width=64))]
    found, _ = run_seed(models, 0, Settings(dim=64, steps=False, only=("main",)))
    for modality in ("vision", "text"):
        for classifier in ("SVM", "MLP"):
            assert least <= _accuracy(found, "main", classifier, modality) <= most


def test_a_linear_svm_on_a_concatenation_is_at_chance_whatever_is_there():
    models = [Model("planted", "with", planted(2.0, 300, width=64))]
    found, _ = run_seed(models, 0, Settings(dim=64, steps=False, only=("main",), feature="concat"))
    assert abs(_accuracy(found) - 0.5) < 0.1


def test_splitting_pairs_instead_of_images_is_caught_twice():
    models = [Model("planted", "with", planted(0.0, 150, width=128))]
    found, split = run_seed(models, 0, Settings(dim=64, steps=False, only=("shuffled",), split="pairs"))
    lines = [line for line in warnings_of(models, found, [split]) if line.startswith("LEAK")]
    assert "images stand in training and test pairs at once" in lines[0]
    assert any("shuffled partners" in line and "above chance" in line for line in lines[1:])


def test_a_latent_that_carries_the_label_of_its_pair_is_caught():
    """Positives' instances marked in the latent: a sampling artefact that latent alone must show."""
    made = planted(0.0, 200, width=64)
    _, split = run_seed([Model("planted", "with", made)], 0, Settings(dim=64, steps=False, only=("latent",)))
    unmatched = replace(
        split,
        train=_marked(split.train, len(made)),
        test=_marked(split.test, len(made)),
    )
    latent = made.latent.copy()
    latent[: len(made) // 2, 0] += 4.0
    models = [Model("planted", "with", replace(made, latent=latent))]
    import analysis.probe.experiment as experiment

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "draw_split", lambda *_: unmatched)
        found, _ = run_seed(models, 0, Settings(dim=64, steps=False, only=("latent",)))
    assert any(line.startswith("LEAK: latent alone") for line in warnings_of(models, found, [unmatched]))


def _marked(pairs, total):
    """Matches among the first half of the instances, negatives among the second."""
    half = total // 2
    left = np.where(pairs.kind == 0, pairs.left % half, half + pairs.left % half)
    return replace(pairs, left=left, right=np.where(pairs.kind == 0, left, pairs.right))


def test_the_report_has_every_condition_and_holds_for_two_models():
    made = planted(1.5, 80, width=32)
    models = [
        Model("planted", "with", made),
        Model("planted", "without", planted(0.3, 80, width=32), "trained without it"),
    ]
    settings = Settings(dim=64, pairs=80, only=("main", "latent"))
    runs = [run_seed(models, seed, settings) for seed in (0, 1)]
    found = [one for results, _ in runs for one in results]
    splits = [split for _, split in runs]
    made_tables = tables(models, found, splits, similarities(models))
    main, gap, *_ = made_tables
    assert main.main and {row["probe"] for row in main.rows} == {"matching", "latent alone"}
    first = main.rows[0]
    assert first["vision"] == pytest.approx(100 * np.mean([_accuracy(run) for run, _ in runs]))
    assert first["vision_paper"] == "93.8\u201395.3 %"
    assert len(gap.rows) == 4 and all(row["interval"] is not None for row in gap.rows)
    assert first["vision_p"] <= 0.02 and main.rows[-1].get("vision_p") is None
    assert [table.id for table in made_tables if table.main] == ["table-6", "gap"]
    similar = next(table for table in made_tables if table.id == "similarity")
    assert len(similar.rows) == 4 and similar.rows[0]["cka"] > similar.rows[2]["cka"] + 0.1
    said = verdict(models, found, splits)
    assert "trained without it" in said and "Shuffled partners" in said and "2 seeds" in said
    step = {one.condition: one.judged.auc for one in found if one.role == "with" and one.modality == "vision"}
    assert step["step 2"] > step["step 1"] + 0.1  # the planted latents' first step is noise


def test_equal_anchors_bound_the_accuracy():
    made = planted(2.0, 200, width=64)
    alike = np.unique(made.image, return_inverse=True)[1]
    blind = replace(made, looked=alike, vision=made.vision[np.unique(alike, return_index=True)[1]][alike])
    models = [Model("planted", "with", blind)]
    found, split = run_seed(models, 0, Settings(dim=64, pairs=600, steps=False, only=("main",)))
    assert found[0].ceiling == pytest.approx(5 / 6, abs=0.01)
    assert _accuracy(found) <= found[0].ceiling + 0.03
    assert any("no probe can pass 83.3 %" in line for line in warnings_of(models, found, [split]))


def test_sides_of_unequal_width_leave_out_what_needs_equal_ones():
    made = planted(1.0, 60, width=16)
    keys = {one.key for one in conditions_of(Model("planted", "with", replace(made, vision=made.vision[:, :8])))}
    assert "main" in keys and not keys & {"none", "cosine"}


def test_rows_begin_with_every_trained_model_and_figures_stay_few_lines_however_many_backbones():
    made = planted(1.5, 80, width=16)
    names = ("one", "two", "three", "four", "five", "six")
    models = [Model(name, role, made) for name in names for role in ("with", "without", "untrained")]
    one, split = run_seed(models[:3], 0, Settings(dim=64, pairs=80, only=("main", "shuffled")))
    found = [replace(result, backbone=name) for name in names for result in one]
    rows = tables(models, found, [split])[0].rows
    order = list(dict.fromkeys((row["probe"], row["module"] == "random weights") for row in rows))
    assert order == [("matching", False), ("matching", True), ("shuffled partners", False)]
    assert [row["model"] for row in rows[:24:4]] == list(names)
    drawn = figures(models, found)
    assert [figure.id for figure in drawn[:2]] == ["matching-vision", "matching-text"]
    assert {figure.id for figure in drawn[2:]} == {
        f"{kind}-{n}" for kind in ("steps", "kinds", "mdl") for n in range(1, 7)
    }
    assert all(len(figure.series) <= 4 for figure in drawn) and len(drawn[0].series[0].x) == 6
    assert len({figure.title for figure in drawn}) == len(drawn) and drawn[2].title == "By iteration: one"
    steps = drawn[2].series
    assert [series.name for series in steps] == [
        f"{modality}, {module}" for modality in ("vision", "text") for module in ("with Extractor", "w/o Extractor")
    ]


def test_svms_that_were_cut_short_are_counted_in_the_report(monkeypatch):
    monkeypatch.setattr("analysis.probe.classifiers.MAX_STEPS", 3)
    models = [Model("planted", "with", planted(0.0, 100, width=16))]
    found, split = run_seed(models, 0, Settings(dim=64, pairs=200, steps=False, only=("main", "latent")))
    said = [line for line in warnings_of(models, found, [split]) if "had not converged" in line]
    assert said[0].startswith("4 of 4 fitted SVMs") and "(matching 2, latent alone 2)" in said[0]
    assert f"and {sum(one.unsettled_folds for one in found)} fits of the search" in said[0]
    settled = [replace(one, settled=True) for one in found]
    assert "0 of 4 fitted SVMs" in [line for line in warnings_of(models, settled, [split]) if "converged" in line][0]
    settled = [replace(one, unsettled_folds=0) for one in settled]
    assert not [line for line in warnings_of(models, settled, [split]) if "converged" in line]


def test_conditions_that_share_a_projection_get_the_same_one_as_alone():
    models = [Model("planted", "with", planted(1.0, 100, width=16))]
    choices = Settings(dim=64, pairs=200, steps=False, only=("main", "mean_image", "shuffled", "partner"))
    together, _ = run_seed(models, 0, choices)
    alone = [one for key in choices.only for one in run_seed(models, 0, replace(choices, only=(key,)))[0]]
    assert sorted(map(repr, together)) == sorted(map(repr, alone))
