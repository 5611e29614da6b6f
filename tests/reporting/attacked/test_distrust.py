"""Each doubt about an attack run: rows by hand that raise it, and rows beside them that raise none."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from robust_cli.reporting.attacked.distrust import doubts
from robust_cli.reporting.attacked.meeting import distances_to_meeting
from robust_cli.reporting.page.page import write_report
from robust_cli.reporting.reading.load import load

MESSAGES = Path(__file__).parents[3] / "docs" / "messages.md"
IMAGES = 100


def rows(attack, norm, budget, robust, distance=None, label=0, first=0):
    """robust: how many of the images stand, those with the highest numbers first to go, or 0/1 for each."""
    each = [int(i < robust) for i in range(IMAGES)] if isinstance(robust, int) else list(robust)
    far = budget if distance is None else distance
    far = 0.0 if math.isinf(far) else far
    labels = label if isinstance(label, list) else [label] * len(each)
    return [{"attack": attack, "norm": norm, "budget": budget, "index": first + i, "label": labels[i], "robust": r, "l2": far,
             "linf": far} for i, r in enumerate(each)]


def another(build, name="b"):
    """A builder whose runs have the same names elsewhere."""
    return type(build)(build.root / name)


def found(build, *groups, originals=None, label=0, **about):
    clean = rows("none", "", 0, IMAGES, label=label)
    about = {"classifier": "base", "budgets": {"l2": [0.5, 1.0], "linf": [0.1, 0.2]}, **about}
    folder = build.attack("a", [*clean, *(row for group in groups for row in group)], originals=originals, **about)
    sentences = doubts(load([folder.path]).attacked[0])
    for sentence in sentences:
        heading = re.search(r'\(docs/messages\.md, "(.+)"\)\.$', sentence)
        assert heading is not None
        assert f"\n## {heading[1]} (attack" in MESSAGES.read_text()
        assert re.search(r"\d", sentence)
    return sentences


def about_of(**kinds):
    return {name: {"norm": "l2", "settings": {"steps": 40}, **({"kind": kind} if kind else {})} for name, kind in kinds.items()}


# A stronger attack is weaker than FGSM.


@pytest.mark.parametrize(("strong", "step", "norm"), [("pgd_linf", "fgsm", "linf"), ("auto_pgd_l2", "fgm", "l2"),
                                                      ("cw_pgd_l2", "fgm", "l2"), ("second_order", "fgm", "l2"),
                                                      ("standard_linf", "fgsm", "linf"), ("pgd_linf", "rfgsm", "linf")])
def test_steps_that_leave_more_than_one_step(build, strong, step, norm):
    (sentence,) = found(build, rows(strong, norm, 0.1, 40), rows(step, norm, 0.1, 30))
    assert sentence.startswith(f"{strong} leaves 10.0 % more of the 100 images than {step} at {norm} 0.1, ")


def test_a_hundredth_is_allowed_and_the_plainest_budget_is_told(build):
    assert found(build, rows("pgd_linf", "linf", 0.1, 31), rows("fgsm", "linf", 0.1, 30)) == []
    assert found(another(build), rows("pgd_linf", "linf", 0.1, 30), rows("fgsm", "linf", 0.1, 40)) == []
    (sentence,) = found(another(build, "c"), *(rows(name, "linf", budget, left) for name, budget, left in (
        ("pgd_linf", 0.1, 35), ("fgsm", 0.1, 30), ("pgd_linf", 0.2, 33), ("fgsm", 0.2, 20), ("fgsm", 0.3, 0))))
    assert "13.0 % more" in sentence
    assert "at linf 0.2" in sentence


@pytest.mark.parametrize("name", ["pgd_targeted_linf", "rfgsm", "pgd_linf@1a2b3c4d", "pgd_linf@8bit"])
def test_attacks_of_which_no_more_is_expected(build, name):
    assert found(build, rows(name, "linf", 0.1, 60), rows("fgsm", "linf", 0.1, 30)) == []


def test_another_norm_and_another_budget_do_not_compare(build):
    assert found(build, rows("pgd_l2", "l2", 0.1, 60), rows("pgd_linf", "linf", 0.2, 60), rows("fgsm", "linf", 0.1, 30)) == []


def test_two_attacks_compare_on_the_images_they_share(build):
    (sentence,) = found(build, rows("pgd_linf", "linf", 0.1, 100), rows("fgsm", "linf", 0.1, 30)[:50])
    assert sentence.startswith("pgd_linf leaves 40.0 % more of the 50 images than fgsm")


def test_what_a_run_says_of_an_attack_goes_before_its_name(build):
    about = {"mine": {"norm": "linf", "settings": {"steps": 9}, "target": "me.Mine", "kind": "gradient"},
             "step": {"norm": "linf", "settings": {}, "target": "robust_cli.attacks.fast_gradient.FastGradient"}}
    (sentence,) = found(build, rows("mine", "linf", 0.1, 60), rows("step", "linf", 0.1, 30), attacks=about)
    assert sentence.startswith("mine leaves 30.0 % more")
    about["mine"]["settings"]["choice"] = "random"
    other = another(build)
    assert found(other, rows("mine", "linf", 0.1, 60), rows("step", "linf", 0.1, 30), attacks=about) == []


def pair(more, fewer):
    """Two columns of outcomes that differ on ``more`` images one way and on ``fewer`` the other; half of the rest stand."""
    rest = [int(i < 40) for i in range(IMAGES - more - fewer)]
    return [1] * more + [0] * fewer + rest, [0] * more + [1] * fewer + rest


@pytest.mark.parametrize(("more", "fewer", "chance"),
                         [(8, 2, True), (13, 1, False), (30, 24, True), (8, 0, True), (10, 0, False)])
def test_votes_have_to_differ_beyond_chance_in_pairs(build, more, fewer, chance):
    """Of m images one way and f the other out of 100: m - f against 3 sqrt(m + f - (m - f)^2 / 100)."""
    assert (more - fewer <= 3 * math.sqrt(more + fewer - (more - fewer) ** 2 / IMAGES)) == chance
    weak, step = pair(more, fewer)
    groups = rows("pgd_linf", "linf", 0.1, weak), rows("fgsm", "linf", 0.1, step)
    assert len(found(build, *groups, classifier="smoothed")) == (not chance)
    assert len(found(another(build), *groups)) == 1  # a base classifier has no votes


# An attack without gradients beats the gradient attacks.


@pytest.mark.parametrize(("name", "kind"), [("square_l2", None), ("boundary", None), ("gaussian_noise", None),
                                            ("own", "decisions"), ("own", "scores"), ("own", "noise")])
def test_less_knowledge_that_finds_more(build, name, kind):
    groups = rows("pgd_l2", "l2", 0.5, 50), rows("cw_pgd_l2", "l2", 0.5, 40), rows(name, "l2", 0.5, 30)
    (sentence,) = found(build, *groups, attacks=about_of(pgd_l2=None, **{name: kind}))
    assert sentence.startswith(f"cw_pgd_l2 leaves 10.0 % more of the 100 images than {name} at l2 0.5, ")  # the best of them


def test_a_list_with_gradient_attacks_is_one_though_it_has_one_by_scores(build):
    """As a run tells of the standard list: it compares scores somewhere. It may find more, and should not find less."""
    told = {"norm": "l2", "kind": "scores", "target": "robust_cli.attacks.ensemble.Ensemble",
            "settings": {"attacks.auto_pgd_ce.loss": "cross_entropy", "attacks.square.queries": 5000}}
    about = {**about_of(pgd_l2="gradient", fgm="gradient"), "standard_l2": told}
    assert found(build, rows("pgd_l2", "l2", 0.5, 50), rows("standard_l2", "l2", 0.5, 40), attacks=about) == []
    (sentence,) = found(another(build), rows("standard_l2", "l2", 0.5, 50), rows("fgm", "l2", 0.5, 40), attacks=about)
    assert sentence.startswith("standard_l2 leaves 10.0 % more")
    told["settings"] = {"attacks.square.queries": 5000}
    (sentence,) = found(another(build, "c"), rows("pgd_l2", "l2", 0.5, 50), rows("standard_l2", "l2", 0.5, 40), attacks=about)
    assert "takes no gradients" in sentence


def test_no_doubt_where_gradients_find_as_much_or_were_not_followed(build):
    assert found(build, rows("pgd_l2", "l2", 0.5, 30), rows("square_l2", "l2", 0.5, 30)) == []
    weak = rows("fgm", "l2", 0.5, 70), rows("pgd_targeted_l2", "l2", 0.5, 70)
    assert found(another(build), *weak, rows("square_l2", "l2", 0.5, 30)) == []


def test_closest_examples_compare_at_the_budgets(build):
    """boundary: 60 images at 0.4 and none else; deepfool: 50 at 0.4."""
    near = [{**row, "l2": 0.4 * (1 - row["robust"])} for row in rows("boundary", "l2", math.inf, 40)]
    far = [{**row, "l2": 0.4 * (1 - row["robust"])} for row in rows("deepfool", "l2", math.inf, 50)]
    (sentence,) = found(build, near, far)
    assert sentence.startswith("deepfool leaves 10.0 % more of the 100 images than boundary at l2 0.5")


# Accuracy does not fall to 0 at a huge budget.

TEN = [i % 10 for i in range(IMAGES)]


def many(seed=0):
    """Noise that fills the box, so that no two images are near."""
    return (np.random.default_rng(seed).random((IMAGES, 1, 4, 4)) > 0.5).astype(np.uint8) * np.uint8(255)


def huge(build, norm, budget, robust, originals=None):
    return found(build, rows(f"pgd_{norm}", norm, budget, robust, label=TEN), label=TEN, classes=10,
                 originals=many() if originals is None else originals)


@pytest.mark.parametrize(("norm", "budget"), [("linf", 0.5), ("l2", 2.6), ("l1", 10.0)])
def test_more_than_one_class_stands_where_all_images_are_one(build, norm, budget):
    (sentence,) = huge(build, norm, budget, 60)
    assert f"at {norm} {budget:g}, leaves 60 of 100 images" in sentence
    assert "missed at least 54" in sentence  # 60 less the largest class, 6


@pytest.mark.parametrize(("norm", "budget"), [("linf", 0.49), ("l2", 1.5), ("l1", 5.0), ("std", 9.0)])
def test_a_budget_within_which_they_are_not_one_says_nothing(build, norm, budget):
    assert huge(build, norm, budget, 60) == []


def test_one_class_may_stand(build):
    assert huge(build, "linf", 0.5, [int(label == 3) for label in TEN]) == []
    assert huge(another(build), "linf", 0.5, 0) == []


def test_images_out_of_reach_may_stand(build):
    """All but ten are nearly grey: at linf 0.1 those can be one image. The ten that keep their pixels at 0 and 255 stand."""
    originals = np.full((IMAGES, 1, 4, 4), 128, np.uint8)
    originals[:10] = many()[:10]
    assert huge(build, "linf", 0.1, 10, originals=originals) == []
    (sentence,) = huge(another(build), "linf", 0.1, 30, originals=originals)
    assert "leaves 20 of 90 images" in sentence
    assert "missed at least 18" in sentence


def test_the_best_gradient_attack_is_held_to_it_alone(build):
    groups = [rows(name, "linf", 0.5, left, label=TEN) for name, left in (("fgsm", 90), ("pgd_linf", 0), ("uniform_noise", 99))]
    assert found(build, *groups, label=TEN, originals=many(), classes=10) == []
    assert found(another(build), groups[2], label=TEN, originals=many(), classes=10) == []  # noise may leave what it likes


def test_without_stored_images_nothing_is_said(build):
    assert found(build, rows("pgd_linf", "linf", 0.5, 60, label=TEN), label=TEN, classes=10) == []


def test_distances_to_the_meeting_image(build):
    originals = np.array([[0.0, 1.0], [0.5, 0.5], [0.4, 0.0]], np.float32).reshape(3, 1, 1, 2)
    outcomes = [{"attack": attack, "budget": budget, "index": i, "label": 0, "robust": 1}
                for attack, budget in (("none", 0), ("p", 1)) for i in (4, 7, 9)]
    run = load([build.attack("m", outcomes, originals=originals).path]).attacked[0]
    at = np.array([9, 4, 7])  # 9: (0.4, 0), 4: (0, 1), 7: (0.5, 0.5); middle (0.25, 0.5), mean (0.3, 0.5)
    assert distances_to_meeting(run, at, "linf").to_dict() == pytest.approx({9: 0.5, 4: 0.5, 7: 0.25})
    assert distances_to_meeting(run, at, "l1").to_dict() == pytest.approx({9: 0.6, 4: 0.8, 7: 0.2})
    lengths = {9: math.hypot(0.1, 0.5), 4: math.hypot(0.3, 0.5), 7: 0.2}
    assert distances_to_meeting(run, at, "l2").to_dict() == pytest.approx(lengths)


# The box used up the budget; images that were not moved.


def test_images_left_far_inside_the_ball(build):
    (sentence,) = found(build, rows("fgm", "l2", 0.5, 50, distance=0.49), rows("fgm", "l2", 1.0, 40, distance=0.7))
    assert sentence.startswith("the 40 images that fgm leaves at l2 1 are at a median distance of 0.7, 70 % of the budget")


@pytest.mark.parametrize(("attack", "norm", "distance", "robust"), [
    ("fgm", "l2", 0.81, 40),  # near enough
    ("fgm", "l2", 0.7, 9),  # too few to say
    ("gaussian_noise", "l2", 0.7, 40), ("square_l2", "l2", 0.7, 40),  # they need not spend it
    ("pgd_l1", "l1", 0.7, 40)])  # of which no distance is kept
def test_no_doubt_about_the_box(build, attack, norm, distance, robust):
    assert found(build, rows(attack, norm, 1.0, robust, distance=distance)) == []


def test_fooled_images_may_be_near(build):
    near = [{**row, "l2": 1.0 if row["robust"] else 0.1} for row in rows("pgd_l2", "l2", 1.0, 40)]
    assert found(build, near) == []


def test_images_that_did_not_move_are_not_the_boxes_doing(build):
    still = [{**row, "l2": 0.0, "linf": 0.0} if row["index"] < 4 else row for row in rows("pgd_l2", "l2", 1.0, 40)]
    (sentence,) = found(build, still)
    assert sentence.startswith("pgd_l2 did not move 4 of the 40 images that it leaves at l2 1")
    assert found(another(build), [row for row in still if row["index"] > 0]) == []  # 3 of 39
    most = [{**row, "l2": 0.0, "linf": 0.0} if row["index"] < 30 else row for row in rows("pgd_l2", "l2", 1.0, 40)]
    (sentence,) = found(another(build, "c"), most)
    assert "did not move 30 of the 40" in sentence


def test_the_report_says_them_with_those_of_the_look(build, tmp_path):
    groups = [*rows("none", "", 0, IMAGES), *rows("pgd_linf", "linf", 0.1, 40), *rows("fgsm", "linf", 0.1, 30)]
    folder = build.attack("a", groups, classifier="base", doubts=["seen before the attacks."])
    warnings = write_report([folder.path], tmp_path).warnings
    assert warnings[0] == "a: seen before the attacks."
    assert warnings[1].startswith("a: pgd_linf leaves 10.0 % more")
