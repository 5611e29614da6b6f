"""Deterministic certificates of the network itself: read, said, drawn and compared without a word of noise or votes."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from certified_networks import attack_on_network, network

from robust_cli.reporting import results
from robust_cli.reporting.certified import accuracy as certified
from robust_cli.reporting.certified import levels, paired
from robust_cli.reporting.certified import tables as certified_tables
from robust_cli.reporting.certified.costs import costs_tables
from robust_cli.reporting.certified.figures import certified_figure
from robust_cli.reporting.figures import CLAIMED
from robust_cli.reporting.lines.of_runs import certified_lines
from robust_cli.reporting.lines.titles import in_common
from robust_cli.reporting.page.page import write_report
from robust_cli.reporting.page.records import warnings
from robust_cli.reporting.reading.load import load
from robust_cli.reporting.reading.published_tsv import read_tsv, write_sidecar, write_tsv

NONE = "–"  # noqa: RUF001
# Right to 1; right to 1/2; right, and nothing proven; proven of a wrong class.
FOUR = [(0, 0, 0, 1.0), (1, 1, 1, 0.5), (2, 2, 2, 0.0), (3, 0, 1, 2.0)]
ASKED = [(0, 0, 0, 1.58), (1, 1, 1, 1.58), (2, 2, 2, 0.0), (3, 0, 1, 1.58)]
VOTED = [(0, 0, 0, 0.8), (1, 1, -1, 0.0), (2, 2, 2, 0.6), (3, 0, 0, 1.7)]


def lines_of(*folders):
    return certified_lines(load([folder.path for folder in folders]).certified, [])


def without_sampling_words(text):
    for word in ("nan", "None", "noise", "votes", "abstained", "unanimous", "draws", "two-class"):
        assert word not in text, (word, text)


def test_the_network_always_answers_and_what_it_proves_may_not_fail(build):
    (line,) = lines_of(network(build, "n", FOUR))
    s = certified_tables.summary(line)
    assert (s.natural.value, s.abstention.value, s.predicted.value, s.undecided.value) == (0.75, 0, 0.75, 0)
    assert (s.false_expected, s.false_quantile, s.largest_radius) == (0, 0, math.inf)
    assert s.average_radius.value == 1.5 / 4
    assert certified.curve(line.tables, [0, 0.5, 0.6, 1.0, 1.1])["accuracy"].tolist() == [0.5, 0.5, 0.25, 0.25, 0]
    assert levels.comparable(line)


@pytest.mark.parametrize("radius", [None, 1.58])
def test_a_run_leaves_its_table_and_curve_without_a_word_of_sampling(build, capsys, radius):
    folder = network(build, "n", FOUR if radius is None else ASKED, radius=radius)
    results.certified(folder)
    said = capsys.readouterr().out
    assert "exact, no sampling" in said
    assert "the network's class is right" in said
    assert ("for the radius 1.580 asked for" in said) == (radius is not None)
    without_sampling_words(said.replace("draws of", ""))
    written = {path.name for path in folder.path.iterdir()}
    assert {"certified_accuracy.csv", "certified_accuracy.png", "provable_radii.csv"} <= written
    assert "costs.csv" not in written
    lines = lines_of(folder)
    for table in (*certified_tables.accuracy_tables(lines), certified_tables.certificates_table(lines)):
        without_sampling_words(" ".join([table.title, *table.columns, *(cell for row in table.rows for cell in row)]))
    assert costs_tables(lines) == []


def test_a_failure_probability_that_is_not_said_is_none_and_no_error(build):
    (line,) = lines_of(network(build, "n", FOUR, failure_probability=None, discount=0.95))
    assert certified_tables.summary(line).false_quantile == 0
    (table,) = certified_tables.accuracy_tables([line])
    assert len(table.rows) == 1  # a confidence of 1 discounts nothing


def test_a_radius_asked_for_is_one_level_and_a_right_answer_alone_proves_nothing(build):
    (line,) = lines_of(network(build, "n", ASKED, radius=1.58))
    assert not levels.comparable(line)
    assert levels.levels(line).tolist() == [1.58]
    assert certified.curve(line.tables, [0, 0.3, 1.58])["accuracy"].tolist() == [0.5] * 3  # image 2 is right, and not proven
    (table,) = certified_tables.accuracy_tables([line], [0.3, 1.58, 2.0])
    assert table.rows[0][2:] == ["75.0 ± 21.7", "never", NONE, "50.0 ± 25.0", NONE, f"{NONE}{levels.MARK}"]
    said = table.data.set_index("quantity")
    assert np.isnan(said.loc["average radius", "value"])
    assert said["comparable"].to_dict() == {"certified at 0.3": False, "certified at 1.58": True, "certified at 2": False,
                                            "natural": True, "abstention": True, "average radius": False}
    assert any("Asked for one radius" in note for note in table.notes)
    assert not any("table fixed beforehand" in note for note in table.notes)
    assert certified_tables.radii_for([line]).tolist() == [1.58]


def test_its_curve_is_level_and_ends_where_it_was_asked(build):
    lines = lines_of(network(build, "n", ASKED, radius=1.58), build.certify("s", {"renyi": VOTED}, largest=3.0))
    axes = certified_figure(lines, [1.58, 3.0]).axes[0]
    (curve,) = (drawn for drawn in axes.lines if str(drawn.get_label()).startswith("lp_dual"))
    assert curve.get_xdata()[-1] == 1.58
    assert np.asarray(curve.get_ydata()).tolist() == pytest.approx([50.0] * len(curve.get_xdata()))
    (mark,) = (drawn for drawn in axes.lines if drawn.get_marker() == "o" and list(drawn.get_xdata()) == [1.58])
    assert mark.get_ydata().tolist() == [50.0]
    assert "the radius asked for: comparable there alone" in [entry.get_label() for entry in axes.lines]


def beside_smoothed(build):
    return lines_of(network(build, "n", FOUR), build.certify("s", {"neyman_pearson": VOTED, "renyi": VOTED}, largest=2.0))


def test_one_figure_and_one_table_hold_the_network_and_smoothed_classifiers(build, tmp_path):
    lines = beside_smoothed(build)
    titles = ["lp_dual, network itself, certified by lp_dual", "stability, noise 0.5, smoothed, neyman_pearson, two-class",
              "stability, noise 0.5, smoothed, renyi, runner-up"]
    assert [sorted(line.title.split(", ")) for line in lines] == [sorted(title.split(", ")) for title in titles]
    report = write_report([build.root], tmp_path)
    table = pd.read_csv(report.tables["certified_accuracy"])
    at = table[(table["radius"] == 0.5) & table["line"].isin([line.title for line in lines])]
    assert at["value"].tolist() == [0.5, 0.75, 0.75]
    assert [name for name in report.figures if name.startswith("certified")] == ["certified_mnist"]
    text = report.markdown.read_text()
    assert "exact, no sampling" in text
    assert not any(word in text for word in ("nan", "None", "noise none"))
    row = next(r for r in certified_tables.certificates_table(lines).rows if "network" in r[0])
    assert row[1:] == ["lp_dual", "l2", "deterministic", "", "none", "exact, no sampling", "", "", "", "", "no ceiling", "none",
                       "none", "75.0 ± 21.7", "never"]


def test_the_two_norms_stay_apart(build, tmp_path):
    network(build, "a", FOUR)
    network(build, "b", [(i, y, p, r / 20) for i, y, p, r in FOUR], norm="linf")
    report = write_report([build.root], tmp_path)
    assert {"certified_mnist", "certified_mnist_linf"} <= set(report.figures)
    assert pd.read_csv(report.tables["certified_accuracy_linf"])["radius"].max() <= 0.1


def test_each_defence_with_its_own_proof_is_paired_image_by_image(build):
    table = paired.paired_table(beside_smoothed(build), [0.5, 0.7])
    # At 1/2 the smoothed one has 0, 2 and 3, the network 0 and 1; at 0.7 the one 0 and 3, the other 0.
    across = [row for row in table.rows if "network itself" in row[0]]
    assert [row[1:] for row in across] == [["4", f"+25.0 ± {100 * math.sqrt(3 - 1 / 4) / 4:.1f}",
                                            f"+25.0 ± {100 * math.sqrt(1 - 1 / 4) / 4:.1f}"]] * 2
    assert all(row[0].endswith("minus lp_dual, network itself, certified by lp_dual") for row in across)
    assert len(table.rows) == 2  # neyman_pearson and renyi of one run are not set against each other


def test_networks_are_paired_with_networks_and_at_the_radius_asked_for_alone(build):
    lines = lines_of(network(build, "a", ASKED, radius=1.58), network(build, "b", FOUR, model_fingerprint="g1"))
    table = paired.paired_table(lines, [0.5, 1.58])
    ((_, images, at_half, at_asked),) = table.rows
    assert (images, at_half) == ("4", NONE)
    assert at_asked == "-50.0 ± 25.0"


def test_a_deterministic_run_repeated_with_another_seed_is_a_repeat_and_no_second_seed(build):
    network(build, "a", FOUR, seed=0)
    network(build, "b", FOUR, seed=1)
    network(build, "c", FOUR[:2], seed=1, subset="first:2")
    said: list[str] = []
    lines = certified_lines(load([build.root]).certified, said)
    assert len(lines) == 2
    assert not any("seeds" in line.title for line in lines)
    assert said == ["b repeats a (same model, settings and seed): only the first is used."]


def claims(build):
    return [network(build, "sound", ASKED[:1] + [(i, y, p, 0.0) for i, y, p, _ in ASKED[1:]], radius=1.58, cascade="sound"),
            network(build, "claim", ASKED, certificate="lp_dual_published", radius=1.58, cascade="published")]


def test_the_published_count_of_a_cascade_is_dashed_and_claimed_and_warned_of(build):
    runs = load([folder.path for folder in claims(build)])
    lines = certified_lines(runs.certified, [])
    assert [line.title for line in lines] == ["certified by lp_dual", "claimed by lp_dual_published"]
    sound, claim = (drawn for drawn in certified_figure(lines, [1.58] * 2).axes[0].lines if len(drawn.get_xdata()) > 2)
    assert "claimed" in claim.get_label()
    assert claim._unscaled_dash_pattern == CLAIMED
    assert sound.get_linestyle() == "-"
    assert "cascade" in in_common(lines)
    (said,) = warnings(runs, lines)
    assert "claim:" in said
    assert 'docs/messages.md, "The published count of a cascade is a claim"' in said
    for table in (*certified_tables.accuracy_tables(lines), certified_tables.certificates_table(lines),
                  paired.paired_table(lines, [1.58])):
        assert sum("it is no certificate of the cascade" in note for note in table.notes) == 1
    assert certified_tables.summary(lines[1]).false_quantile is None  # how many are false is not known
    assert warnings(load([build.root / "sound"]), lines[:1]) == []


def test_a_claim_alone_says_so_at_the_end_of_its_run(build, capsys):
    results.certified(claims(build)[1])
    said = capsys.readouterr().out
    assert "lp_dual_published: exact, no sampling; a claim of the published count, no certificate of the cascade" in said
    assert "warning: claim: lp_dual_published is the published count" in said
    without_sampling_words(said)


@pytest.mark.parametrize(("radius", "cascade"), [(None, None), (1.58, None), (1.58, "published")])
def test_a_tsv_file_of_such_a_run_is_read_back_as_what_it_is(build, tmp_path, radius, cascade):
    folder = network(build, "n", FOUR if radius is None else ASKED, radius=radius, cascade=cascade)
    run, path = load([folder.path]).certified[0], tmp_path / "x.tsv"
    write_tsv(run.of("lp_dual"), path)
    write_sidecar(path, run.about, "lp_dual", {})
    assert json.loads((tmp_path / "x.tsv.json").read_text())["deterministic"] is True
    ours, theirs = certified_lines([run, read_tsv(path)], [])
    assert theirs.title == "x.tsv" + ", claimed" * (cascade is not None)
    for radii in ([0.0, 0.5, 1.58],):
        assert [e.value for e in certified_tables.tested(theirs, radii)] == pytest.approx(
            [e.value for e in certified_tables.tested(ours, radii)], nan_ok=True)
    assert certified_tables.summary(theirs).natural.value == 0.75
    (table,) = certified_tables.accuracy_tables([theirs], [1.58])
    assert not any("unknown" in note or "majority votes" in note for note in table.notes)


def test_the_report_of_a_network_certified_and_attacked_has_both_in_one_picture(build, tmp_path):
    network(build, "n", FOUR)
    attack_on_network(build, "a", {0: (0, 0, 0.9), 1: (1, 1, 0.4), 2: (2, 0, 0.9), 3: (0, 0, 0.9)}, budget=0.9)
    report = write_report([build.root], tmp_path)
    assert "combined_mnist_1" in report.figures
    text = report.markdown.read_text()
    assert "The network itself (" in text
    assert "One smoothed classifier" not in text


def test_whether_radii_compare_is_a_matter_of_the_certificate_and_not_of_what_else_its_run_held(build):
    (searched,), (asked,) = (lines_of(network(build, name, FOUR, radius=radius, comparable=said))
                             for name, radius, said in (("a", None, False), ("b", 1.58, True)))
    assert levels.comparable(searched)
    assert not levels.comparable(asked)


@pytest.mark.parametrize("radius", [math.inf, 5e8])
def test_a_network_of_one_class_does_not_stretch_the_axis_and_raises_no_warning(build, capsys, radius):
    folder = network(build, "n", [*FOUR[:3], (3, 0, 0, radius)])
    results.certified(folder)
    assert ("unbounded" in capsys.readouterr().out) == math.isinf(radius)
    (line,) = lines_of(folder)
    assert certified.curve(line.tables, [1.0, 50.0])["accuracy"].tolist() == [0.5, 0.25]
    assert certified_figure([line], [math.inf]).axes[0].get_xlim()[1] == pytest.approx(1.06)
    assert certified_tables.radii_for([line]).max() == 1.0
