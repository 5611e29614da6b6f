"""Accuracy against the decay length of long-range correlated noise: which runs are one line, and what the line says."""

from __future__ import annotations

import pandas as pd
import pytest

from robust_cli.reporting.attacked import decay
from robust_cli.reporting.lines.of_runs import attacked_lines
from robust_cli.reporting.page.page import write_report
from robust_cli.reporting.reading.load import load

LRC = "robust_cli.attacks.lrc.LongRangeCorrelated"


def run(build, name, cells, fingerprint="f0", samples=100, covariance="decay", part="lrc", **about):
    """cells: robust 0/1 of four images, by (decay length, budget); an attack a length."""
    lengths = list(dict.fromkeys(length for length, _ in cells))
    called = {length: f"{part}_{length:g}" if len(lengths) > 1 else part for length in lengths}
    outcomes = [{"attack": "none", "norm": "", "budget": 0, "index": i, "label": 0, "robust": 1} for i in range(4)]
    outcomes += [{"attack": called[length], "norm": "std", "budget": budget, "index": i, "label": 0, "robust": r}
                 for (length, budget), robust in cells.items() for i, r in enumerate(robust)]
    attacks = {called[length]: {"norm": "std", "target": LRC, "settings": {"covariance": covariance, "decay_length": length,
                                                                          "samples": samples}} for length in lengths}
    return build.attack(name, outcomes, attacks=attacks, model_fingerprint=fingerprint,
                        **{"classifier": "base", "noise_std": None, **about})


def found(build):
    return decay.series(attacked_lines(load([build.root]).attacked, []))


def test_lengths_in_one_run_or_in_several_are_one_line(build):
    run(build, "a", {(8.0, 0.3): [1, 0, 0, 0], (2.0, 0.3): [1, 1, 1, 0]}, regime="standard")
    run(build, "b", {(4.0, 0.3): [1, 1, 0, 0]}, regime="standard")
    run(build, "c", {(2.0, 0.3): [1, 1, 1, 1], (8.0, 0.3): [1, 1, 1, 0]}, fingerprint="f1", regime="sgr")
    series = found(build)
    assert {one.title: one.at(0.3)["accuracy"].tolist() for one in series} == {"standard": [0.75, 0.5, 0.25], "sgr": [1.0, 0.75]}
    assert {one.title: one.at(0.3)["decay_length"].tolist() for one in series} == {"standard": [2, 4, 8], "sgr": [2, 8]}


def test_the_table_and_a_panel_for_each_scale_with_error_bars(build):
    run(build, "a", {(2.0, 0.1): [1, 1, 1, 1], (2.0, 0.3): [1, 1, 1, 0], (8.0, 0.1): [1, 1, 1, 0], (8.0, 0.3): [1, 0, 0, 0]})
    table = decay.decay_table(found(build))
    assert table.columns == ["", "budget", "images", "length 2", "length 8"]
    assert [row[1:] for row in table.rows] == [["0.1", "4", "100.0 ± 0.0", "75.0 ± 21.7"],
                                               ["0.3", "4", "75.0 ± 21.7", "25.0 ± 21.7"]]
    (picture,) = decay.decay_pictures(found(build))
    assert picture.name == "decay_length_mnist"
    assert [axes.get_title() for axes in picture.figure.axes] == ["scale 0.1", "scale 0.3"]
    (drawn,) = picture.figure.axes[1].containers
    assert drawn.lines[0].get_ydata().tolist() == [75.0, 25.0]
    (low, high), *_ = drawn.lines[2][0].get_segments()
    assert high[1] - low[1] == pytest.approx(2 * 100 * (0.75 * 0.25 / 4) ** 0.5)


def test_other_settings_or_the_datas_covariance_are_not_joined(build):
    run(build, "a", {(2.0, 0.3): [1, 1, 1, 0]}, samples=100)
    run(build, "b", {(8.0, 0.3): [1, 1, 1, 0]}, samples=10)
    run(build, "c", {(8.0, 0.3): [1, 0, 0, 0], (2.0, 0.3): [1, 0, 0, 0]}, covariance="data", part="lrc_data")
    assert found(build) == []
    assert decay.decay_table([]) is None
    assert decay.decay_pictures([]) == []


def test_the_report_holds_them(build, tmp_path):
    run(build, "a", {(2.0, 0.3): [1, 1, 1, 0], (8.0, 0.3): [1, 0, 0, 0]})
    report = write_report([build.root], tmp_path)
    assert "decay_length_mnist" in report.figures
    assert pd.read_csv(report.tables["decay_length"])["accuracy"].tolist() == [0.75, 0.25]
