"""A legend neither makes a picture wider than its axes nor grows without end."""

from __future__ import annotations

import pytest
from matplotlib import image

from robust_cli.reporting import figures


def drawn(labels, tmp_path):
    def draw(axes):
        for label in labels:
            axes.plot([0, 1], [0, 100], label=label)

    figure = figures.drawn_figure(draw, "x", "y")
    figures.save(figure, tmp_path / "x.png", tmp_path / "x.svg")
    return figure, image.imread(tmp_path / "x.png").shape[1] / (150 * 7.2)


@pytest.mark.parametrize("words", [3, 20, 60])
def test_a_long_legend_leaves_a_picture_as_wide_as_its_axes(tmp_path, words):
    labels = [" ".join([f"setting{k}"] * words) for k in range(4)]
    figure, width = drawn(labels, tmp_path)
    assert 0.8 < width < 1.1
    assert [text.get_text().replace("\n", " ") for text in figure.axes[0].get_legend().get_texts()] == labels


def test_a_word_without_end_is_broken_too(tmp_path):
    assert drawn(["x" * 300] * 2, tmp_path)[1] < 1.1


def test_very_many_entries_are_counted(tmp_path):
    texts = [text.get_text() for text in drawn([f"run {k}" for k in range(40)], tmp_path)[0].axes[0].get_legend().get_texts()]
    assert len(texts) == 25
    assert texts[-1] == "and 16 more"
