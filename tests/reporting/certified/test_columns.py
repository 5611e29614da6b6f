"""Which radii a table of certified accuracy has as columns, and where it says that nothing was tested there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from robust_cli.reporting import results
from robust_cli.reporting.certified import levels, paired
from robust_cli.reporting.certified import tables as certified_tables
from robust_cli.reporting.lines.of_runs import certified_lines
from robust_cli.reporting.page.page import write_report
from robust_cli.reporting.reading.load import load

NONE = "–"  # noqa: RUF001
ROWS = [(0, 0, 0, 1.4), (1, 1, 1, 0.6), (2, 2, -1, 0.0)]


def fixed(build, name="fixed", largest=1.5, **about):
    return build.certify(name, {"neyman_pearson": ROWS}, largest=largest, **about)


def tabled(build, name, radii, rows=None, **about):
    """A run with a table of radii; each image is proven to the largest level below its radius in ROWS."""
    proven = [(i, y, p if [r for r in radii if r <= reach] and p >= 0 else -1, max([r for r in radii if r <= reach], default=0.0))
              for i, y, p, reach in ROWS]
    return build.certify(name, {"neyman_pearson": rows or proven}, plan={"radii": radii}, largest=max(radii), comparable=False,
                         sampling={"name": "sequential", "radii": radii}, **about)


def lines_of(*folders):
    return certified_lines(load([folder.path for folder in folders]).certified, [])


def cells(table, k):
    return dict(zip(table.columns[4:-1], table.rows[k][4:-1], strict=True))


def test_columns_are_round_radii_and_every_level_and_a_number_stands_at_levels_alone(build):
    lines = lines_of(fixed(build), tabled(build, "a", [0.7]), tabled(build, "b", [1.0]))
    (table,) = certified_tables.accuracy_tables(lines)
    assert [c.removeprefix("r = ") for c in table.columns[4:-1]] == ["0", "0.25", "0.5", "0.7", "0.75", "1", "1.25", "1.5"]
    by_run = {line.runs[0].folder.path.name: cells(table, k) for k, line in enumerate(lines)}
    assert NONE not in by_run["fixed"].values()
    assert {k: v for k, v in by_run["a"].items() if v != NONE} == {"r = 0.7": "33.3 ± 27.2"}
    assert {k: v for k, v in by_run["b"].items() if v != NONE} == {"r = 1": "33.3 ± 27.2"}
    assert not any(levels.MARK in cell for row in table.rows for cell in row[:-1])
    data = table.data[table.data["quantity"].str.startswith("certified")]
    empty = data[data["value"].isna()]
    assert len(empty) == 2 * 7
    assert empty["error"].isna().all()
    assert not empty["comparable"].any()


def test_runs_with_tables_alone_have_their_levels_alone(build):
    (table,) = certified_tables.accuracy_tables(lines_of(tabled(build, "a", [0.7]), tabled(build, "b", [1.0])))
    assert table.columns[4:-1] == ["r = 0.7", "r = 1"]


def test_another_data_set_keeps_its_own_columns(build, tmp_path):
    runs = [tabled(build, "a", [0.7]), fixed(build, "c", largest=0.6, dataset="digits", model_fingerprint="f1")]
    report = write_report([run.path for run in runs], tmp_path)
    radii = {name: sorted(pd.read_csv(report.tables[f"certified_accuracy_{name}"])["radius"].dropna().unique())
             for name in ("mnist", "digits")}
    assert radii["mnist"] == [0.7]
    assert 0.7 not in radii["digits"]
    assert len(radii["digits"]) > 4


def test_many_columns_are_thinned_but_every_run_keeps_one(build):
    many = [round(0.05 * k, 2) for k in range(29)]
    lines = lines_of(fixed(build), tabled(build, "many", many), tabled(build, "one", [0.77]))
    radii = certified_tables.radii_for(lines)
    assert len(radii) <= 14
    assert 0.77 in radii
    assert max(many) in radii


def test_one_level_in_two_roundings_is_one_column_and_counted_for_both(build):
    up = 0.1 + 0.2
    rows = [(0, 0, 0, up), (1, 1, 1, up)]
    below = [(0, 0, 0, 0.3), (1, 1, 1, 0.3)]
    lines = lines_of(tabled(build, "a", [0.3], below), tabled(build, "b", [up], rows))
    assert certified_tables.radii_for(lines).tolist() == [0.3]
    for at in (0.3, up):
        assert [certified_tables.tested(line, [at])[0].value for line in lines] == [1.0, 1.0]


def test_columns_end_where_nothing_more_can_be_proven(build):
    folder = build.certify("u", {"uniform_l1": [(0, 0, 0, 0.75)]}, plan={"radii": [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]},
                           largest=0.75, later={"norm": "l1"}, comparable=False)
    assert certified_tables.radii_for(lines_of(folder)).tolist() == [0.0, 0.25, 0.5, 0.75]


def test_abstention_is_not_known_where_the_smallest_level_is_above_0(build):
    for radii, abstains in (([0.7], NONE), ([0.0, 0.7], "33.3 ± 27.2")):
        lines = lines_of(tabled(build, f"t{len(radii)}", radii))
        (table,) = certified_tables.accuracy_tables(lines)
        assert table.rows[0][3] == abstains
        assert any("Abstention was not tested" in note for note in table.notes) == (abstains == NONE)


def test_pairs_without_a_common_level_are_left_out_and_others_have_dashes(build):
    lines = lines_of(tabled(build, "a", [0.7]), tabled(build, "b", [1.0]), tabled(build, "c", [0.7, 1.0]))
    (table,) = paired.paired_tables(lines)
    assert [row[2:] for row in table.rows] == [["+0.0 ± 0.0", NONE], [NONE, "+0.0 ± 0.0"]]
    assert table.data["difference"].isna().sum() == 2


def test_the_screen_explains_its_marks_and_dashes_in_one_line(build, capsys):
    results.certified(tabled(build, "a", [0.7]))
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if "natural: the majority of the votes" in line)
    assert "†: of a table's levels" in line
    assert f"{NONE}: abstention not tested by a table that begins above 0" in line
    results.certified(fixed(build))
    said = capsys.readouterr().out
    assert "†" not in said
    assert NONE not in said


def test_a_linf_certificate_that_proves_no_level_but_0_has_that_column(build):
    rows = [(0, 0, 0, 5e-10), (1, 1, -1, 0.0)]
    folder = build.certify("l", {"linf": rows}, plan={"radii": [0.0, 0.5, 1.0]}, largest=0.0, later={"norm": "linf"},
                           comparable=False)
    lines = lines_of(folder)
    assert certified_tables.radii_for(lines).tolist() == [0.0]
    assert certified_tables.tested(lines[0], [0.0])[0].value == pytest.approx(0.5)
    assert np.isnan(certified_tables.tested(lines[0], [0.25])[0].value)
