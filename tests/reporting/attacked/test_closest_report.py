"""Curves and distances of attacks without a budget, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robust_cli.reporting.attacked import accuracy as attacked
from robust_cli.reporting.attacked.closest import closest_table, measures
from robust_cli.reporting.lines.of_runs import attacked_lines
from robust_cli.reporting.reading.load import load

# Images 10..13: found at 0.25, found at 1, none found, wrong when clean.
FOUND = [(0, 0.25), (0, 1.0), (1, 0.0), (0, 0.0)]


def rows(attack, budget, outcomes):
    return [{"attack": attack, "norm": "l2", "budget": budget, "index": 10 + k, "label": 0, "robust": r, "l2": d, "linf": d / 2,
             "forward": 30, "backward": 20} for k, (r, d) in enumerate(outcomes)]


@pytest.fixture
def run(build):
    originals = np.zeros((4, 1, 2, 2), np.uint8)
    originals[:, 0, 0, 0], originals[:, 0, 1, 1] = 153, 204  # 0.6 and 0.8: length 1
    folder = build.attack("a", [*rows("none", 0, [(1, 0), (1, 0), (1, 0), (0, 0)]), *rows("deepfool", math.inf, FOUND),
                                *rows("pgd", 0.5, [(1, 0.5), (1, 0.5), (0, 0.5), (0, 0)])],
                          originals=originals, classifier="base", budgets={"l2": [0.1, 0.25, 0.5, 1.0]})
    return load([folder.path]).attacked[0]


def test_the_curve_follows_from_the_distances(run):
    curve = attacked.curve([attacked.frame(run, "deepfool")])
    assert curve["budget"].tolist() == [0, 0.1, 0.25, 0.5, 1]
    assert curve["accuracy"].tolist() == [0.75, 0.75, 0.5, 0.5, 0.25]


def test_the_worst_case_takes_it_in(run):
    """At 0.5 the one attack fools images 10 and 13, the other 12 and 13."""
    frames = [attacked.frame(run, name) for name in ("deepfool", "pgd")]
    worst = attacked.worst_case(frames, "l2")
    assert attacked.curve([worst])["accuracy"].tolist() == [0.75, 0.25]


def test_measures_of_each_image(run):
    found = measures(run, "deepfool")
    assert found["l2"].tolist() == [0.25, 1, math.inf, 0]
    assert found["linf"].tolist() == [0.125, 0.5, math.inf, 0]
    assert found["squared"].tolist() == [0.25**2 / 4, 0.25, math.inf, 0]
    assert found["relative"].tolist() == pytest.approx([0.25, 1, math.inf, 0])


def test_the_table(run):
    table = closest_table(attacked_lines([run], []))
    assert table is not None
    assert len(table.rows) == 1  # neither the attack with budgets nor the worst case
    row = table.data.iloc[0]
    assert (row["images"], row["success"]) == (4, 0.75)
    assert row["mean_l2"] == pytest.approx((0.25 + 1 + 0) / 3)
    assert row["median_l2"] == pytest.approx((0.25 + 1) / 2)  # of 0, 0.25, 1, infinity
    assert row["mean_relative"] == pytest.approx(1.25 / 3)
    assert (row["forward"], row["backward"]) == (30, 20)


def test_where_half_of_the_images_have_none(build):
    folder = build.attack("b", [*rows("none", 0, [(1, 0)] * 4), *rows("deepfool", math.inf, [(0, 0.5), (1, 0), (1, 0), (1, 0)])],
                          originals=np.full((4, 1, 2, 2), 0.5, np.float32), classifier="base", budgets={"l2": [1.0]})
    table = closest_table(attacked_lines(load([folder.path]).attacked, []))
    assert table is not None
    assert table.data.iloc[0]["median_l2"] == math.inf
    assert "none found" in table.rows[0]


def test_no_such_attack_no_table(build):
    folder = build.attack("c", [*rows("none", 0, [(1, 0)] * 4), *rows("pgd", 0.5, FOUND)])
    assert closest_table(attacked_lines(load([folder.path]).attacked, [])) is None
