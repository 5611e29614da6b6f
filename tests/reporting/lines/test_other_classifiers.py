"""Certificates of the expected softmax and noise after the first layer are of other classifiers: never drawn or joined as one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from robust_cli.reporting.attacked.transfer import transfer_tables
from robust_cli.reporting.certified import tables as certified_tables
from robust_cli.reporting.lines.of_runs import attacked_lines, certified_lines
from robust_cli.reporting.page.pictures import of_runs
from robust_cli.reporting.published import stn
from robust_cli.reporting.reading.load import load
from robust_cli.reporting.reading.published_tsv import Said, read_tsv, write_sidecar, write_tsv
from robust_cli.runs.folder import RunFolder

ROWS = [(1, 0, 0, 0.4), (2, 0, 0, 0.8)]
FIRST = {"layer": "first", "operator_norm": 2.0}
OUTCOMES = [{"attack": a, "budget": b, "index": i, "label": 0, "robust": 1}
            for a, b in (("none", 0), ("pgd_l2", 0.5)) for i in (1, 2)]


def of_softmax(folder: RunFolder, name: str) -> RunFolder:
    about = folder.read_about()
    about["certificates"][name] |= {"scores": "softmax", "interval": "hoeffding"}
    folder.write_about(about)
    return folder


def combined(build) -> list[str]:
    runs = load([build.root])
    pictures = of_runs(runs, certified_lines(runs.certified, []), attacked_lines(runs.attacked, []))
    return [picture.name for picture in pictures if picture.name.startswith("combined")]


def test_attacks_decided_by_votes_are_not_drawn_over_softmax_certificates(build):
    of_softmax(build.certify("c", {"pixeldp_softmax": ROWS}), "pixeldp_softmax")
    build.attack("a", OUTCOMES)
    assert combined(build) == []
    build.certify("d", {"pixeldp": ROWS})
    assert combined(build) == ["combined_mnist_1"]


def test_votes_and_softmax_of_one_certificate_are_two_families_that_say_so(build):
    build.certify("a", {"neyman_pearson": ROWS})
    folder = of_softmax(build.certify("b", {"neyman_pearson": ROWS}), "neyman_pearson")
    lines = certified_lines(load([build.root]).certified, [])
    assert [line.title for line in lines] == ["stability, neyman_pearson", "expected softmax"]
    assert len({line.family for line in lines}) == 2
    (alone,) = certified_lines(load([folder.path]).certified, [])
    assert alone.facets["scores"] == "expected softmax"


@pytest.mark.parametrize("soft", [False, True])
def test_notes_say_what_holds_for_softmax_rows_where_there_are_such(build, soft):
    folder = build.certify("a", {"neyman_pearson": ROWS})
    lines = certified_lines(load([of_softmax(folder, "neyman_pearson").path if soft else folder.path]).certified, [])
    (accuracy,) = certified_tables.accuracy_tables(lines)
    assert ("largest mean softmax" in " ".join(accuracy.notes)) is soft
    assert ("bounds prove to have" in " ".join(certified_tables.certificates_table(lines).notes)) is soft


@pytest.mark.parametrize("other", [{"smoothing": FIRST}, {"noise": "uniform"}])
def test_the_same_noise_elsewhere_or_of_another_kind_has_its_own_row(build, other):
    made = {"pgd@bbbbbbbb": {"source": "gone", "attack": "pgd", "fingerprint": "b" * 64, "title": "other"}}
    for name, robust, about in (("x", 1, {}), ("y", 0, other)):
        rows = [{**o, "attack": "pgd@bbbbbbbb" if o["budget"] else "none", "robust": robust if o["budget"] else 1}
                for o in OUTCOMES]
        build.attack(name, rows, transfer=made, **about)
    (table,) = transfer_tables(load([build.root]).attacked)
    words = "smoothed 0.5 in the first layer" if "smoothing" in other else "smoothed 0.5 uniform"
    assert [row[0] for row in table.rows] == ["stability, smoothed 0.5", f"stability, {words}"]
    assert [row[1] for row in table.rows] == ["100.0 ± 0.0", "0.0 ± 0.0"]


def test_stn_stands_beside_its_own_classifier_alone(build):
    build.certify("a", {"renyi": ROWS})
    build.certify("b", {"renyi": ROWS}, smoothing=FIRST)
    of_softmax(build.certify("c", {"pixeldp_softmax": ROWS}), "pixeldp_softmax")
    table = stn.beside_ours(certified_lines(load([build.root]).certified, []))
    assert table is not None
    assert len({row[0] for row in table.rows if row[1] == "this report"}) == 1


def test_what_stands_beside_a_file_says_the_place_of_the_noise_and_the_scores(build, tmp_path: Path):
    folder = of_softmax(build.certify("b", {"neyman_pearson": ROWS}, smoothing=FIRST), "neyman_pearson")
    run, path = load([folder.path]).certified[0], tmp_path / "b.tsv"
    write_tsv(run.of("neyman_pearson"), path)
    write_sidecar(path, run.about, "neyman_pearson", {})
    found = json.loads((tmp_path / "b.tsv.json").read_text())
    assert (found["noise_layer"], found["operator_norm"], found["scores"]) == ("first", 2.0, "softmax")
    (line,) = certified_lines([read_tsv(path)], [])
    assert (line.facets["noise_layer"], line.facets["scores"]) == ("noise in the first layer", "expected softmax")
    assert certified_tables.certificates_table([line]).data[["noise_layer", "scores"]].values.tolist() == [["first", "softmax"]]
    plain = build.certify("c", {"renyi": ROWS}, smoothing={"layer": "input", "operator_norm": 1.0})
    write_sidecar(path, plain.read_about(), "renyi", {})
    assert not {"noise_layer", "operator_norm", "scores"} & set(json.loads((tmp_path / "b.tsv.json").read_text()))


def test_the_ceiling_is_that_of_the_noise_in_pixels():
    image = Said(0.5, 1000, 0.001)
    assert Said(1.0, 1000, 0.001, noise_layer="first", operator_norm=2.0).ceiling() == image.ceiling() > 1
    assert np.isnan(Said(1.0, 1000, 0.001, noise_layer="first").ceiling())
    assert np.isnan(Said(0.5, 1000, 0.001, scores="softmax").ceiling())
