"""Figures of trainings with noise (AMR, Figures 2 and 3)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from robust_cli.reporting.estimates import Estimate
from robust_cli.reporting.figures import COLOURS, LOOK, STROKES, Picture, panels_figure, style
from robust_cli.reporting.trained.fair import Choice, choices, tolerances
from robust_cli.reporting.trained.noise_tables import sizes
from robust_cli.reporting.trained.noise_training import BASELINE, Entry, Group

_SPREAD = 0.06  # of the largest noise: over what the points of several methods at one noise are spread


def noise_pictures(groups: Sequence[Group]) -> list[Picture]:
    """Of each group accuracy and GNR against the training's noise, and, where it has a baseline, the fair comparison."""
    found = []
    for group in groups:
        name = group.name if sum(other.name == group.name for other in groups) == 1 else f"{group.name}_{group.largest:g}"
        found.append(Picture(f"noise_training_{name}", noise_figure(group), _against_caption(group)))
        chosen = choices(group)
        if chosen:
            found.append(Picture(f"noise_training_best_{name}", fair_figure(chosen, group), _fair_caption(chosen, group)))
    return found


def _against_caption(group: Group) -> str:
    picked = [entry for entry in group.tuned() if entry.weight is not None and entry.noise_std is not None]
    weights = "; ".join(f"{e.method} {e.weight:g} at {e.noise_std:g}" for e in picked)
    left = len(group.entries) > len(group.tuned())
    return ("Test accuracy and GNR against the training's noise (AMR, Figure 2), with standard errors; points of one noise are "
            f"drawn a little apart. {sizes(group)}"
            + f" Of several weights the one of the highest test accuracy, as AMR's script picks: {weights}." * left)


def _fair_caption(chosen: Sequence[Choice], group: Group) -> str:
    strict = tolerances(group)[0]
    names = [entry.title for choice in chosen if choice.tolerance.name == strict.name for entry in choice.excluded]
    return ("Best GNR of each method among models whose test accuracy is at least that of regime=standard less a tolerance (AMR, "
            f"Figure 3), with standard errors. {sizes(group)} Excluded at tolerance {strict.name}: {'; '.join(names) or 'none'}.")


def noise_figure(group: Group) -> Figure:
    """Two panels, test accuracy and GNR: a line a method, points at its noises; methods without noise as level lines."""
    picked = group.tuned()
    methods = [m for m in group.methods if any(e.method == m and e.noise_std is not None for e in picked)]
    level = [entry for entry in picked if entry.noise_std is None]

    width = _SPREAD * max((entry.noise_std or 0.0 for entry in picked), default=1.0)

    def panel(axes: Axes, of: str) -> None:
        for k, method in enumerate(methods):
            points = sorted((e for e in picked if e.method == method and e.noise_std is not None),
                            key=lambda e: e.noise_std or 0.0)
            values = [_of(entry, of) for entry in points]
            axes.errorbar([_beside(entry, picked, width) for entry in points], [100 * v.value for v in values],
                          yerr=[100 * v.error for v in values], label=method, capsize=2.5, markersize=4.5, linewidth=1.5,
                          **style(k, k))
        for k, entry in enumerate(level):
            value, colour = _of(entry, of), "#666666" if entry.regime == BASELINE else COLOURS[-1 - k % len(COLOURS)]
            low, high = 100 * (value.value - value.error), 100 * (value.value + value.error)
            axes.axhline(100 * value.value, linestyle=STROKES[k % len(STROKES)], linewidth=1.2, label=entry.title, color=colour)
            axes.axhspan(low, high, alpha=0.12, linewidth=0, color=colour)
        axes.set_xlim(left=0)

    return panels_figure([lambda axes: panel(axes, "test"), lambda axes: panel(axes, "gnr")], ["", ""],
                         "noise of the training (standard deviation)", ["test accuracy (%)", "GNR (%)"])


def _beside(entry: Entry, picked: Sequence[Entry], width: float) -> float:
    """Where a point is drawn: at its noise, or, so that they do not hide one another, among those that share it around it."""
    there = [other for other in picked if other.noise_std == entry.noise_std]
    place = next(k for k, other in enumerate(there) if other is entry)
    return (entry.noise_std or 0.0) + width * ((place + 0.5) / len(there) - 0.5)


def _of(entry: Entry, what: str) -> Estimate:
    return entry.test if what == "test" else entry.gnr


def fair_figure(chosen: Sequence[Choice], group: Group) -> Figure:
    """A row of bars a method, a bar a tolerance, its length the best GNR."""
    methods, allowed = group.methods, [tolerance.name for tolerance in tolerances(group)]
    height = 0.8 / len(allowed)
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(7.2, 1.2 + (0.22 * len(allowed) + 0.2) * len(methods)))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.grid(False, axis="y")
        for j, name in enumerate(allowed):
            for choice in (c for c in chosen if c.tolerance.name == name):
                at = methods.index(choice.method) + (j - (len(allowed) - 1) / 2) * height
                _bar(axes, choice, at, height, COLOURS[j])
        if group.baseline is not None:
            axes.axvline(100 * group.baseline.gnr.value, color="#666666", linestyle=":", linewidth=1)
        axes.set_yticks(np.arange(len(methods)), [textwrap.fill(m, 34, break_on_hyphens=False) for m in methods])
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.set_xlim(0, 112)
        axes.set_xlabel("best GNR (%)")
        entries = [Patch(color=COLOURS[j], label=f"tolerance {name}") for j, name in enumerate(allowed)]
        below = -0.6 / figure.get_figheight()
        axes.legend(handles=entries, loc="upper left", bbox_to_anchor=(0, below), ncols=2, borderaxespad=0)
    return figure


def _bar(axes: Axes, choice: Choice, at: float, height: float, colour: str) -> None:
    if choice.best is None:
        axes.annotate("none is as accurate", (1, at), va="center", fontsize=7, color="#444444")
        return
    value, error = 100 * choice.best.gnr.value, 100 * choice.best.gnr.error
    axes.barh(at, value, height=height, color=colour, alpha=0.85, xerr=error, error_kw={"capsize": 2, "elinewidth": 1})
    axes.annotate(f"{value:.1f}", (value + error, at), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7)
