"""Curves of a training: every term that a regime logs, and which runs are told apart by what."""

from __future__ import annotations

import numpy as np
import pytest

from robust_cli.reporting import results
from robust_cli.reporting.page.page import write_report
from robust_cli.reporting.reading.load import load
from robust_cli.reporting.trained.curves import loss_figure, terms
from robust_cli.reporting.trained.table import training_table, training_titles


def runs(build):
    return load([build.root]).trained


def drawn(axes):
    return {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.lines}


def test_every_term_is_a_line_of_its_own(build):
    build.train("a", terms={"cross_entropy": [1.0, 0.3], "stability": [0.5, 0.2]})
    assert terms(runs(build)[0]) == ["cross_entropy", "stability"]
    figure = loss_figure(runs(build))
    assert drawn(figure.axes[0]) == {"loss": [1.5, 0.5], "cross entropy": [1.0, 0.3], "stability": [0.5, 0.2]}
    assert figure.axes[0].get_yscale() == "linear"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["loss", "cross entropy", "stability"]


def test_a_single_term_that_is_the_loss_is_not_drawn_twice(build):
    build.train("a", terms={"cross_entropy": [1.5, 0.5]})
    assert terms(runs(build)[0]) == []
    build.train("b", fingerprint="f1", terms={"cross_entropy": [1.5, 0.4]})
    assert terms(runs(build)[1]) == ["cross_entropy"]


def test_terms_of_very_different_size_are_drawn_on_a_logarithmic_axis_but_not_where_one_is_negative(build):
    build.train("a", terms={"cross_entropy": [1.0, 0.3], "penalty": [900.0, 20.0]})
    build.train("b", fingerprint="f1", regime="other", terms={"cross_entropy": [1.0, -0.3], "penalty": [900.0, 20.0]})
    figure = loss_figure(runs(build))
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]
    assert [axes.get_title() for axes in figure.axes] == ["stability", "other"]


def test_a_panel_a_regime_with_its_runs_in_the_same_colours(build):
    for k, regime in enumerate(("stability", "moment", "stability")):
        build.train(f"t{k}", regime=regime, fingerprint=f"f{k}", weight=k, terms={"cross_entropy": [1.0, 0.3], "kl": [0.1, 0.1]})
    figure = loss_figure(runs(build))
    assert [len(axes.lines) for axes in figure.axes] == [6, 3]
    colours = {(str(line.get_label()), line.get_color()) for axes in figure.axes for line in axes.lines}
    assert len(colours) == 3


def test_a_train_run_leaves_both_figures_and_a_report_draws_them(build, tmp_path):
    folder = build.train("a", terms={"cross_entropy": [1.0, 0.3], "stability": [0.5, 0.2]})
    results.trained(folder)
    assert all(folder.figure(name, suffix).exists() for name in ("training", "training_loss") for suffix in ("png", "svg"))
    assert {"training", "training_loss"} == set(write_report([folder.path], tmp_path).figures)


@pytest.mark.parametrize(("settings", "titles"), [
    ([{"folds": 2}, {"folds": 11}], ["r, folds 2", "r, folds 11"]),
    ([{"folds": None}, {"folds": 2}], ["r, no folds", "r, folds 2"]),
    ([{"budget": 0.1, "weight": 1.0}, {"budget": 0.2, "weight": 5.0}],
     ["r, budget 0.1, weight 1.0", "r, budget 0.2, weight 5.0"]),
    ([{"clip": True}, {"clip": False}], ["r, clip", "r, no clip"]),
    ([{"attack": {"_target_": "robust_cli.attacks.pgd.Pgd", "norm": "linf", "steps": 7}},
      {"attack": {"_target_": "robust_cli.attacks.pgd.Pgd", "norm": "l2", "steps": 7}}],
     ["r, attack pgd linf", "r, attack pgd l2"]),
    ([{"attack": {"_target_": "robust_cli.attacks.pgd.Pgd", "norm": "linf", "steps": 7}},
      {"attack": {"_target_": "mine.Strong", "norm": "linf", "steps": 9}}],
     ["r, attack pgd linf, attack steps 7", "r, attack Strong linf, attack steps 9"]),
])
def test_regimes_are_told_apart_by_whatever_setting_differs(build, settings, titles):
    for k, own in enumerate(settings):
        build.train(f"t{k}", regime="r", fingerprint=f"f{k}", settings={"_target_": "x.R", **own})
    assert training_titles(runs(build)) == titles
    assert [row[0] for row in training_table(runs(build)).rows] == titles


def test_a_seed_is_named_where_nothing_else_tells_runs_apart(build):
    for k, weight in enumerate((1.0, 1.0, 2.0)):
        build.train(f"t{k}", fingerprint=f"f{k}", seed=k, weight=weight)
    assert training_titles(runs(build)) == ["stability, weight 1.0, seed 0", "stability, weight 1.0, seed 1",
                                            "stability, weight 2.0"]
