"""Figures of a report, as matplotlib Figure objects: no state of pyplot is touched, no display is needed."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robust_cli.reporting.lines.line import AnyLine

# Okabe and Ito's palette without its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
STROKES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (6, 2, 1, 2)), (0, (2.5, 1)), (0, (4, 1, 1, 1, 1, 1)))  # dotted is for limits
CLAIMED: Any = (0, (4, 4))
_UNBROKEN = ("-", *(stroke for stroke in STROKES[1:] if len(stroke[1]) > 2))  # solid or with dots, unlike a claim's
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
UNITS = "pixel units, images in [0, 1]"
_ACROSS = 3  # panels
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


def panels_figure(draws: Sequence[Callable[[Axes], None]], titles: Sequence[str], xlabel: str,
                  ylabels: str | Sequence[str]) -> Figure:
    """A panel for each of ``draws``, at most three beside each other, with a title and a y label each (one for all: a single
    word), and one legend below; the axes are as ``draws`` leave them."""
    across = min(_ACROSS, len(draws))
    down = math.ceil(len(draws) / across)
    named = [ylabels] * len(draws) if isinstance(ylabels, str) else list(ylabels)
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(7.2 if across == 1 else 4.1 * across, 4.3 if down == 1 else 3.4 * down), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(down, across, squeeze=False).flatten()
        for axes, draw, title, ylabel in zip(panels, draws, titles, named, strict=False):
            axes.set_title(textwrap.shorten(title, 48, placeholder=" ..."), fontsize=10)
            axes.set_xlabel(xlabel)
            axes.set_ylabel(ylabel)
            draw(axes)
        for axes in panels[len(draws):]:
            axes.set_axis_off()
        found = {label: handle for axes in panels[:len(draws)] for handle, label in zip(*axes.get_legend_handles_labels(),
                                                                                         strict=True)}
        labels, width = list(found)[:_ENTRIES], 30 * across + 20
        wrapped = [textwrap.fill(label, width, break_on_hyphens=False) for label in labels]
        figure.legend([found[label] for label in labels], wrapped, loc="outside lower left",
                      ncols=max(1, min(4, width // (4 + max(map(len, labels), default=1)))))
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


def strokes(lines: Sequence[AnyLine]) -> list[dict[str, Any]]:
    """Colour by model and stroke by certificate or attack where both differ; otherwise every line has its own of both. Where a
    line is a claim, claims are dashed and no other line is."""
    both = len({line.family for line in lines}) > 1 and len({line.kind for line in lines}) > 1
    return _dashed(lines, [(line.family, line.kind) for line in lines]) if both else apart(lines)


def apart(lines: Sequence[AnyLine]) -> list[dict[str, Any]]:
    """Every line with a colour and a stroke of its own."""
    return _dashed(lines, [(k, k) for k in range(len(lines))])


def _dashed(lines: Sequence[AnyLine], numbers: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """The lines' styles by their numbers of colour and stroke, claims dashed and no other."""
    looks = [style(colour, stroke) for colour, stroke in numbers]
    if not any(line.is_claim for line in lines):
        return looks
    return [look | {"linestyle": CLAIMED if line.is_claim else _UNBROKEN[stroke % len(_UNBROKEN)]}
            for look, line, (_, stroke) in zip(looks, lines, numbers, strict=True)]


def style(colour: int, stroke: int) -> dict[str, Any]:
    """The n-th colour with the n-th stroke and mark; marks turn on where colours begin again."""
    return {"color": COLOURS[colour % len(COLOURS)], "linestyle": STROKES[stroke % len(STROKES)],
            "marker": MARKERS[(stroke + stroke // len(COLOURS)) % len(MARKERS)]}


def legend_entry(axes: Axes, label: str, **look: Any) -> None:
    """An entry of a legend that stands for no line of its own."""
    axes.add_line(Line2D([], [], label=label, **look))


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


