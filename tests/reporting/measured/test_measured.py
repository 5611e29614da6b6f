"""Figures and tables of measures: the numbers drawn and written are those of the frames."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pytest

from robust_cli.reporting import figures, tables
from robust_cli.reporting.measured import curves as measured


def noise(agreement, accuracy, draws=1, **forms):
    x = np.linspace(0, 0.5, len(agreement))
    values = {"gnr": 70.0, "gnr_all": 60.0, "gnr_threshold": 65.0, **forms}
    return pd.DataFrame({"noise_std": x, "images": 200, "draws": draws, "threshold": 0.1, "agreement": agreement,
                         "agreement_error": 0.01, "accuracy": accuracy, "accuracy_error": 0.01,
                         "all_agree": np.array(agreement) / 2, "within_threshold": agreement, **values,
                         **{f"{k}_error": v / 100 for k, v in values.items()}})


def gradients(norms, attack="pgd", budget=0.5, zeros=0.0):
    return pd.DataFrame([{"attack": attack, "budget": budget, "loss": "margin", "iteration": k, "mean_norm": v, "error": v / 10,
                          "zeros": zeros, "images": 50} for k, v in enumerate(norms)])


def path(label, adversarial, attack="pgd", budget=0.5, index=-1, extend=1.0):
    return pd.DataFrame([{"attack": attack, "budget": budget, "t": t, "index": index, "label": index and -1, "predicted": -1,
                          "images": 30 if index < 0 else 1, "probability_label": p, "probability_label_error": 0.02,
                          "probability_adversarial": q, "probability_adversarial_error": 0.03}
                         for t, p, q in zip(np.linspace(0, extend, len(label)), label, adversarial, strict=True)])


def drawn(figure):
    """label -> (x, y) of the lines; what the legend hides begins with _, a child has no name."""
    return {line.get_label(): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
            for line in figure.axes[0].lines if len(line.get_xdata()) and not str(line.get_label()).startswith("_child")}


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def saved(figure, tmp_path):
    figures.save(figure, tmp_path / "f.png", tmp_path / "f.svg")
    assert (tmp_path / "f.png").stat().st_size > 5000


def read_back(frame):
    """As it comes from a run's CSV."""
    return pd.read_csv(io.StringIO(frame.to_csv(index=False)))


def test_noise_curves(tmp_path) -> None:
    figure = measured.noise_figure([noise([1, 0.75, 0.5], [0.875, 0.75, 0.25]), noise([1, 0.5, 0.25], [1, 0.5, 0.5], draws=4)],
                                   ["first", "second"])
    lines = drawn(figure)
    assert lines["first"] == ([0, 0.25, 0.5], [100, 75, 50])
    assert lines["_first right"] == ([0, 0.25, 0.5], [87.5, 75, 25])
    assert lines["_second all"] == ([0, 0.25, 0.5], [50, 25, 12.5])
    assert len(lines) == 5
    assert legend(figure) == ["first", "second", "answer kept", "answer right", "answer kept in all draws"]
    assert legend(measured.noise_figure([noise([1, 0.5], [1, 0.5])], [""])) == ["answer kept", "answer right"]
    saved(figure, tmp_path)


def test_noise_table() -> None:
    other = read_back(noise([1, 0.5], [1, 0.5], draws=4, gnr=81.25))
    table = measured.noise_table([noise([1, 0.5], [1, 0.5]), other], ["a", "b"])
    assert table.rows[0] == ["a", "200", "0.5", "70.0 ± 0.7", "60.0 ± 0.6", "65.0 ± 0.7", "1", "0.1"]
    assert table.data["gnr"].tolist() == pytest.approx([70, 81.25])
    assert table.data["gnr_error"].tolist() == pytest.approx([0.7, 0.8125])
    assert table.data["draws"].tolist() == [1, 4]
    assert len(table.columns) == len(table.rows[0])
    assert "81.2 ± 0.8" in tables.markdown(table)


def test_gradient_lines_are_of_the_largest_budget(tmp_path) -> None:
    frame = read_back(pd.concat([gradients([3.0], "none", 0.0), gradients([1, 2, 4], budget=0.25),
                                 gradients([1, 4, 9], budget=0.5), gradients([2.0], "fgsm", 0.5)]))
    figure = measured.gradient_figure([frame], [""])
    assert drawn(figure) == {"pgd at 0.5": ([0, 1, 2], [1, 4, 9]), "fgsm at 0.5": ([0], [2])}
    assert figure.axes[0].get_yscale() == "linear"
    assert figure.axes[0].get_ylim()[1] > 9
    saved(figure, tmp_path)


def test_gradients_of_very_different_sizes_are_all_seen(tmp_path) -> None:
    figure = measured.gradient_figure([gradients([1e-9, 1e-3, 0.0, 5.0])], ["run"])
    assert drawn(figure) == {"run, pgd at 0.5": ([0, 1, 3], [1e-9, 1e-3, 5.0])}
    assert figure.axes[0].get_yscale() == "log"
    low, high = figure.axes[0].get_ylim()
    assert low < 1e-9
    assert high > 5
    saved(figure, tmp_path)
    saved(measured.gradient_figure([gradients([0.0, 0.0])], [""]), tmp_path)  # nothing but zeros


def test_gradient_table() -> None:
    frame = pd.concat([gradients([3.0], "none", 0.0), gradients([1, 2, 0.5], zeros=0.25), gradients([1, 4], budget=0.25)])
    table = measured.gradient_table([frame, frame], ["a", "b"])
    assert table.rows[0] == ["a, clean images", "margin", "50", "1", "3 ± 0.3", "3 ± 0.3", "0.0"]
    assert table.rows[2] == ["a, pgd at 0.5", "margin", "50", "3", "1 ± 0.1", "0.5 ± 0.05", "25.0"]
    assert len(table.rows) == 6
    assert table.data["last"].tolist() == [3, 4, 0.5] * 2


def test_softmax_lines(tmp_path) -> None:
    mean, one = path([0.9, 0.5, 0.1], [0.05, 0.4, 0.85]), path([0.8, 0.6, 0.2], [0.1, 0.3, 0.7], index=7)
    small = path([0.9, 0.8, 0.4], [0.05, 0.1, 0.5], budget=0.25)
    figure = measured.softmax_figure([pd.concat([small, mean, one])], [""])
    lines = drawn(figure)
    assert lines["pgd at 0.5"] == ([0, 0.5, 1], [90, 50, 10])
    assert lines["_pgd at 0.5 adversarial"] == ([0, 0.5, 1], [5, 40, 85])
    assert len(lines) == 2
    assert len(figure.axes[0].lines) == 6  # the single image, and two for the legend
    assert legend(figure) == ["pgd at 0.5", "label", "class of the adversarial image"]
    saved(figure, tmp_path)
    beyond = pd.concat([path([0.9, 0.5, 0.1], [0.05, 0.4, 0.85], extend=2.0), one])
    two = measured.softmax_figure([beyond, mean], ["a", "b"])
    assert set(drawn(two)) == {"a, pgd at 0.5", "_a, pgd at 0.5 adversarial", "b, pgd at 0.5", "_b, pgd at 0.5 adversarial"}
    assert len(two.axes[0].lines) == 7  # and where the adversarial image is
    saved(two, tmp_path)


def test_softmax_table() -> None:
    frame = read_back(pd.concat([path([0.9, 0.5, 0.1], [0.0, 0.4, 0.9]), path([0.5] * 3, [0.2] * 3, "near", math.inf, extend=2.0),
                                 path([0.1] * 3, [0.9] * 3, index=4)]))
    table = measured.softmax_table([frame], [""])
    assert table.rows[0] == ["pgd at 0.5", "30", "90.0 ± 2.0", "10.0 ± 2.0", "90.0 ± 3.0", "0.56"]
    assert table.data["crossing"].iloc[0] == pytest.approx(0.5 + 0.5 * 0.1 / 0.9)
    assert table.rows[1][0] == "near, closest"
    assert table.rows[1][-1] == tables.EMPTY  # never crosses
    assert table.data["adversarial"].iloc[1] == pytest.approx(0.2)


def test_nothing_fooled_is_an_empty_table_and_figure(tmp_path) -> None:
    empty = path([1.0, 1.0], [0.0, 0.0]).iloc[:0]
    assert measured.softmax_table([empty], [""]).rows == []
    saved(measured.softmax_figure([empty], [""]), tmp_path)
