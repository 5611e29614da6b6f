"""FILE.json beside our own TSV files: what a reader of the rows alone would get wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest

from robust_cli.messages import UserError
from robust_cli.reporting.certified import accuracy as certified
from robust_cli.reporting.certified import levels
from robust_cli.reporting.certified import tables as certified_tables
from robust_cli.reporting.lines.of_runs import certified_lines
from robust_cli.reporting.page.records import warnings
from robust_cli.reporting.reading.load import Runs, load
from robust_cli.reporting.reading.published_tsv import Said, read_tsv, write_sidecar, write_tsv

NONE = "–"  # noqa: RUF001


def exported(build, folder, certificate):
    """The TSV of a run with what stands beside it, read again, and the run itself."""
    run = load([folder.path]).certified[0]
    write_tsv(run.of(certificate), folder.tsv(certificate))
    write_sidecar(folder.tsv(certificate), run.about, certificate, run.plan())
    return read_tsv(folder.tsv(certificate)), run


def test_a_table_of_levels_stays_one(build):
    rows = [(0, 0, 0, 0.7), (1, 1, -1, 0.0)]
    folder = build.certify("t", {"neyman_pearson": rows}, plan={"radii": [0.5, 0.7]}, largest=0.7, comparable=False,
                           sampling={"name": "sequential", "radii": [0.5, 0.7]})
    theirs, ours = exported(build, folder, "neyman_pearson")
    (line,), (own,) = certified_lines([theirs], []), certified_lines([ours], [])
    assert levels.levels(line).tolist() == levels.levels(own).tolist() == [0.5, 0.7]
    (shown,), (meant,) = (certified_tables.accuracy_tables([one], [0.0, 0.5, 0.7]) for one in (line, own))
    assert shown.rows[0][3:] == meant.rows[0][3:]
    assert NONE in shown.rows[0][3:5]
    assert "rounded" not in " ".join(shown.notes)  # 0.7 has one digit, and is exact
    row = certified_tables.certificates_table([line]).rows[0]
    assert row[5:9] == ["gaussian", "sequential", "0.5", "1000"]


def test_skipped_images_are_no_abstentions(build):
    folder = build.certify("s", {"renyi": [(0, 0, 0, 1.0), (1, 1, -1, 0.0)]}, label_aware=True,
                           later={"norm": "l2", "stopped": {0: "complete", 1: "skipped"}})
    theirs, _ = exported(build, folder, "renyi")
    (line,) = certified_lines([theirs], [])
    assert certified.label_aware(line.tables[0])
    assert np.isnan(certified_tables.summary(line).abstention.value)


def test_norm_noise_and_ceiling_are_those_of_the_certificate(build):
    folder = build.certify("u", {"uniform_l1": [(0, 0, 0, 0.8)]}, largest=0.8, later={"norm": "l1"}, noise="uniform")
    about = folder.read_about()
    about["certificates"]["uniform_l1"]["norm"] = "l1"
    folder.write_about(about)
    theirs, _ = exported(build, folder, "uniform_l1")
    assert theirs.norm("published") == "l1"
    assert theirs.about["certificates"]["published"]["largest_radius"] == 0.8
    assert "above" not in str(theirs.about["remarks"])


def test_a_ceiling_of_gaussian_l2_is_put_to_nothing_else():
    for said in (Said(0.5, 1000, 0.001, noise="uniform"), Said(0.5, 1000, 0.001, norm="l1")):
        assert np.isnan(said.ceiling())
    assert Said(0.5, 1000, 0.001, noise="gaussian", norm="l2").ceiling() == Said(0.5, 1000, 0.001).ceiling() > 1


@pytest.mark.parametrize(("key", "value"), [("radii", [1.0, 0.5]), ("radii", []), ("radii", [-1.0]), ("norm", "l3"), ("exact", 1),
                                            ("comparable", "no"), ("largest_radius", -1.0)])
def test_nonsense_beside_a_file_is_refused(build, key, value):
    folder = build.certify("c", {"renyi": [(0, 0, 0, 1.0)]})
    exported(build, folder, "renyi")
    beside = folder.path / "certificates_renyi.tsv.json"
    beside.write_text(json.dumps({**json.loads(beside.read_text()), key: value}))
    with pytest.raises(UserError, match=f"for {key}, found"):
        read_tsv(folder.tsv("renyi"))


def test_a_radius_above_its_ceiling_is_a_warning_of_the_report(build, tmp_path):
    folder = build.certify("c", {"renyi": [(0, 0, 0, 1.5)]})
    path = tmp_path / "x.tsv"
    write_tsv(load([folder.path]).certified[0].of("renyi"), path)
    for samples, words in ((10, 1), (100_000, 0)):
        runs = Runs(certified=[read_tsv(path, Said(0.5, samples, 0.001, "mnist"))])
        found = warnings(runs, certified_lines(runs.certified, []))
        assert len([w for w in found if w.startswith("x.tsv: holds a radius of 1.5, above the")]) == words
