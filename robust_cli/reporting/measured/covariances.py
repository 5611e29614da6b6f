"""Figures of covariances: functions of the distance of two pixels, and matrices of the images' centres.

Source: SGR (Roth et al. 2018), its figures of covariance matrices and functions; zeta -> decay length.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robust_cli.reporting.figures import COLOURS, LOOK, STROKES

DATA = "data"  # as the measure of covariances names the training images
REFERENCES = (1, 2, 4, 8, 16)  # decay lengths of SGR's long-range correlated noise, pixels
BETWEEN = 0.5  # its correlation of two channels at distance 0
_BLACK = "#000000"  # the data's
_LABEL = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
_PANELS = {"intra": "within a channel", "inter": "between two channels"}
_ACROSS = 3


def functions_figure(table: pd.DataFrame) -> Figure:
    """Covariance against displacement: a panel for pairs of pixels in one channel and, on colour images, one for those in two.

    ``table``: rows of the measure `Covariances`. An attack has one colour, stronger for larger budgets; the data is black;
    dotted and grey, each with its decay length where it falls to 1/e: exp(-r / decay length), the models of long-range
    correlated noise.
    """
    panels = [(name, title) for name, title in _PANELS.items() if (table["channels"] == name).any()]
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(7.2 if len(panels) == 1 else 11.0, 4.3))
        FigureCanvasAgg(figure)
        all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (name, title) in zip(all_axes, panels, strict=True):
            chosen = table[table["channels"] == name]
            _references(axes, 1.0 if name == "intra" else BETWEEN, float(chosen["displacement"].max()))
            _functions(axes, chosen)
            axes.set_xlabel("displacement r (pixels)")
            axes.set_title(title, fontsize=10)
        all_axes[0].set_ylabel("covariance / variance within")
        handles, labels = all_axes[0].get_legend_handles_labels()
        columns = 2 if len(labels) > 2 and max(map(len, labels)) <= 70 * len(panels) // 2 else 1
        all_axes[0].legend(handles, labels, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=columns, borderaxespad=0)
    return figure


def _references(axes: Axes, start: float, end: float) -> None:
    r = np.linspace(0, end, 401)
    axes.axhline(0, color="#999999", linewidth=0.8)
    factor = "" if start == 1 else f"{start:g} · "
    for length in REFERENCES:
        label = f"{factor}exp(-r / decay length)" if length == REFERENCES[0] else None
        axes.plot(r, start * np.exp(-r / length), linestyle=":", color="#888888", linewidth=1.1, label=label)
        if length <= end:
            axes.annotate(str(length), (length, start / math.e), xytext=(2, 2), textcoords="offset points", fontsize=7,
                          color="#444444", zorder=5, bbox=_LABEL)
    axes.set_xlim(0, end)


def _functions(axes: Axes, chosen: pd.DataFrame) -> None:
    """A line for each attack and budget; an attack's strongest line carries its label."""
    for k, (name, of_attack) in enumerate(chosen.groupby("attack", sort=False)):
        budgets = sorted(of_attack["budget"].unique())
        style: dict[str, Any] = {"color": _colour(str(name), k), "linestyle": STROKES[k % len(STROKES)], "linewidth": 1.6}
        if name == DATA:
            style |= {"linestyle": "-", "linewidth": 2.2}
        for step, budget in enumerate(budgets, 1):
            line = of_attack[of_attack["budget"] == budget].sort_values("displacement")
            last = step == len(budgets)
            axes.plot(line["displacement"], line["value"], alpha=0.25 + 0.75 * step / len(budgets),
                      label=_label(str(name), of_attack) if last else None, **style)


def _colour(name: str, k: int) -> str:
    colours = [colour for colour in COLOURS if colour != _BLACK]
    return _BLACK if name == DATA else colours[k % len(colours)]


def _label(name: str, of_attack: pd.DataFrame) -> str:
    """'pgd_l2 at 0.5 to 4, decay length 1.2 to 1.9 pixels'."""
    lengths = _range(of_attack["decay_length"], "{:.1f}")
    decay = "no decay length" if not lengths else f"decay length {lengths} pixels"
    if name == DATA:
        return f"training images, {decay}"
    budgets = _range(of_attack["budget"], "{:g}")
    return f"{name} at {budgets}, {decay}" if budgets else f"{name}, {decay}"


def _range(values: pd.Series[float], form: str) -> str:
    """The least and the largest finite value; '' where there is none."""
    finite = values[np.isfinite(values)]
    ends = list(dict.fromkeys(form.format(end) for end in (finite.min(), finite.max()))) if len(finite) else []
    return " to ".join(ends)


def matrices_figure(perturbations: Mapping[str, np.ndarray], centred: Collection[str] = (DATA,)) -> Figure:
    """A panel for each attack (and the data) with the covariance matrix of the middle of its images, over its largest |entry|.

    ``perturbations``: by title, adversarial images less originals (or the training images, as "data") [n, C, H, W]; images that
    are zero are left out, and so are titles with no others. Raw second moments, but for the titles in ``centred``. A quarter of
    height and width is trimmed at each side. Pixels run row by row, then channel by channel; one scale for all panels.
    """
    perturbations = {name: images for name, images in perturbations.items() if images.any()}
    assert perturbations, "something has to be drawn"
    across, down = min(_ACROSS, len(perturbations)), math.ceil(len(perturbations) / _ACROSS)
    with matplotlib.rc_context({**LOOK, "axes.grid": False}):
        figure = Figure(figsize=(3.3 * across + 0.9, 3.5 * down), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(down, across, squeeze=False).flatten()
        for axes, (name, images) in zip(panels, perturbations.items(), strict=False):
            matrix = _matrix(images, name in centred)
            shown = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
            axes.set_title("training images" if name == DATA else name, fontsize=10)
            axes.set_xticks([])
            axes.set_yticks([])
        for axes in panels[len(perturbations):]:
            axes.set_axis_off()
        figure.colorbar(shown, ax=list(panels), label="covariance / largest |entry|", shrink=0.8)
    return figure


def _matrix(images: np.ndarray, centred: bool) -> np.ndarray:
    import torch  # not needed by a report without such a figure

    from robust_cli.covariance import centre, rescaled, second_moment

    found = torch.tensor(images)
    found = centre(found[found.flatten(1).any(1)])
    return rescaled(second_moment(found, centred)).numpy()
