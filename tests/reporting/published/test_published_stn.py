"""STN's Table 1 beside ours: the provable defence, single and cascade, and the smoothed classifier, on the same images."""

from __future__ import annotations

import math

import pytest
from certified_networks import network

from robust_cli.reporting.lines.of_runs import certified_lines
from robust_cli.reporting.published import stn
from robust_cli.reporting.published.printed import published
from robust_cli.reporting.reading.load import load

PRINTED = "STN (Li et al. 2019), Table 1"


def rows(certified, wrong=(), images=range(4), radius=1.58):
    """Images of class 0, wrong answers as 1; those certified to a radius."""
    return [(i, 0, int(i in wrong), radius if i in certified else 0.0) for i in images]


def all_rows(build):
    cascade = {"model_fingerprint": "g1", "radius": 1.58}
    network(build, "single", rows({0}), radius=1.58)
    network(build, "cascade", rows({0, 1}, wrong={3}), cascade="sound", **cascade)
    network(build, "published", rows({0, 1, 2}, wrong={3}), cascade="published", certificate="lp_dual_published", **cascade)
    build.certify("stn", {"neyman_pearson": rows({1, 2, 3}, radius=1.6), "renyi": rows({1, 2}, radius=1.6)}, largest=2.0)
    return stn.beside_ours(certified_lines(load([build.root]).certified, []))


def test_the_rows_of_the_table_by_hand(build):
    table = all_rows(build)
    said = {(row[0], row[1]): row[2:6] for row in table.rows}
    assert said["lp_dual single", PRINTED] == ["mnist", "1.58", "43.5", "88.2"]
    assert said["lp_dual cascade", PRINTED] == ["mnist", "1.58", "74.6", "81.4"]
    assert said["stability", PRINTED] == ["mnist", "1.58", "69.0", "98.9"]
    ours = {row[0]: row[4:6] for row in table.rows if row[1] != PRINTED}
    quarter, half = f"± {100 * math.sqrt(3) / 8:.1f}", "± 25.0"
    expected = {"cascade, certified by lp_dual": [f"50.0 {half}", f"75.0 {quarter}"],
                "cascade, claimed by lp_dual_published": [f"75.0 {quarter}", f"75.0 {quarter}"],
                "neyman_pearson": [f"75.0 {quarter}", "100.0 ± 0.0"], "renyi": [f"50.0 {half}", "100.0 ± 0.0"]}
    for words, cells in expected.items():
        (title,) = (title for title in ours if all(word in title for word in words.split(", ")))
        assert ours.pop(title) == cells
    assert list(ours.values()) == [[f"25.0 {quarter}", "100.0 ± 0.0"]]  # the single network
    own = table.data[table.data["source"] == "this report"]
    assert own["claimed"].tolist().count(True) == 1
    assert own.loc[own["claimed"].astype(bool), "remark"].tolist() == ["4 images, exact, no sampling, claimed"]
    assert sorted(own["certified_error"].round(1)) == [21.7, 21.7, 21.7, 25.0, 25.0]


def test_other_images_are_left_out_where_enough_are_shared(build):
    network(build, "single", rows({0, 9}, images=range(10)), radius=1.58)
    build.certify("stn", {"renyi": rows({1, 2}, radius=1.6)}, largest=2.0)
    table = stn.beside_ours(certified_lines(load([build.root]).certified, []))
    assert [row[4] for row in table.rows[3:]] == ["25.0 ± 21.7", "50.0 ± 25.0"]
    assert any("of the 4 images that all of our lines have in common" in note for note in table.notes)


def test_images_that_are_not_shared_are_said(build):
    network(build, "single", rows({0}, images=range(10)), radius=1.58)
    build.certify("stn", {"renyi": rows({13}, images=range(9, 19), radius=1.6)}, largest=2.0)
    table = stn.beside_ours(certified_lines(load([build.root]).certified, []))
    assert [row[4] for row in table.rows[3:]] == ["10.0 ± 9.5", "10.0 ± 9.5"]
    assert any("not of the same images" in note for note in table.notes)


@pytest.mark.parametrize(("asked", "shown"), [(math.sqrt(784 / math.pi) / 10, "25.0 ± 21.7"), (1.0, "–"), (2.0, "–")])  # noqa: RUF001
def test_a_radius_asked_for_stands_beside_the_printed_one_that_it_is(build, asked, shown):
    network(build, "n", rows({0}, radius=asked), radius=asked)
    table = stn.beside_ours(certified_lines(load([build.root]).certified, []))
    assert table.rows[-1][4] == shown
    assert f"asked for {asked:.6g}" in table.rows[-1][-1]


def test_cifar_at_36_of_255_and_its_oddity(build):
    network(build, "n", rows({0}, radius=36 / 255), radius=36 / 255, dataset="cifar10")
    table = stn.beside_ours(certified_lines(load([build.root]).certified, []))
    assert [row[4:6] for row in table.rows[:3]] == [["53.0", "61.2"], ["58.7", "68.8"], ["65.6", "80.5"]]
    assert "possibly swapped, not verified" in table.rows[1][-1]
    assert table.rows[-1][4] == "25.0 ± 21.7"
    of = published("stn_table1").set_index(["dataset", "method"])["natural_accuracy"]
    assert of["cifar10", "lp_dual cascade"] > of["cifar10", "lp_dual single"]  # the other way round than on MNIST
    assert of["mnist", "lp_dual cascade"] < of["mnist", "lp_dual single"]
