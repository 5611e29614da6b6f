"""Robust accuracy, worst case, distances and costs by hand."""

from __future__ import annotations

import math

import pytest

from robust_cli.reporting.attacked import accuracy as attacked
from robust_cli.reporting.attacked import tables as attacked_tables
from robust_cli.reporting.lines.of_runs import attacked_lines
from robust_cli.reporting.reading.load import load


def rows(attack, budget, robust, l2, cost, norm="l2"):
    return [
        {
            "attack": attack,
            "norm": norm,
            "budget": budget,
            "index": 10 + k,
            "label": 0,
            "robust": r,
            "l2": d,
            "linf": d / 2,
            "forward": cost,
            "backward": cost - 1,
        }
        for k, (r, d) in enumerate(zip(robust, l2, strict=True))
    ]


@pytest.fixture
def run(build):
    folder = build.attack(
        "a",
        [
            *rows("none", 0, [1, 1, 1, 0], [0] * 4, 1),
            *rows("pgd", 0.5, [1, 0, 1, 0], [0.5, 0.25, 0.5, 0.0], 40),
            *rows("pgd", 1.0, [0, 0, 1, 0], [0.75, 0.25, 1, 0.0], 40),
            *rows("so", 0.5, [0, 1, 1, 0], [0.5, 0.5, 0.5, 0.0], 20),
            *rows("so", 1.0, [1, 0, 1, 0], [1, 0.125, 1, 0.0], 20),
            *rows("so", 2.0, [0, 0, 0, 0], [2, 2, 2, 0.0], 20),
        ],
    )
    return load([folder.path]).attacked[0]


def test_the_curve_begins_at_the_clean_accuracy_and_counts_all_images(run):
    curve = attacked.curve([attacked.frame(run, "pgd")])
    assert curve["budget"].tolist() == [0, 0.5, 1]
    assert curve["accuracy"].tolist() == [0.75, 0.5, 0.25]
    assert curve["error"][2] == pytest.approx(math.sqrt(0.25 * 0.75 / 4))


def test_distances_are_of_successful_examples_alone(run):
    half, one = attacked.cells([attacked.frame(run, "pgd")], "l2")
    assert (half.successes, half.mean_distance, half.median_distance) == (
        1,
        0.25,
        0.25,
    )  # the image wrong when clean is none
    assert (one.successes, one.mean_distance, one.median_distance) == (2, 0.5, 0.5)
    assert (one.forward, one.backward) == (40, 39)
    assert attacked.cells([attacked.frame(run, "pgd")], "linf")[1].mean_distance == 0.25


def test_no_success_has_no_distance(build):
    run = load([build.attack("b", [*rows("none", 0, [1], [0], 1), *rows("p", 0.5, [1], [0.5], 3)]).path]).attacked[0]
    cell = attacked.cells([attacked.frame(run, "p")], "l2")[0]
    assert cell.successes == 0
    assert math.isnan(cell.mean_distance)


def test_worst_case_is_per_image_at_the_budgets_all_attacks_share(run):
    worst = attacked.worst_case([attacked.frame(run, name) for name in ("pgd", "so")], "l2")
    assert sorted(worst["budget"].unique()) == [0, 0.5, 1]
    curve = attacked.curve([worst])
    assert curve["accuracy"].tolist() == [0.75, 0.25, 0.25]  # at 0.5 each attack alone leaves two images, together one
    half, one = attacked.cells([worst], "l2")
    assert one.mean_distance == pytest.approx((0.75 + 0.125) / 2)  # the nearer of the two successes on the second image
    assert (half.forward, half.backward) == (60, 58)


def test_the_tables_say_what_is_attacked(build, run):
    lines = attacked_lines([run], [])
    base = build.attack(
        "b", [*rows("none", 0, [1], [0], 1), *rows("p", 0.5, [1], [0.5], 3)], classifier="base", noise_std=None
    )
    both = attacked_tables.attack_tables(attacked_lines([run, *load([base.path]).attacked], []))
    assert [(t.name, t.title, len(t.rows)) for t in both] == [
        ("attacks", "Attacks on the smoothed classifier, decided by 1000 votes", 2 + 3 + 2),
        ("attacks_2", "Attacks on the base classifier", 1),
    ]
    assert attacked_tables.attack_tables(lines)[0].rows == [
        [r[0].split("noise 0.5, ")[1], *r[1:]] for r in both[0].rows
    ]
    assert (
        attacked.target({"classifier": "smoothed", "decision_votes": 10})
        == "the classifier with 10 votes (the papers' choice)"
    )
    assert attacked.target({"classifier": "base"}) == "the base classifier"
    brief = attacked_tables.brief(run)
    assert brief.columns == ["", "images", "clean %", "l2 0.5", "l2 1", "l2 2"]
    assert brief.rows[0] == ["pgd", "4", "75.0 ± 21.7", "50.0 ± 25.0", "25.0 ± 21.7", "–"]  # noqa: RUF001
