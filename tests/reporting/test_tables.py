"""Formats: radii are never rounded up, CSVs hold every bit."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from robust_cli.reporting import tables
from robust_cli.reporting.certified import paired
from robust_cli.reporting.certified import tables as certified_tables
from robust_cli.reporting.estimates import Estimate
from robust_cli.reporting.lines.of_runs import certified_lines
from robust_cli.reporting.published import stn
from robust_cli.reporting.published.printed import published
from robust_cli.reporting.reading.load import load


@given(st.floats(0, 100), st.integers(1, 6))
def test_a_radius_is_never_shown_larger_than_it_is(value, decimals):
    shown = float(tables.radius(value, decimals))
    assert shown <= value
    assert value - shown < 10.0**-decimals * (1 + 1e-9)


def test_formats_by_hand():
    assert tables.radius(1.57973) == "1.579"
    assert tables.radius(0.9999) == "0.999"
    assert tables.radius(0.3) == "0.300"
    assert tables.radius(1.0, 4) == "1.0000"
    assert tables.radius(math.inf) == "unbounded"
    assert tables.radius(1e-9) == "0.000"
    assert tables.percent(Estimate(0.8796, 0.01449, 500)) == "88.0 ± 1.4"
    assert tables.difference(0.031, 0.008) == "+3.1 ± 0.8"
    assert tables.average_radius(Estimate(0.81299, 0.0121, 500)) == "0.812 ± 0.013"
    assert tables.average_radius(Estimate(0.5, 0.0, 500)) == "0.500 ± 0.000"


def test_markdown_and_csv_of_one_table(tmp_path):
    table = tables.Table("t", "A title", pd.DataFrame({"x": [0.1 + 0.2]}), ["", "x"], [["a|b", "0.3"]], ["A note."])
    assert tables.markdown(table) == "### A title\n\n|  | x |\n| --- | ---: |\n| a\\|b | 0.3 |\n\nA note.\n"
    tables.write_csv(table, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "x\n0.30000000000000004\n"


def test_the_discount_has_its_own_labelled_row(build):
    folder = build.certify("c", {"renyi": [(k, 0, 0, 1.0) for k in range(4)]}, discount=0.95)
    table = certified_tables.brief(load([folder.path]).certified[0], [0.5])[0]
    assert [row[0] for row in table.rows] == ["stability, renyi", "stability, renyi, times 0.95"]
    assert [row[4] for row in table.rows] == ["100.0 ± 0.0", "95.0 ± 0.0"]
    assert any("STN" in note for note in table.notes)
    without = build.certify("d", {"renyi": [(1, 0, 0, 1.0)]})
    assert "times" not in str(certified_tables.brief(load([without.path]).certified[0])[0].rows)


def test_the_certificates_table_floors_the_largest_radius_and_counts_false_ones(build):
    folder = build.certify("c", {"renyi": [(k, 0, 0, 1.0) for k in range(1000)]}, largest=1.5999)
    lines = certified_lines(load([folder.path]).certified, [])
    row = certified_tables.certificates_table(lines).rows[0]
    assert row[-5:-2] == ["1.599", "1.00", "5"]  # Poisson(1): P(more than 5) = 0.0006, P(more than 4) = 0.0037


def test_paired_differences_are_between_runs_with_the_same_certificate(build):
    rows = [(k, 0, 0, float(k < 3)) for k in range(4)]
    build.certify("a", {"renyi": rows, "pixeldp": rows}, regime="standard", model_fingerprint="f1")
    build.certify("b", {"renyi": [(k, 0, 0, 1.0) for k in range(4)], "pixeldp": rows})
    lines = certified_lines(load([build.root]).certified, [])
    table = paired.paired_table(lines, [0.5])
    assert [(row[0], row[2]) for row in table.rows] == [
        ("stability, renyi minus standard, renyi", f"+25.0 ± {100 * math.sqrt(3) / 8:.1f}"),
        ("stability, pixeldp minus standard, pixeldp", "+0.0 ± 0.0"),
    ]
    assert paired.paired_table(lines[:1], [0.5]) is None


def test_published_numbers_stand_beside_ours_at_their_radius(build):
    build.certify("a", {"renyi": [(1, 0, 0, 1.6), (2, 0, 0, 1.57)]})
    lines = certified_lines(load([build.root]).certified, [])
    table = stn.beside_ours(lines)
    assert [row[:5] for row in table.rows][-2:] == [
        ["stability", "STN (Li et al. 2019), Table 1", "mnist", "1.58", "69.0"],
        ["stability, renyi", "this report", "mnist", "1.58", "50.0 ± 35.4"],
    ]
    assert "not attainable" in table.rows[2][-1]
    build.certify("b", {"renyi": [(1, 0, 0, 1.6)]}, dataset="digits")
    other = [line for line in certified_lines(load([build.root]).certified, []) if line.about["dataset"] == "digits"]
    assert stn.beside_ours(other) is None


def test_every_published_table_is_shipped_and_read():
    sizes = {
        name: len(published(name))
        for name in ("stn_table1", "amr_table4", "sgr_transfer", "sgr_table1_later_version")
    }
    assert sizes == {"stn_table1": 6, "amr_table4": 25, "sgr_transfer": 324, "sgr_table1_later_version": 12}
    stn = published("stn_table1")
    assert np.isclose(stn["radius_l2"].iloc[-1], 36 / 255, atol=1e-6)


def test_small_radii_have_three_significant_digits():
    assert tables.radius(0.043219) == "0.0432"
    assert tables.radius(0.000310487) == "0.000310"
    assert tables.radius(0.09999) == "0.0999"
    assert tables.radius(0.0) == "0.000"
    assert tables.average_radius(Estimate(0.0511199, 0.001311, 60)) == "0.0511 ± 0.0014"


def test_the_same_statement_stands_once_with_its_lines_and_different_ones_are_told_apart(build):
    rows = [(1, 0, 0, 1.0)]
    for name, samples in (("a", 1000), ("b", 2000)):
        folder = build.certify(name, {"renyi": rows}, samples=samples, images=1)
        about = folder.read_about()
        about["certificates"]["renyi"]["statement"] = f"over {samples} draws"
        folder.write_about(about)
    notes = certified_tables.certificates_table(certified_lines(load([build.root]).certified, [])).notes
    assert notes[-2:] == ["n = 1000: over 1000 draws", "n = 2000: over 2000 draws"]
    both = build.certify("c", {"renyi": rows, "pixeldp": rows}, images=1)
    about = both.read_about()
    for own in about["certificates"].values():
        own["statement"] = "the same"
    both.write_about(about)
    lines = certified_lines(load([both.path]).certified, [])
    assert certified_tables.certificates_table(lines).notes[-1] == "All lines: the same"
