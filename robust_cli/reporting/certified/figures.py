"""Certified accuracy against radius, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_cli.reporting.certified import accuracy as certified
from robust_cli.reporting.certified import levels
from robust_cli.reporting.figures import UNITS, drawn_figure, legend_entry, strokes
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.reading.load import Certified

_GRID = 401


def certified_figure(lines: Sequence[Line[Certified]], largest: Sequence[float]) -> Figure:
    """Certified accuracy against radius, of one norm: a step curve a line with its band (and a mark at each level, where radii
    are levels of a table), natural accuracy, and the largest provable radius. A curve of one radius that was asked for ends
    there."""
    limits = [np.nan if levels.preset(line) is not None else limit for line, limit in zip(lines, largest, strict=True)]

    def draw(axes: Axes) -> None:
        end = end_of([t for line in lines for t in line.tables], largest)
        for line, limit, style in zip(lines, limits, strokes(lines), strict=True):
            draw_certified(axes, line, style, end, line.title)
            _limit(axes, limit, style["color"] if limits.count(limit) == 1 else "#666666")
        axes.set_xlim(0, end)
        if any(np.isfinite(certified.natural(line.tables).value) for line in lines):
            legend_entry(axes, "natural accuracy", marker="D", linestyle="none", color="#666666", markersize=6)
        if not all(map(levels.comparable, lines)):
            legend_entry(axes, _mark(lines), marker="o", linestyle="none", color="#666666",
                         markerfacecolor="white", markersize=6)
        if any(np.isfinite(limits)):
            legend_entry(axes, "largest provable radius", linestyle=":", marker="|", color="#666666", markersize=9)

    return drawn_figure(draw, f"{lines[0].norm} radius ({UNITS})", "certified accuracy (%)")


def _mark(lines: Sequence[Line[Certified]]) -> str:
    """What the marks of levels say."""
    asked = {levels.preset(line) is not None for line in lines if not levels.comparable(line)}
    of = ["levels of a table"] * (False in asked) + ["the radius asked for"] * (True in asked)
    return f"{', '.join(of)}: comparable there alone"


def end_of(tables: Sequence[pd.DataFrame], largest: Sequence[float]) -> float:
    """Where an axis of radii ends: behind all that is proven or could be."""
    limits = [x for x in largest if np.isfinite(x)] + [certified.reached(t) for t in tables]
    return 1.06 * max([*limits, 1e-6])


def draw_certified(axes: Axes, line: Line[Certified], style: dict[str, Any], end: float, label: str) -> None:
    """One line's curve with its band, the marks of its levels, and its natural accuracy."""
    # Between two grid points the value of the upper one: never above the true curve.
    asked = levels.preset(line)  # known up to there, at least
    points = certified.curve(line.tables, np.linspace(0, end if asked is None else asked, _GRID))
    points = points[points["accuracy"].shift(fill_value=1) > 0]  # nothing is drawn along the axis behind the first 0
    x, y, error = points["radius"], 100 * points["accuracy"], 100 * points["error"]
    levelled = not levels.comparable(line)
    axes.step(x, y, where="pre", label=label + f" {levels.MARK}" * levelled, color=style["color"], linestyle=style["linestyle"],
              linewidth=1.0 if levelled else 1.8)
    axes.fill_between(x, np.maximum(y - error, 0), np.minimum(y + error, 100), step="pre", color=style["color"], alpha=0.15,
                      linewidth=0)
    if levelled:
        table = levels.levels(line)
        at = certified.curve(line.tables, table[table <= end])  # beyond it nothing is proven
        axes.plot(at["radius"], 100 * at["accuracy"], marker="o", linestyle="none", color=style["color"], markerfacecolor="white",
                  markersize=6, clip_on=False, zorder=4)
    natural = certified.natural(line.tables)
    axes.plot([0], [100 * natural.value], marker="D", color=style["color"], markersize=6, clip_on=False, zorder=5)


def _limit(axes: Axes, radius: float, colour: str) -> None:
    if np.isfinite(radius):
        axes.axvline(radius, color=colour, linestyle=":", linewidth=1)
        axes.plot([radius], [0], marker="|", color=colour, markersize=14, clip_on=False)
