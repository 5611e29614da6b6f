"""What runs by a table of radii, label-aware runs, other norms and stopped draws look like in tables and figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from robust_cli.messages import UserError
from robust_cli.reporting import figures, results
from robust_cli.reporting.certified import accuracy as certified
from robust_cli.reporting.certified import levels, paired
from robust_cli.reporting.certified import tables as certified_tables
from robust_cli.reporting.certified.costs import costs_tables
from robust_cli.reporting.certified.figures import certified_figure
from robust_cli.reporting.lines.of_runs import certified_lines
from robust_cli.reporting.lines.titles import in_common
from robust_cli.reporting.page.page import write_report
from robust_cli.reporting.published import stn
from robust_cli.reporting.reading.load import load, read

LEVELS = [0.25, 0.5, 0.75, 1.0]
# proven to 1, to 0.5 and to 0.25; wrong class proven to 0.75; given up.
ROWS = [(0, 0, 0, 1.0), (1, 1, 1, 0.5), (2, 2, 2, 0.25), (3, 0, 1, 0.75), (4, 1, -1, 0.0)]
DRAWS = {0: 640, 1: 1088, 2: 1088, 3: 640, 4: 128}
STOPPED = {0: "complete", 1: "cap", 2: "cap", 3: "complete", 4: "futile"}


def sequential(build, name="s", rows=ROWS, **about):
    return build.certify(
        name,
        {"neyman_pearson": rows},
        later={"norm": "l2", "prediction": {0: 0, 1: 1, 2: -1, 3: 1, 4: -1}, "draws": DRAWS, "stopped": STOPPED},
        plan={"plan": "sequential", "radii": LEVELS},
        largest=1.0,
        **{"sampling": {"name": "sequential", "radii": LEVELS}, "comparable": False, "images": 5, **about},
    )


def fixed(build, name="f"):
    return build.certify(name, {"neyman_pearson": [(i, y, p, 1.1 * r) for i, y, p, r in ROWS]})


def lines_of(*folders):
    return certified_lines(load([folder.path for folder in folders]).certified, [])


def test_the_levels_are_the_plans_even_where_no_image_proves_them_and_else_those_that_occur(build):
    (line,) = lines_of(sequential(build, rows=ROWS[:2]))
    assert levels.levels(line).tolist() == LEVELS
    rows = [(0, 0, 0, 5e-10), (1, 1, 1, 0.5)]  # the least radius stands for "more than 0"
    (other,) = lines_of(build.certify("t", {"neyman_pearson": rows}, plan={"radii": [0, 0.5, 1]}, comparable=False))
    assert levels.levels(other).tolist() == [0, 0.5, 1]
    assert certified.curve(other.tables, [0, 0.5])["accuracy"].tolist() == [1, 0.5]
    (line.runs[0].folder.path / "plan.json").unlink()
    assert levels.levels(line).tolist() == [0.5, 1.0]


def test_what_does_not_compare_is_marked_and_explained_and_what_does_is_not(build):
    lines = lines_of(fixed(build), sequential(build))
    assert [line.title for line in lines] == ["fixed sampling", "sequential sampling"]
    (table,) = certified_tables.accuracy_tables(lines, [0.25, 0.3])
    marked = {row[0]: [cell.endswith(levels.MARK) for cell in row[4:]] for row in table.rows}
    assert marked == {"fixed sampling": [False, False, False], "sequential sampling": [False, False, True]}
    assert [row[5] for row in table.rows] == ["40.0 ± 21.9", "–"]  # noqa: RUF001
    assert any(note.startswith(levels.MARK) for note in table.notes)
    said = table.data.set_index(["line", "quantity"])["comparable"]
    assert said["sequential sampling"].to_dict() == {
        "certified at 0.25": True, "certified at 0.3": False, "natural": True, "abstention": False, "average radius": False}
    assert said["fixed sampling"].all()
    (alone,) = certified_tables.accuracy_tables(lines[:1], [0.3])
    assert not any(levels.MARK in text for text in [*alone.notes, *(cell for row in alone.rows for cell in row)])


def test_a_value_between_levels_is_that_of_the_next_level(build):
    (line,) = lines_of(sequential(build))
    assert certified.curve(line.tables, [0.25, 0.3, 0.5, 0.6, 1.0])["accuracy"].tolist() == [0.6, 0.4, 0.4, 0.2, 0.2]


def test_pairs_are_made_at_the_levels_alone(build):
    lines = lines_of(fixed(build), sequential(build))
    table = paired.paired_table(lines, [0.25, 0.3, 0.5])
    assert table.rows == [["sequential sampling minus fixed sampling", "5", "+0.0 ± 0.0", "–", "+0.0 ± 0.0"]]  # noqa: RUF001
    assert table.data["difference"].isna().tolist() == [False, True, False]


def test_the_level_0_proves_a_class_and_so_more_than_0(build):
    rows = [(0, 0, 0, 0.0), (1, 1, -1, 0.0), (2, 0, 1, 0.0)]
    (line,) = lines_of(sequential(build, rows=rows))
    assert certified.accuracy(line.tables, 0.0).value == pytest.approx(1 / 3)
    (line,) = lines_of(build.certify("f", {"neyman_pearson": rows}))
    assert certified.accuracy(line.tables, 0.0).value == 0


def test_the_figure_has_a_mark_at_every_level(build):
    lines = lines_of(fixed(build), sequential(build))
    axes = certified_figure(lines, [1.5, 1.0]).axes[0]
    assert [line.get_label() for line in axes.lines if "sampling" in str(line.get_label())] == [
        "fixed sampling", f"sequential sampling {levels.MARK}"]
    marks = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) > 1]
    assert [np.asarray(line.get_xdata()).tolist() for line in marks] == [LEVELS]
    assert np.asarray(marks[0].get_ydata()).tolist() == pytest.approx([60, 40, 20, 20])


def test_levels_far_beyond_what_is_proven_do_not_stretch_the_figure(build, tmp_path):
    rows = [(0, 0, 0, 5e-10)]
    (line,) = lines_of(build.certify("t", {"neyman_pearson": rows}, plan={"radii": [0, 0.5, 1]}, comparable=False, largest=0.0))
    figures.save(certified_figure([line], [0.0]), tmp_path / "x.png", tmp_path / "x.svg")
    (mark,) = (drawn for drawn in certified_figure([line], [0.0]).axes[0].lines if len(drawn.get_xdata()) == 1
               and drawn.get_marker() == "o")
    assert mark.get_xdata().tolist() == [0]


def test_no_number_of_ours_stands_beside_published_ones_between_levels(build):
    (line,) = lines_of(sequential(build, samples=20000))
    table = stn.beside_ours([line])
    (ours,) = (row for row in table.rows if row[1] == "this report")
    assert ours[4] == "–"  # noqa: RUF001
    assert "n at most 20000" in ours[-1]
    own = table.data[table.data["source"] == "this report"]
    assert own["certified_accuracy"].isna().all()
    assert own["natural_accuracy"].notna().all()


def test_a_label_aware_run_does_not_report_what_it_did_not_measure(build):
    rows = [*ROWS[:3], (3, 0, -1, 0.0), ROWS[4]]
    stopped = {**STOPPED, 3: "skipped"}
    folder = build.certify("s", {"neyman_pearson": rows}, label_aware=True, largest=1.0,
                           later={"norm": "l2", "prediction": dict.fromkeys(range(5), -1), "draws": DRAWS, "stopped": stopped})
    (line,) = lines_of(folder)
    s = certified_tables.summary(line)
    assert all(np.isnan(e.value) for e in (s.natural, s.abstention, s.predicted, s.undecided))
    assert s.average_radius.value == pytest.approx(1.75 / 5)  # over all images: a skipped one counts 0
    (table,) = certified_tables.accuracy_tables([line], [0.25])
    assert table.rows[0][1:5] == ["5", "–", "–", "60.0 ± 21.9"]  # noqa: RUF001
    assert any("label-aware" in note for note in table.notes)
    assert any("label-aware" in note for note in certified_tables.certificates_table([line]).notes)
    labels = [str(entry.get_label()) for entry in certified_figure([line], [1.0]).axes[0].lines]
    assert "natural accuracy" not in labels
    none_skipped = build.certify("n", {"neyman_pearson": ROWS}, label_aware=True)  # by luck: still not measured as asked
    assert np.isnan(certified.natural(lines_of(none_skipped)[0].tables).value)


def test_the_prediction_stands_beside_the_certificate(build):
    (line,) = lines_of(sequential(build))
    s = certified_tables.summary(line)
    assert (s.predicted.value, s.undecided.value, s.abstention.value) == (0.4, 0.4, pytest.approx(np.nan, nan_ok=True))
    assert certified_tables.certificates_table([line]).rows[0][-2:] == ["40.0 ± 21.9", "40.0 ± 21.9"]
    (old,) = lines_of(fixed(build))
    assert certified_tables.certificates_table([old]).rows[0][-2:] == ["–", "–"]  # noqa: RUF001


def test_costs_by_hand_and_only_where_they_were_recorded(build):
    lines = lines_of(fixed(build), sequential(build))
    (table,) = costs_tables(lines)
    assert table.rows == [["sequential sampling", "5", "1000", "717", "640", "1088", "1.40", "complete 2, cap 2, futile 1"]]
    assert table.data["factor"][0] == pytest.approx(1000 / 716.8)
    assert costs_tables(lines[:1]) == []


def test_certificates_of_one_run_share_a_row_of_costs(build):
    folder = build.certify("two", {"renyi": ROWS, "neyman_pearson": ROWS}, later={"draws": DRAWS, "stopped": STOPPED})
    (table,) = costs_tables(lines_of(folder))
    assert len(table.rows) == 1
    assert table.rows[0][0].endswith("(and 1 more of the same draws)")


def norms(build):
    rows = {"neyman_pearson": [(0, 0, 0, 1.0), (1, 1, 1, 0.5)], "in_linf": [(0, 0, 0, 0.04), (1, 1, 1, 0.02)]}
    folder = build.certify("n", rows, later={"norm": {"neyman_pearson": "l2", "in_linf": "linf"}}, images=2)
    about = folder.read_about()
    about["certificates"]["in_linf"]["largest_radius"] = 0.06
    folder.write_about(about)
    return folder


def test_norms_never_share_a_table_or_a_figure(build, tmp_path):
    report = write_report([norms(build).path], tmp_path)
    assert {"certified_accuracy", "certified_accuracy_linf"} <= set(report.tables)
    assert {"certified_mnist", "certified_mnist_linf"} <= set(report.figures)
    found = {name: pd.read_csv(report.tables[name]) for name in ("certified_accuracy", "certified_accuracy_linf")}
    assert found["certified_accuracy"]["norm"].unique().tolist() == ["l2"]
    assert found["certified_accuracy_linf"]["norm"].unique().tolist() == ["linf"]
    assert found["certified_accuracy_linf"]["radius"].max() == 0.06
    lines = certified_lines(load([build.root]).certified, [])
    assert certified_figure(lines[1:], [0.06]).axes[0].get_xlabel().startswith("linf radius")


def test_one_run_leaves_a_table_and_a_figure_a_norm(build, capsys):
    folder = norms(build)
    results.certified(folder)
    assert {"certified_accuracy.csv", "certified_accuracy.png", "certified_accuracy_linf.csv", "certified_accuracy_linf.png",
            "provable_radii.csv"} <= {path.name for path in folder.path.iterdir()}


def test_a_certificate_in_two_norms_is_refused(build):
    folder = build.certify("n", {"renyi": ROWS}, later={"norm": {0: "l2", 1: "linf", 2: "l2", 3: "l2", 4: "l2"}})
    with pytest.raises(UserError, match="one norm for all rows of a certificate"):
        read(folder)


def test_older_folders_are_l2_complete_and_know_no_draws(build):
    table = read(fixed(build)).table
    assert table["norm"].tolist() == ["l2"] * 5
    assert table["stopped"].tolist() == ["complete"] * 5
    assert table[["draws", "prediction"]].isna().all().all()


@pytest.mark.parametrize(("key", "value", "words"), [
    ("noise", "integer_grid", "integer_grid noise"), ("sampling", {"name": "anytime", "tolerance": 0.1}, "anytime sampling"),
    ("sampling", {"name": "fixed"}, None), ("noise", "gaussian", None), ("shard", "2/8", "shard 2/8"),
    ("label_aware", True, "label-aware")])
def test_noise_plan_and_shard_set_lines_apart_and_the_usual_ones_go_without_saying(build, key, value, words):
    other = build.certify("other", {"neyman_pearson": ROWS}, seed=1, **{key: value})
    lines = lines_of(fixed(build), other)
    if words is None:
        assert "noise 0.5" in in_common(lines)
        assert "gaussian" not in in_common(lines)
        assert "fixed" not in in_common(lines)
        return
    assert words in lines[1].title
    assert words not in lines[0].title


def test_what_is_proven_and_attacked_is_drawn_together_norm_by_norm(build, tmp_path):
    certify = norms(build)
    outcomes = [{"attack": name, "norm": norm, "budget": b, "index": i, "label": i, "robust": 1, "votes": [1000, 0, 0]}
                for name, norm, b in (("none", "l2", 0), ("pgd_l2", "l2", 0.5), ("pgd_linf", "linf", 0.01)) for i in (0, 1)]
    attack = build.attack("a", outcomes, originals=np.zeros((2, 1, 2, 2), np.float32), images=2,
                          adversarial={(o["attack"], o["budget"]): np.zeros((2, 1, 2, 2), np.float32) for o in outcomes})
    report = write_report([certify.path, attack.path], tmp_path)
    assert {name for name in report.figures if name.startswith("combined")} == {"combined_mnist_1", "combined_mnist_linf_1"}


def test_the_norm_is_in_a_title_only_where_nothing_else_tells_lines_apart(build):
    rows = {"neyman_pearson": [(0, 0, 0, 1.0)]}
    runs = [build.certify(norm, rows, later={"norm": norm}, images=1) for norm in ("l2", "linf")]
    assert [line.title for line in lines_of(*runs)] == ["l2", "linf"]
    assert [line.title for line in lines_of(norms(build))] == ["neyman_pearson, two-class", "in_linf, runner-up"]
