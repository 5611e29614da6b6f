"""AMR's comparison: runs joined by their weights, the weight picked as its script picks, the fair comparison by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from trainings import STANDARD, Trainings, folds, moment

from robust_cli.reporting.page.page import write_report
from robust_cli.reporting.reading.load import load
from robust_cli.reporting.trained import noise_tables
from robust_cli.reporting.trained.fair import Tolerance, choices, tolerances
from robust_cli.reporting.trained.noise_figures import fair_figure, noise_figure, noise_pictures
from robust_cli.reporting.trained.noise_training import groups, unmatched


@pytest.fixture
def made(build):
    """A baseline of 98 %, and models above, one point below and far below it."""
    trainings = Trainings(build)
    trainings.add("standard", STANDARD, 0.98, 0.80)
    trainings.add("moment", moment(0.25, 1.0), 0.985, 0.90)
    trainings.add("moment", moment(0.25, 5.0), 0.981, 0.95)
    trainings.add("moment", moment(1.0, 5.0), 0.97, 0.99)
    trainings.add("noise_augmentation", folds(0.25, 2), 0.9795, 0.85)
    trainings.add("noise_augmentation", folds(0.25, 11), 0.99, 0.88)
    return trainings


def group(build):
    (found,) = groups(load([build.root]))
    return found


def test_runs_are_joined_by_their_weights_not_by_their_order(build, made):
    found = {entry.title: (entry.test.value, entry.gnr.value) for entry in group(build).entries}
    assert found == {"standard": (0.98, 0.80), "moment, noise 0.25, weight 1": (0.985, 0.90),
                     "moment, noise 0.25, weight 5": (0.981, 0.95), "moment, noise 1, weight 5": (0.97, 0.99),
                     "noise_augmentation, folds 2, noise 0.25": (0.9795, 0.85),
                     "noise_augmentation, folds 11, noise 0.25": (0.99, 0.88)}
    assert next(iter(found)) == "standard"
    assert list(found)[-2:] == ["noise_augmentation, folds 2, noise 0.25", "noise_augmentation, folds 11, noise 0.25"]


def test_of_several_weights_the_most_accurate_is_drawn_not_the_most_robust(build, made):
    picked = [entry.title for entry in group(build).tuned()]
    assert "moment, noise 0.25, weight 1" in picked
    assert "moment, noise 0.25, weight 5" not in picked  # of GNR 95 %: a mutant that picks by GNR takes this one
    assert len(picked) == 5
    caption = noise_pictures([group(build)])[0].caption
    assert "moment 1 at 0.25; moment 5 at 1" in caption


def best(build, name):
    return {choice.method: choice.best and choice.best.title for choice in choices(group(build)) if choice.tolerance.name == name}


def test_the_fair_comparison_takes_the_most_robust_of_those_as_accurate_as_the_baseline(build, made):
    assert best(build, "0 points") == {"standard": "standard", "moment": "moment, noise 0.25, weight 5",
                                       "noise_augmentation, folds 2": None,
                                       "noise_augmentation, folds 11": "noise_augmentation, folds 11, noise 0.25"}


def test_a_model_one_point_below_the_baseline_is_excluded_and_named_though_it_is_the_most_robust(build, made):
    (moments,) = [c for c in choices(group(build)) if c.method == "moment" and c.tolerance.name == "0 points"]
    assert [entry.title for entry in moments.excluded] == ["moment, noise 1, weight 5"]  # GNR 99 %
    caption = noise_pictures([group(build)])[1].caption
    assert "Excluded at tolerance 0 points: moment, noise 1, weight 5; noise_augmentation, folds 2, noise 0.25." in caption
    table = noise_tables.fair_table([group(build)])
    (row,) = [row for row in table.rows if row[0] == "moment" and row[3] == "0 points"]
    assert row[-1] == "moment, noise 1, weight 5"


def test_one_standard_error_is_that_of_the_difference(build, made):
    error = math.sqrt(0.98 * 0.02 / 10000 + 0.9795 * 0.0205 / 10000)
    assert (0.9783 * 0.0217 / 10000) ** 0.5 < 0.98 - 0.9783 < error < 0.98 - 0.97  # more than the error of either alone
    made.add("moment", moment(0.125, 9.0), 0.9783, 0.999)
    assert best(build, "one standard error")["noise_augmentation, folds 2"] == "noise_augmentation, folds 2, noise 0.25"
    assert best(build, "one standard error")["moment"] == "moment, noise 0.125, weight 9"
    assert best(build, "0 points")["moment"] == "moment, noise 0.25, weight 5"


def test_a_tolerance_is_wide_in_accuracy_and_nothing_else(build, made):
    everyone = choices(group(build), [Tolerance("all", lambda model, baseline: 0.0101)])
    assert {c.method: c.best.title for c in everyone}["moment"] == "moment, noise 1, weight 5"
    assert all(not choice.excluded for choice in everyone)


def test_the_papers_own_tolerances_stand_where_it_has_them(build):
    trainings = Trainings(build)
    for noise in (0.125, 0.25):
        trainings.add("moment", moment(noise, 1.0), 0.7, 0.4, dataset="cifar10")
    found = group(build)
    assert [t.name for t in tolerances(found)] == ["0 points", "one standard error", "0.39 points, as AMR"]
    assert found.baseline is None
    assert choices(found) == []
    assert [picture.name for picture in noise_pictures([found])] == ["noise_training_cifar10_lenet"]


def test_seeds_of_one_training_are_one_row(build, made):
    for seed, test in ((1, 0.96), (2, 0.94)):
        made.add("moment", moment(1.0, 5.0), test, 0.90 + seed / 100, seed=seed)
    (entry,) = [e for e in group(build).entries if e.title == "moment, noise 1, weight 5"]
    assert (entry.test.runs, entry.test.value) == (3, pytest.approx((0.97 + 0.96 + 0.94) / 3))
    assert entry.gnr.error == pytest.approx(pd.Series([0.99, 0.91, 0.92]).std())


def test_a_data_set_a_model_or_another_largest_noise_is_a_group_of_its_own(build, made):
    made.add("standard", STANDARD, 0.6, 0.3, dataset="cifar10")
    made.add("moment", moment(0.25, 1.0), 0.6, 0.5, dataset="cifar10")
    made.add("standard", STANDARD, 0.99, 0.3, model="cnn7")  # alone: no comparison
    made.add("standard", STANDARD, 0.981, 0.3, largest=1.0)
    found = groups(load([build.root]))
    assert [(g.dataset, g.model, len(g.entries)) for g in found] == [("mnist", "lenet", 6), ("cifar10", "lenet", 2)]


def test_a_measure_without_its_training_run_is_told(build, made):
    runs = load([build.root])
    assert unmatched(runs) == []
    gone = runs.trained.pop(2)
    assert gone.folder.path.name == "train2"
    (sentence,) = unmatched(runs)
    assert sentence.startswith("gnr2: GNR was measured")
    assert len(groups(runs)[0].entries) == 5


def test_the_figures_draw_what_the_numbers_are(build, made):
    accuracy, gnr = noise_figure(group(build)).axes[:2]
    (moments,) = [c for c in gnr.containers if c.get_label() == "moment"]
    assert moments.lines[0].get_ydata().tolist() == pytest.approx([90.0, 99.0])
    assert moments.lines[0].get_xdata().tolist() == [pytest.approx(0.25, abs=0.03), 1.0]  # alone at its noise: nothing to avoid
    assert [line.get_label() for line in accuracy.lines if len(line.get_xdata()) == 2 and set(line.get_xdata()) == {0, 1}] == \
        ["standard"]  # the baseline has no noise: a level line
    axes = fair_figure(choices(group(build)), group(build)).axes[0]
    widths = sorted({round(bar.get_width(), 6) for bar in axes.patches if bar.get_width() > 0})
    assert widths == [80.0, 85.0, 88.0, 95.0]


def test_the_report_holds_tables_and_figures(build, made, tmp_path):
    report = write_report([build.root], tmp_path)
    assert {"noise_training", "noise_training_best", "published_amr"} <= set(report.tables)
    assert {"noise_training_mnist_lenet", "noise_training_best_mnist_lenet"} <= set(report.figures)
    rows = pd.read_csv(report.tables["noise_training"]).set_index(["regime", "training_noise_std", "weight"])
    one = rows.loc[("moment", 1.0, 5.0)]
    assert (one["test_accuracy"], one["gnr"], one["test_images"], one["gnr_images"]) == (97.0, 99.0, 10000, 100)
    assert not one["within 0 points"]
    assert rows.loc[("moment", 0.25, 1.0)]["picked"]
    assert not rows.loc[("moment", 0.25, 5.0)]["picked"]
    assert "test accuracy over 10000" in report.page.read_text()


def test_runs_without_the_measure_make_no_comparison(build):
    trainings = Trainings(build)
    trainings.add("standard", STANDARD, 0.98, 0.8, measured=False)
    trainings.add("moment", moment(0.25, 1.0), 0.98, 0.8)
    runs = load([build.root])
    assert groups(runs) == []
    assert noise_tables.noise_table([]) is None
    assert noise_tables.fair_table([]) is None
