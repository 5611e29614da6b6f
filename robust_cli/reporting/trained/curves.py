"""Training by epoch: accuracy, and the loss with the terms that a regime makes it of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from robust_cli.reporting.figures import COLOURS, STROKES, drawn_figure, panels_figure
from robust_cli.reporting.reading.load import Trained

_NO_TERM = ("epoch", "step", "seconds", "learning_rate", "loss", "train_accuracy", "validation_loss", "validation_accuracy")
_WIDE = 30.0  # a ratio of largest to smallest value from which an axis is logarithmic
_BLACK = "#000000"  # the whole loss's


def training_figure(runs: Sequence[Trained], titles: Sequence[str]) -> Figure:
    """Training accuracy (and validation accuracy where it was measured) by epoch."""
    def draw(axes: Axes) -> None:
        for k, (run, title) in enumerate(zip(runs, titles, strict=True)):
            for column, stroke in (("train_accuracy", "-"), ("validation_accuracy", "--")):
                if column in run.metrics and run.metrics[column].notna().any():
                    axes.plot(run.metrics["epoch"], 100 * run.metrics[column], linestyle=stroke, color=COLOURS[k % len(COLOURS)],
                              label=f"{title}, {column.split('_')[0]}")

    return drawn_figure(draw, "epoch", "accuracy (%)")


def terms(run: Trained) -> list[str]:
    """The terms of the loss that a run logged, in its order; none where the only one is the loss itself."""
    found = [str(c) for c in run.metrics.columns if c not in _NO_TERM and pd.api.types.is_numeric_dtype(run.metrics[c])
             and run.metrics[c].notna().any()]
    same = len(found) == 1 and np.allclose(run.metrics[found[0]], run.metrics["loss"], rtol=1e-6, atol=0.0, equal_nan=True)
    return [] if same else found


def loss_figure(runs: Sequence[Trained]) -> Figure:
    """Loss (black; dashed: on the validation images) and its terms (a colour each) by epoch, a panel for each regime, whose runs
    are lines of the same colours; an axis is logarithmic where its values are positive and differ widely."""
    groups: dict[str, list[Trained]] = {}
    for run in runs:
        groups.setdefault(str(run.about.get("regime")), []).append(run)
    names = list(dict.fromkeys(name for run in runs for name in terms(run)))
    colours = [colour for colour in COLOURS if colour != _BLACK]
    style = {name: colours[k % len(colours)] for k, name in enumerate(names)}

    def panel(axes: Axes, group: Sequence[Trained]) -> None:
        values = np.concatenate([run.metrics[["loss", *terms(run)]].to_numpy(np.float64).ravel() for run in group])
        values = values[np.isfinite(values)]
        if len(values) and values.min() > 0 and values.max() > _WIDE * values.min():
            axes.set_yscale("log")
        for run in group:
            _run(axes, run, style)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return panels_figure([partial(panel, group=group) for group in groups.values()],
                         list(groups) if len(groups) > 1 else [""], "epoch", "loss and its terms")


def _run(axes: Axes, run: Trained, style: dict[str, str]) -> None:
    epoch, single = run.metrics["epoch"], "o" if len(run.metrics) == 1 else ""
    axes.plot(epoch, run.metrics["loss"], color=_BLACK, linewidth=1.4, alpha=0.8, label="loss", marker=single)
    if "validation_loss" in run.metrics and run.metrics["validation_loss"].notna().any():
        axes.plot(epoch, run.metrics["validation_loss"], color=_BLACK, linestyle=STROKES[1], linewidth=1.2, alpha=0.8,
                  label="validation loss", marker=single)
    for name in terms(run):
        axes.plot(epoch, run.metrics[name], color=style[name], linewidth=1.2, alpha=0.8, label=name.replace("_", " "),
                  marker=single)
