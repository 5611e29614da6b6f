"""Certified accuracy and its companions against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from robust_cli.messages import UserError
from robust_cli.reporting.certified import accuracy as certified
from robust_cli.reporting.estimates import estimate, over_runs


def table(rows: list[tuple[int, int, int, int, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["index", "label", "predicted", "majority", "radius"])


# Right at 1; right at 0.5; right with radius 0; wrong at 2; abstained (majority right); abstained on an image labelled by chance.
SIX = table(
    [
        (3, 0, 0, 0, 1.0),
        (5, 1, 1, 1, 0.5),
        (7, 2, 2, 2, 0.0),
        (8, 2, 1, 1, 2.0),
        (9, 1, -1, 1, 0.0),
        (11, 0, -1, 2, 0.0),
    ]
)


def test_certified_accuracy_counts_wrong_and_abstained_images_as_lost_and_is_strict_at_zero_only():
    curve = certified.curve(SIX, [0.0, 0.5, np.nextafter(0.5, 1), 1.0, 1.5])
    assert curve["accuracy"].tolist() == [2 / 6, 2 / 6, 1 / 6, 1 / 6, 0.0]
    assert curve["error"][1] == pytest.approx(math.sqrt(1 / 3 * 2 / 3 / 6))
    assert curve["images"].tolist() == [6] * 5


def test_summary_by_hand():
    s = certified.summary(SIX, 0.001, 1.5)
    assert s.natural.value == 4 / 6
    assert s.abstention.value == 2 / 6
    assert s.average_radius.value == pytest.approx(1.5 / 6)
    values = np.array([1, 0.5, 0, 0, 0, 0])
    assert s.average_radius.error == pytest.approx(math.sqrt(((values - 0.25) ** 2).sum()) / 6)
    assert s.false_expected == pytest.approx(0.006)
    assert s.false_quantile == 1  # P(more than 1 of 6 at 0.001) = 1.5e-5, P(more than 0) = 0.006
    assert s.largest_radius == 1.5


def test_runs_of_several_seeds_give_mean_and_spread():
    joined = over_runs([estimate([1, 1, 0, 0]), estimate([1, 0, 0, 0]), estimate([1, 1, 1, 0])])
    assert (joined.value, joined.runs, joined.images) == (0.5, 3, 4)
    assert joined.error == pytest.approx(0.25)  # of 0.5, 0.25, 0.75


def test_paired_difference_has_the_closed_form_of_discordant_pairs():
    rng = np.random.default_rng(0)
    index, label = np.arange(50), np.zeros(50, int)
    first, second = (
        table(list(zip(index, label, label, label, r, strict=True))) for r in rng.exponential(size=(2, 50))
    )
    a, b = (certified.certified(t, 0.7) for t in (first, second))
    gained, lost = int((a & ~b).sum()), int((b & ~a).sum())
    found = certified.paired([first], [second.sample(frac=1, random_state=1)], 0.7)
    assert found["difference"][0] == pytest.approx((gained - lost) / 50)
    assert found["error"][0] == pytest.approx(math.sqrt(gained + lost - (gained - lost) ** 2 / 50) / 50)


def test_pairing_is_by_image_not_by_row():
    whole = table([(k, 0, 0, 0, float(k)) for k in range(10)])
    every_second = whole[whole["index"] % 2 == 0].iloc[::-1]
    found = certified.paired([whole], [every_second], [0.5, 5.0])
    assert found["difference"].tolist() == [0, 0]
    assert found["images"].tolist() == [5, 5]


def test_pairing_refuses_other_labels():
    with pytest.raises(UserError, match="same label"):
        certified.paired([SIX], [SIX.assign(label=0)], 0.5)


@pytest.mark.parametrize(
    ("largest", "radii"),
    [
        (1.58, [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]),
        (0.6, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        (3.2, [0, 0.5, 1, 1.5, 2, 2.5, 3]),
        (math.nan, [0]),
        (0.0, [0]),
    ],
)
def test_radii_of_a_table_are_round_and_never_above_the_largest(largest, radii):
    assert certified.default_radii(largest).tolist() == radii


def test_a_collapsed_classifier_is_noticed():
    labels = np.repeat(np.arange(10), 5)
    constant = pd.DataFrame({"label": labels, "majority": 3})
    assert certified.collapsed(constant, 10) == 1
    assert certified.collapsed(constant.assign(majority=labels), 10) is None
    tied = constant.assign(majority=np.where(labels < 4, labels, -1))  # four classes and ties, which name none
    assert certified.collapsed(tied, 10) == 4
