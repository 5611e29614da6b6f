"""Figures of a report, as matplotlib Figure objects: no state of pyplot is touched, no display is needed."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robust_cli.reporting import attacked, certified, levels
from robust_cli.reporting.lines import AnyLine, Line
from robust_cli.reporting.load import Attacked, Certified, Trained

# Okabe and Ito's palette without its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
STROKES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (6, 2, 1, 2)), (0, (2.5, 1)), (0, (4, 1, 1, 1, 1, 1)))  # dotted is for limits
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
UNITS = "pixel units, images in [0, 1]"
_GRID = 401
_ENTRIES = 24  # of a legend
_WRAPPED = 74  # characters of a legend under the axes
LOOK: dict[Any, Any] = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#555555", "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#e3e3e3", "grid.linewidth": 0.7, "legend.frameon": False, "legend.fontsize": 9,
    "legend.handlelength": 3.4, "svg.fonttype": "path"}


@dataclass(frozen=True)
class Picture:
    """A figure with its name, its caption, and words for who cannot see it."""

    name: str
    figure: Figure
    caption: str


def drawn_figure(draw: Callable[[Axes], None], xlabel: str, ylabel: str) -> Figure:
    """A figure of the house's size and look, whose axes ``draw`` fills."""
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(7.2, 4.3))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.set_ylim(0, 101)
        draw(axes)
        axes.set_xlim(left=0)
        _legend(axes)
    return figure


def _legend(axes: Axes) -> None:
    """Inside where it is short, else under the axes, in lines no longer than they are wide: a legend neither covers a line nor
    makes a picture wider. Of very many entries the last are left out and counted."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > _ENTRIES:
        handles = [*handles[:_ENTRIES], Line2D([], [], linestyle="none")]
        labels = [*labels[:_ENTRIES], f"and {len(labels) - _ENTRIES} more"]
    if len(labels) <= 3 and max(map(len, labels), default=0) <= 32:
        axes.legend(handles, labels, loc="best")
    else:
        columns = 2 if max(map(len, labels)) <= 46 else 1
        labels = [textwrap.fill(label, _WRAPPED, break_on_hyphens=False) for label in labels]
        axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=columns, borderaxespad=0)


def _strokes(lines: Sequence[AnyLine]) -> list[dict[str, Any]]:
    """Colour by model and stroke by certificate or attack where both differ; otherwise every line has its own of both."""
    both = len({line.family for line in lines}) > 1 and len({line.kind for line in lines}) > 1
    return [_style(line.family, line.kind) if both else _style(k, k) for k, line in enumerate(lines)]


def _style(colour: int, stroke: int) -> dict[str, Any]:
    return {"color": COLOURS[colour % len(COLOURS)], "linestyle": STROKES[stroke % len(STROKES)],
            "marker": MARKERS[stroke % len(MARKERS)]}


def certified_figure(lines: Sequence[Line[Certified]], largest: Sequence[float]) -> Figure:
    """Certified accuracy against radius, of one norm: a step curve a line with its band (and a mark at each level, where radii
    are levels of a table), natural accuracy, and the largest provable radius."""
    def draw(axes: Axes) -> None:
        end = _end([t for line in lines for t in line.tables], largest)
        for line, limit, style in zip(lines, largest, _strokes(lines), strict=True):
            _certified(axes, line, style, end, line.title)
            _limit(axes, limit, style["color"] if list(largest).count(limit) == 1 else "#666666")
        axes.set_xlim(0, end)
        if any(np.isfinite(certified.natural(line.tables).value) for line in lines):
            legend_entry(axes, "natural accuracy", marker="D", linestyle="none", color="#666666", markersize=6)
        if not all(map(levels.comparable, lines)):
            legend_entry(axes, "levels of a table: comparable there alone", marker="o", linestyle="none", color="#666666",
                         markerfacecolor="white", markersize=6)
        if any(np.isfinite(largest)):
            legend_entry(axes, "largest provable radius", linestyle=":", marker="|", color="#666666", markersize=9)

    return drawn_figure(draw, f"{lines[0].norm} radius ({UNITS})", "certified accuracy (%)")


def _end(tables: Sequence[pd.DataFrame], largest: Sequence[float]) -> float:
    limits = [x for x in largest if np.isfinite(x)] + [float(certified.proven(t).max(initial=0.0)) for t in tables]
    return 1.06 * max([*limits, 1e-6])


def _certified(axes: Axes, line: Line[Certified], style: dict[str, Any], end: float, label: str) -> None:
    # Between two grid points the value of the upper one: never above the true curve.
    points = certified.curve(line.tables, np.linspace(0, end, _GRID))
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


def legend_entry(axes: Axes, label: str, **style: Any) -> None:
    axes.add_line(Line2D([], [], label=label, **style))


def robust_figure(lines: Sequence[Line[Attacked]], norm: str) -> Figure:
    """Robust accuracy against budget for the attacks of one norm, with error bars."""
    def draw(axes: Axes) -> None:
        for line, style in zip(lines, _strokes(lines), strict=True):
            _robust(axes, line, style, line.title)

    return drawn_figure(draw, f"{norm} budget ({UNITS})", "robust accuracy (%)")


def _robust(axes: Axes, line: Line[Attacked], style: dict[str, Any], label: str) -> None:
    points = attacked.curve(line.tables)
    x, y, error = points["budget"], 100 * points["accuracy"], 100 * points["error"]
    if line.is_worst_case:  # it often lies on an attack's line: a wide pale stroke below
        axes.errorbar(x, y, yerr=error, label=label, color=style["color"], linewidth=6, elinewidth=1, alpha=0.3, zorder=1)
    else:
        axes.errorbar(x, y, yerr=error, label=label, capsize=2.5, markersize=4.5, linewidth=1.5, clip_on=False, **style)


def combined_figure(certificates: Sequence[Line[Certified]], attacks: Sequence[Line[Attacked]]) -> Figure:
    """What is proven (from below) and what attacks reach (from above) for one smoothed classifier in one norm."""
    def draw(axes: Axes) -> None:
        ends = [t["budget"].max() for line in attacks for t in line.tables]
        end = max(_end([t for line in certificates for t in line.tables], []), 1.04 * max(ends))
        for k, proof in enumerate(certificates):
            _certified(axes, proof, _style(k, k), end, f"certified: {proof.title}")
        for k, attack in enumerate(attacks, len(certificates)):
            _robust(axes, attack, _style(k, k), f"attacked: {attack.title}")
        axes.set_xlim(0, end)

    return drawn_figure(draw, f"{certificates[0].norm} radius or budget ({UNITS})", "accuracy (%)")


def training_figure(runs: Sequence[Trained], titles: Sequence[str]) -> Figure:
    """Training accuracy (and validation accuracy where it was measured) by epoch."""
    def draw(axes: Axes) -> None:
        for k, (run, title) in enumerate(zip(runs, titles, strict=True)):
            for column, stroke in (("train_accuracy", "-"), ("validation_accuracy", "--")):
                if column in run.metrics and run.metrics[column].notna().any():
                    axes.plot(run.metrics["epoch"], 100 * run.metrics[column], linestyle=stroke, color=COLOURS[k % len(COLOURS)],
                              label=f"{title}, {column.split('_')[0]}")

    return drawn_figure(draw, "epoch", "accuracy (%)")


def save(figure: Figure, png: Path, svg: Path) -> None:
    """Write both files; nothing outside the axes is cut off. The same figure gives the same bytes."""
    with matplotlib.rc_context({**LOOK, "svg.hashsalt": svg.stem}):
        figure.savefig(png, dpi=150, bbox_inches="tight", metadata={"Software": None})
        figure.savefig(svg, bbox_inches="tight", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))


def inline_svg(svg: str, name: str, description: str) -> str:
    """An SVG file's text as an element for a page: no prologue, ids that no other figure has, and words for who cannot see it."""
    body = svg[svg.index("<svg"):]
    body = re.sub(r'(<image\b[^>]*) id="[^"]*"', r"\1", body)  # equal images share one, which nothing refers to
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", body)
    words = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return body.replace("<svg", f'<svg role="img" aria-label="{words}"', 1)


