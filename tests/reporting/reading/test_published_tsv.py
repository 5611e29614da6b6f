"""The field's TSV: written so that nothing is rounded up, read with what is known and what is not, damaged files refused."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from invoking import robust
from scipy.stats import norm

from robust_cli.messages import UserError
from robust_cli.reporting.certified import accuracy as certified
from robust_cli.reporting.certified import paired
from robust_cli.reporting.certified import tables as certified_tables
from robust_cli.reporting.lines.of_runs import certified_lines
from robust_cli.reporting.page.page import write_report
from robust_cli.reporting.published import stn
from robust_cli.reporting.reading.load import load
from robust_cli.reporting.reading.published_tsv import Said, checked, may_exceed, not_above, read_sources, read_tsv, write_tsv

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"
WHOLE = Said(0.5, 100_000, 0.001, "mnist")
# As the field's scripts print them: three significant digits, str(timedelta).
ROWS = ["0\t7\t7\t1.91\t1\t0:00:00.309042", "20\t9\t9\t0.953\t1\t0:00:00.3", "40\t1\t-1\t0.0\t0\t0:00:00.291",
        "60\t3\t5\t0.0123\t0\t0:00:00.291"]


def write(path, rows=ROWS, header=HEADER):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_table_is_written_as_the_fields_scripts_read_it(tmp_path):
    table = pd.DataFrame({"index": [3, 10, 20], "label": [1, 2, 0], "predicted": [1, -1, 4], "radius": [0.1 + 0.2, 0.0, 1 / 3]})
    path = tmp_path / "certificates_x.tsv"
    write_tsv(table, path, {3: 0.25, 10: 3723.5})
    assert path.read_text().split("\n") == [
        HEADER, "3\t1\t1\t0.30000000000000004\t1\t0:00:00.250000", "10\t2\t-1\t0.0\t0\t1:02:03.500000",
        "20\t0\t4\t0.3333333333333333\t0\t0:00:00", ""]
    read = pd.read_csv(path, delimiter="\t")  # as Cohen et al.'s analyze.py does
    assert ((read["correct"] == 1) & (read["radius"] >= 0.3)).tolist() == [True, False, False]


def test_seconds_may_be_a_series_of_the_rows(tmp_path):
    table = pd.DataFrame({"index": [30, 10], "label": 0, "predicted": 0, "radius": 0.5})
    write_tsv(table, tmp_path / "a.tsv", pd.Series([1.0, 2.0]))
    assert pd.read_csv(tmp_path / "a.tsv", sep="\t")["time"].tolist() == ["0:00:01", "0:00:02"]


@given(st.floats(0, 1e4))
def test_a_radius_is_never_written_above_itself_and_reads_back_as_the_same_float(value):
    text = not_above(value)
    assert Decimal(text) <= Decimal(value)
    assert float(text) == value


def test_some_shortest_texts_would_have_been_rounded_up():
    assert Decimal(repr(0.3)) > Decimal.from_float(0.3)
    assert not_above(0.3) != "0.3"


def test_what_is_written_is_read_again(build, tmp_path):
    rng = np.random.default_rng(0)
    rows = [(i, i % 3, (-1, i % 3, (i + 1) % 3)[k], float(k > 0) * r) for i, (k, r) in
            enumerate(zip(rng.integers(0, 3, 40), rng.exponential(size=40), strict=True))]
    folder = build.certify("c", {"renyi": rows})
    ours = load([folder.path]).certified[0].of("renyi")
    write_tsv(ours, tmp_path / "x.tsv")
    theirs = read_tsv(tmp_path / "x.tsv").of("published")
    for column in ("index", "label", "predicted", "radius"):
        assert theirs[column].tolist() == ours[column].tolist()
    assert "digits" not in str(read_tsv(tmp_path / "x.tsv").about["remarks"])


def test_a_published_file_gives_curve_average_radius_and_ceiling(tmp_path):
    run = read_tsv(write(tmp_path / "sigma_0.50.tsv"), WHOLE)
    (line,) = certified_lines([run], [])
    assert line.title == "sigma_0.50.tsv"
    assert certified.curve(line.tables, [0.0, 0.95, 1.0, 2.0])["accuracy"].tolist() == [0.5, 0.5, 0.25, 0]
    s = certified_tables.summary(line)
    assert s.average_radius.value == pytest.approx((1.91 + 0.953) / 4)
    assert s.abstention.value == 0.25
    assert math.isnan(s.natural.value)
    assert s.largest_radius == pytest.approx(0.5 * norm.ppf(0.001 ** 1e-5), rel=1e-9)
    assert s.largest_radius <= 0.5 * norm.ppf(0.001 ** 1e-5)
    assert s.false_expected == pytest.approx(0.004)


def test_what_is_not_known_is_said_and_not_guessed(tmp_path):
    run = read_tsv(write(tmp_path / "a.tsv"))
    (line,) = certified_lines([run], [])
    s = certified_tables.summary(line)
    assert math.isnan(s.largest_radius)
    assert s.false_quantile is None
    said = " ".join(certified_tables.accuracy_tables([line])[0].notes)
    assert "noise_std, samples, failure_probability unknown: no ceiling, no cross-check" in said
    assert "data set not said" in said
    assert certified_tables.certificates_table([line]).rows[0][-5:-2] == ["–", "–", "–"]  # noqa: RUF001


@pytest.mark.parametrize(("texts", "most"), [
    (["1.91", "0.953", "0.0"], 0.005), (["0.953", "0.12"], 0.0005), (["1.905", "0.012"], 0.0005), (["1.2e-05", "0.95"], 0.005),
    ([repr(1 / 3)], 0.0), (["0.0"], 0.0), (["2", "1"], 0.5), (["1.0", "0.5"], 0.05)])
def test_how_far_rounding_may_have_gone_up(texts, most):
    assert may_exceed(texts) == pytest.approx(most)


@pytest.mark.parametrize("print_it", ["{:.3}", "{:.3f}", "{:.4}", "{:.6f}"])
def test_rounding_is_never_further_than_said(print_it):
    radii = np.random.default_rng(1).exponential(size=500)
    texts = [print_it.format(r) for r in radii]
    above = max(float(t) - r for t, r in zip(texts, radii, strict=True))
    assert 0.2 * may_exceed(texts) < above <= may_exceed(texts) * (1 + 1e-9)


def test_rounded_radii_are_noted_and_full_ones_are_not(tmp_path):
    remarks = read_tsv(write(tmp_path / "a.tsv"), WHOLE).about["remarks"]
    assert "published radii carry 3 digits and may be rounded up by as much as 0.005." in remarks
    full = write(tmp_path / "b.tsv", ["0\t7\t7\t1.2345678901234567\t1\t0:00:00"])
    assert "digits" not in str(read_tsv(full, WHOLE).about["remarks"])


def test_a_radius_above_the_ceiling_is_said(tmp_path):
    above = "above the 1.905 that 100000 unanimous votes prove"
    assert above not in str(read_tsv(write(tmp_path / "a.tsv"), WHOLE).about["remarks"])  # 1.91 is 1.905 rounded
    wrong = write(tmp_path / "b.tsv", ["0\t7\t7\t1.93\t1\t0:00:00"])
    assert above in str(read_tsv(wrong, WHOLE).about["remarks"])


def test_settings_come_from_the_file_beside_it_or_the_command_line_and_must_not_differ(tmp_path):
    path = write(tmp_path / "a.tsv")
    beside = tmp_path / "a.tsv.json"
    beside.write_text(json.dumps({"noise_std": 0.5, "samples": 100_000}))
    about = read_tsv(path, Said(failure_probability=0.001)).about
    assert (about["noise_std"], about["samples"], about["failure_probability"]) == (0.5, 100_000, 0.001)
    with pytest.raises(UserError, match=r"a.tsv.json: says noise_std 0.5, the command line says 0.25"):
        read_tsv(path, Said(noise_std=0.25))
    for text, words in (('{"sigma": 0.5}', "found sigma"), ("[", "expected JSON"), ('{"samples": "many"}', "whole number >= 1")):
        beside.write_text(text)
        with pytest.raises(UserError, match=words):
            read_tsv(path)


@pytest.mark.parametrize("settings", [{"noise_std": 0.0}, {"samples": 0}, {"failure_probability": 1.0}, {"dataset": ""},
                                      {"samples": True}, {"noise_std": math.nan}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=f"for {next(iter(settings))}, found"):
        checked(settings, "report")


@pytest.mark.parametrize(("change", "words"), [
    (lambda rows: [*rows[:2], rows[2][:7]], "line 4: expected 6 values, found 3"),
    (lambda rows: [rows[0].replace("1.91", "abc")], "line 2: expected whole numbers and a radius"),
    (lambda rows: [rows[0].replace("1.91", "nan")], "finite radius"),
    (lambda rows: [rows[0].replace("1.91", "inf")], "finite radius"),
    (lambda rows: [rows[0].replace("1.91", "-1")], "finite radius"),
    (lambda rows: [rows[0].replace("\t1\t0", "\t0\t0")], "correct 1 exactly where"),
    (lambda rows: [rows[2].replace("0.0", "0.5")], "radius 0 where predict is -1"),
    (lambda rows: [rows[0], rows[0]], "idx 0 more than once"),
    (lambda rows: [], "found none")])
def test_damaged_files_are_refused_in_one_line(tmp_path, change, words):
    path = write(tmp_path / "a.tsv", change(ROWS))
    with pytest.raises(UserError, match=words) as refused:
        read_tsv(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("header", "words"), [
    ("idx\tlabel\tpredict\tcorrect\ttime", "predictions without radii certifies nothing"), ("idx,label", "idx missing"),
    ("", "found nothing")])
def test_files_without_radii_are_refused(tmp_path, header, words):
    with pytest.raises(UserError, match=words):
        read_tsv(write(tmp_path / "a.tsv", [], header))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="expected a text file"):
        read_tsv(tmp_path / "a.tsv")


def test_other_line_ends_columns_and_no_time_are_read(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"idx\tlabel\tpredict\tradius\tcorrect\tnote\r\n4\t1\t1\t0.5\t1\tx\r\n\r\n")
    assert read_tsv(path).of("published")[["index", "radius"]].to_numpy().tolist() == [[4, 0.5]]


def ours(build, name="c", **about):
    rows = [(0, 7, 7, 1.0), (20, 9, 9, 1.0), (40, 1, 1, 0.5), (80, 2, 2, 1.0)]
    return build.certify(name, {"neyman_pearson": rows}, classes=10, **about)


def test_published_lines_are_paired_with_ours_on_common_images_where_the_data_set_is_said(build, tmp_path):
    folder, path = ours(build), write(tmp_path / "a.tsv")
    for said, pairs in ((WHOLE, 1), (Said(), 0), (Said(dataset="cifar10"), 0)):
        lines = certified_lines(read_sources([folder.path, path], said).certified, [])
        assert len(paired.paired_tables(lines, [0.5])) == pairs
    lines = certified_lines(read_sources([folder.path, path], WHOLE).certified, [])
    (table,) = paired.paired_tables(lines, [0.5, 1.5])
    assert [row[:2] for row in table.rows] == [["stability, neyman_pearson minus a.tsv", "3"]]
    assert table.data["difference"].tolist() == pytest.approx([1 / 3, -1 / 3])
    assert any("rounded up" in note for note in table.notes)
    assert stn.beside_ours(lines[1:]) is None  # theirs are not called ours


def test_other_labels_show_that_the_data_set_is_another(build, tmp_path):
    path = write(tmp_path / "a.tsv", ["0\t3\t3\t1.91\t1\t0:00:00"])
    lines = certified_lines(read_sources([ours(build).path, path], WHOLE).certified, [])
    with pytest.raises(UserError, match="same label"):
        paired.paired_tables(lines, [0.5])


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(write(tmp_path / name / "sigma_0.50"))
    lines = certified_lines(read_sources([*paths, paths[0]]).certified, [])
    assert [line.title for line in lines] == ["a/sigma_0.50", "b/sigma_0.50"]


def test_options_without_a_file_are_refused(build):
    with pytest.raises(UserError, match="no file is named"):
        read_sources([ours(build).path], WHOLE)


@pytest.mark.parametrize("said", [WHOLE, Said()])
def test_a_report_of_both_and_of_a_file_alone(build, tmp_path, said):
    path = write(tmp_path / "a.tsv")
    for name, sources in (("both", [ours(build).path, path]), ("alone", [path])):
        (tmp_path / name).mkdir()
        report = write_report(sources, tmp_path / name, said=said)
        text = report.page.read_text()
        assert "a.tsv" in text
        assert "may be rounded up" in text
        assert report.verdicts == []
        figure = "certified_mnist" if said.dataset or name == "both" else "certified_published"
        assert figure in report.figures
        assert ("paired_differences" in report.tables) == (name == "both" and said.dataset is not None)


def test_the_command_reads_files_and_their_settings_and_refuses_others_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.tsv")
    answer = robust("report", "a.tsv", "--tsv-noise-std", "0.5", "--tsv-samples", "100000", "--tsv-failure-probability", "0.001",
                    "--tsv-dataset", "mnist", "--output", "out")
    assert answer.code == 0, answer.err
    assert "a.tsv" in answer.out
    assert "1.905" in (tmp_path / "out" / "report.md").read_text()
    (tmp_path / "notes.txt").write_text("a note\n")
    for words, said in ((["notes.txt"], "notes.txt: is a file; expected run folders, or a TSV file"),
                        (["a.tsv", "--tsv-noise-std", "-1"], "expected a number > 0 for noise_std"),
                        (["none.tsv"], "none.tsv: no such folder")):
        answer = robust("report", *words)
        assert answer.code == 2
        assert said in answer.err
        assert answer.err.count("\n") == 1
