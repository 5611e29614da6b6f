"""Robust accuracy against budget, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_cli.reporting.attacked import accuracy as attacked
from robust_cli.reporting.figures import UNITS, drawn_figure, strokes
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.reading.load import Attacked


def robust_figure(lines: Sequence[Line[Attacked]], norm: str) -> Figure:
    """Robust accuracy against budget for the attacks of one norm, with error bars."""
    def draw(axes: Axes) -> None:
        for line, style in zip(lines, strokes(lines), strict=True):
            draw_robust(axes, line, style, line.title)

    return drawn_figure(draw, f"{norm} budget ({UNITS})", "robust accuracy (%)")


def draw_robust(axes: Axes, line: Line[Attacked], style: dict[str, Any], label: str) -> None:
    """One line's accuracy with its error bars."""
    points = attacked.curve(line.tables)
    x, y, error = points["budget"], 100 * points["accuracy"], 100 * points["error"]
    if line.is_worst_case:  # it often lies on an attack's line: a wide pale stroke below
        axes.errorbar(x, y, yerr=error, label=label, color=style["color"], linewidth=6, elinewidth=1, alpha=0.3, zorder=1)
    else:
        axes.errorbar(x, y, yerr=error, label=label, capsize=2.5, markersize=4.5, linewidth=1.5, clip_on=False, **style)
