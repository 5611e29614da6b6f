"""What a report says of runs that are not of the same images, of shards, and of data sets that nobody knows."""

from __future__ import annotations

import pytest

from robust_cli.reporting.certified import alike
from robust_cli.reporting.reading.load import load
from robust_cli.reporting.reading.published_tsv import Said, read_sources, write_tsv


def run(build, name, images, **about):
    return build.certify(name, {"renyi": [(i, i % 3, i % 3, 1.0) for i in images]}, images=len(images), **about)


def test_the_same_images_under_two_names_are_one_subset(build, tmp_path):
    first, second = run(build, "a", range(4), subset="first:4"), run(build, "b", range(4), subset="all", seed=1)
    write_tsv(load([first.path]).certified[0].of("renyi"), tmp_path / "x.tsv")
    runs = read_sources([first.path, second.path, tmp_path / "x.tsv"], Said(dataset="mnist")).certified
    assert alike.warnings(runs) == []


def test_other_images_under_one_name_are_told(build):
    run(build, "a", range(4), subset="random:4")
    run(build, "b", range(1, 5), subset="random:4")
    (said,) = alike.warnings(load([build.root]).certified)
    assert said == "mnist: certified on different images, a (4 images), b (4 images); compare them by the paired differences."


def test_shards_of_one_run_are_to_be_merged_and_no_other_subset_than_the_whole(build):
    for k in (1, 2):
        run(build, f"part{k}", range(k - 1, 6, 2), shard=f"{k}/2")
    run(build, "whole", range(6))
    (said,) = alike.warnings(load([build.root]).certified)
    assert said == f"2 shards of one run: make it whole first, robust merge {build.root}/part1 {build.root}/part2"


def test_a_missing_shard_is_named_and_shards_of_other_runs_are_none(build):
    run(build, "a", [0, 3], shard="1/3")
    run(build, "c", [2, 5], shard="3/3")
    run(build, "d", [1, 4], shard="2/3", seed=1)
    said = " ".join(alike.warnings(load([build.root]).certified))
    assert "2/3 missing" in said
    assert f"robust merge {build.root}/a {build.root}/c ..." in said


@pytest.mark.parametrize(("name", "words"), [("minst", "did you mean mnist?"), ("mnist", None), ("cifar10", None)])
def test_a_data_set_that_nobody_knows_is_told(build, tmp_path, name, words):
    folder = run(build, "a", range(4))
    write_tsv(load([folder.path]).certified[0].of("renyi"), tmp_path / "x.tsv")
    said = " ".join(alike.warnings(read_sources([folder.path, tmp_path / "x.tsv"], Said(dataset=name)).certified))
    assert (words is None) == ("none of ours" not in said)
    assert (words or "") in said


def test_a_data_set_of_a_run_of_ones_own_is_known(build, tmp_path):
    folder = run(build, "a", range(4), dataset="my_scans")
    write_tsv(load([folder.path]).certified[0].of("renyi"), tmp_path / "x.tsv")
    assert alike.warnings(read_sources([folder.path, tmp_path / "x.tsv"], Said(dataset="my_scans")).certified) == []
