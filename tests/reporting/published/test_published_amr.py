"""AMR's printed rows stand beside ours where data set and model are the same, and nowhere else."""

from __future__ import annotations

import pytest
from trainings import STANDARD, Trainings, folds, moment

from robust_cli.reporting.published import amr
from robust_cli.reporting.reading.load import load
from robust_cli.reporting.trained.noise_training import groups


def table(build):
    return amr.beside_ours(groups(load([build.root])))


def two(build, **about):
    trainings = Trainings(build)
    trainings.add("standard", STANDARD, 0.98, 0.80, **about)
    trainings.add("moment", moment(0.25, 1.0), 0.985, 0.90, **about)
    trainings.add("noise_augmentation", folds(0.25, 2), 0.9, 0.85, **about)


def test_its_rows_of_lenet_on_mnist_beside_ours_with_the_sizes_of_both(build):
    two(build)
    found = table(build)
    printed = [row for row in found.rows if row[1] == amr.AMR]
    assert [row[4:7] for row in printed] == [["0", "77.45", "98.50"], ["0.125", "93.14", "97.50"], ["0.25", "95.64", "98.75"],
                                             ["0.325", "96.75", "97.50"], ["1", "97.32", "99.00"]]
    assert all("400" in row[-1] for row in printed)
    ours = [row for row in found.rows if row[1] != amr.AMR]
    assert [(row[0], row[4], row[5], row[6]) for row in ours] == [
        ("standard", "0", "80.0 ± 1.0", "98.0 ± 0.1"), ("moment, noise 0.25, weight 1", "0.25", "90.0 ± 1.0", "98.5 ± 0.1")]
    assert all("GNR of 100, accuracy of 10000 test images; trained on 60 images, 15 epochs" in row[-1] for row in ours)


@pytest.mark.parametrize("about", [{"model": "cnn_small"}, {"dataset": "digits"}, {"model": "alexnet"}])
def test_no_row_of_another_model_or_data_set(build, about):
    two(build, **about)  # AMR has no alexnet on mnist
    assert table(build) is None


def test_another_data_set_has_its_own_rows(build):
    two(build, dataset="cifar10")
    assert {row["gnr"] for row in table(build).data.to_dict("records") if row["source"] == amr.AMR} == \
        {24.37, 40.08, 37.60, 38.32, 44.03}


def test_other_trainings_than_its_own_call_for_none(build):
    trainings = Trainings(build)
    for number in (2, 11):
        trainings.add("noise_augmentation", folds(0.25, number), 0.9, 0.85)
    assert table(build) is None
