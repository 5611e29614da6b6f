"""Lines of trained models are told apart by the settings of their regimes, and by where the noise enters."""

from __future__ import annotations

import pytest

from robust_cli.reporting.attacked.accuracy import target
from robust_cli.reporting.certified import tables as certified_tables
from robust_cli.reporting.checked.crosscheck import check, same_classifier
from robust_cli.reporting.lines.of_runs import attacked_lines, certified_lines
from robust_cli.reporting.lines.titles import in_common
from robust_cli.reporting.reading.load import load

ROWS = {"renyi": [(1, 0, 0, 0.4), (2, 0, 0, 0.8)]}
FIRST = {"layer": "first", "operator_norm": 1.7}


def attacked(build, k, regime, settings, trained_with, **about):
    build.train(f"t{k}", regime=regime, fingerprint=f"f{k}", settings={"_target_": f"x.{regime}", **settings},
                training_noise_std=trained_with)
    outcomes = [{"attack": a, "budget": b, "index": 1, "label": 0, "robust": 1} for a, b in (("none", 0), ("pgd_l2", 0.5))]
    build.attack(f"a{k}", outcomes, **{"regime": regime, "model_fingerprint": f"f{k}", "training_noise_std": trained_with,
                                       "classifier": "base", "noise_std": None, **about})


def titles(build):
    return [line.title for line in attacked_lines(load([build.root]).attacked, [])]


def test_the_settings_of_a_regime_stand_where_they_differ_not_only_its_noise(build):
    attacked(build, 0, "standard", {}, None)
    attacked(build, 1, "moment", {"noise_std": 0.125, "weight": 1.0}, 0.125)
    attacked(build, 2, "moment", {"noise_std": 0.25, "weight": 5.0}, 0.25)
    attacked(build, 3, "noise_augmentation", {"noise_std": 0.25, "folds": 2, "clean_weight": 0.0}, 0.25)
    attacked(build, 4, "noise_augmentation", {"noise_std": 0.25, "folds": 11, "clean_weight": 0.0}, 0.25)
    assert titles(build) == ["standard", "moment, trained with noise 0.125, weight 1.0",
                             "moment, trained with noise 0.25, weight 5.0", "noise_augmentation, folds 2",
                             "noise_augmentation, folds 11"]


def test_the_attack_of_a_regime_and_its_budget_tell_it_apart(build):
    for k, (name, steps, budget) in enumerate((("pgd", 10, 0.1), ("pgd", 10, 0.3), ("second_order", 10, 0.3))):
        inner = {"_target_": f"robust_cli.attacks.{name}.A", "norm": "linf", "steps": steps}
        attacked(build, k, "adversarial", {"attack": inner, "budget": budget}, None)
    assert titles(build) == ["attack pgd linf, budget 0.1", "attack pgd linf, budget 0.3", "attack second_order linf, budget 0.3"]


def test_a_smoothed_classifier_in_the_noise_of_its_training_names_it_once(build):
    for k, noise in enumerate((0.25, 0.5)):
        attacked(build, k, "stability", {"noise_std": noise, "weight": 1.0}, noise, classifier="smoothed", noise_std=noise)
    assert titles(build) == ["noise 0.25", "noise 0.5"]


def test_one_noise_over_trainings_with_different_ones_names_theirs(build):
    for k, noise in enumerate((0.25, 0.5)):
        attacked(build, k, "stability", {"noise_std": noise, "weight": 1.0}, noise, classifier="smoothed", noise_std=0.5)
    assert titles(build) == ["trained with noise 0.25", "trained with noise 0.5"]


def test_noise_in_the_first_layer_is_said_in_title_caption_and_table(build):
    build.certify("a", ROWS)
    first = build.certify("b", ROWS, smoothing=FIRST)
    runs = load([build.root]).certified
    lines = certified_lines(runs, [])
    assert [line.title for line in lines] == ["stability, renyi", "noise in the first layer"]
    table = certified_tables.certificates_table(lines)
    assert table.data["noise_layer"].tolist() == ["input", "first"]
    assert [row[table.columns.index("noise")] for row in table.rows] == ["gaussian", "gaussian in the first layer"]
    assert "noise in the first layer" in in_common(certified_lines(load([first.path]).certified, []))
    assert target({"classifier": "smoothed", "decision_votes": 1000, "smoothing": FIRST}).endswith(", noise in the first layer")


@pytest.mark.parametrize("smoothing", [None, {"layer": "input", "operator_norm": 1.0}])
def test_noise_on_the_image_is_the_usual_and_goes_without_saying(build, smoothing):
    build.certify("a", ROWS, smoothing=smoothing)
    build.certify("b", ROWS, seed=1)
    lines = certified_lines(load([build.root]).certified, [])
    assert len(lines) == 1  # one classifier, seeds of the sampling apart: nothing tells them apart
    assert "layer" not in lines[0].title


def test_attacks_through_noise_elsewhere_are_on_another_classifier(build):
    outcomes = [{"attack": a, "budget": b, "index": 1, "label": 0, "robust": 1} for a, b in (("none", 0), ("pgd_l2", 0.5))]
    build.certify("c", ROWS, smoothing=FIRST)
    build.attack("a", outcomes)
    build.attack("b", [{**o, "attack": "fgm" if o["budget"] else "none"} for o in outcomes], smoothing=FIRST)
    runs = load([build.root])
    assert [same_classifier(runs.certified[0], run) for run in runs.attacked] == [False, True]
    assert not any(line.is_worst_case for line in attacked_lines(runs.attacked, []))


def test_the_expected_softmax_has_a_line_of_its_own_and_votes_say_nothing_of_it(build):
    folder = build.certify("c", {"pixeldp": ROWS["renyi"], "pixeldp_softmax": ROWS["renyi"]})
    about = folder.read_about()
    about["certificates"]["pixeldp_softmax"]["scores"] = "softmax"
    folder.write_about(about)
    run = load([folder.path]).certified[0]
    lines = certified_lines([run], [])
    assert [line.title for line in lines] == ["pixeldp", "expected softmax, pixeldp_softmax"]
    assert certified_tables.certificates_table(lines).data["scores"].tolist() == ["votes", "softmax"]
    found = check(run, "pixeldp_softmax", [])
    assert (found.compared, found.holds, found.proves) == (0, True, False)
    assert "expected softmax" in found.verdict
