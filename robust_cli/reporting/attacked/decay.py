"""Accuracy under noise with long-range correlations against the length over which they decay.

Source: SGR (Roth et al. 2018), its figure of accuracy against zeta; zeta -> decay_length, epsilon -> budget, the noise's scale.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from robust_cli.reporting.attacked import accuracy as attacked
from robust_cli.reporting.certified.tables import SPREAD
from robust_cli.reporting.figures import Picture, panels_figure, style
from robust_cli.reporting.lines.facets import Facets
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.lines.titles import titles
from robust_cli.reporting.reading.load import Attacked
from robust_cli.reporting.tables import EMPTY, Table, percent

_LENGTH = "decay_length"
_NOTE = ("Accuracy in % under the worst of several noises whose correlation falls to 1/e at the decay length (pixels), by the "
         "noise's scale (budget, standard deviation in pixel units before clipping).")


@dataclass(frozen=True)
class Series:
    """One model under attacks that differ in nothing but their decay length, by that length."""

    title: str
    lines: dict[float, Line[Attacked]]

    @property
    def about(self) -> dict[str, Any]:
        return next(iter(self.lines.values())).about

    @property
    def budgets(self) -> list[float]:
        """The scales of the noise at which two lengths or more can be compared."""
        every = [float(b) for line in self.lines.values() for b in line.tables[0]["budget"].unique() if b > 0]
        return sorted({b for b in every if every.count(b) > 1})

    def at(self, budget: float) -> pd.DataFrame:
        """Columns decay_length, accuracy, error, images, runs."""
        rows = [(length, attacked.accuracy(line.tables, budget)) for length, line in sorted(self.lines.items())
                if all((table["budget"] == budget).any() for table in line.tables)]
        return pd.DataFrame([(length, e.value, e.error, e.images, e.runs) for length, e in rows],
                            columns=[_LENGTH, "accuracy", "error", "images", "runs"])


def series(lines: Sequence[Line[Attacked]]) -> list[Series]:
    """The models that were attacked with several decay lengths; of two runs of one length the first counts."""
    groups: dict[str, tuple[Facets, dict[float, Line[Attacked]]]] = {}
    for line in lines:
        settings = line.about.get("attacks", {}).get(line.part, {}).get("settings") or {}
        if line.is_own and not line.is_worst_case and _LENGTH in settings and settings.get("covariance", "decay") == "decay":
            rest = {key: words for key, words in line.facets.items() if key not in ("attack", f"attack: {_LENGTH}")}
            key = json.dumps([line.hidden, rest], sort_keys=True)
            groups.setdefault(key, (rest, {}))[1].setdefault(float(settings[_LENGTH]), line)
    several = [(rest, found) for rest, found in groups.values() if len(found) > 1]
    called = titles([rest for rest, _ in several])
    return [Series(title if called.count(title) == 1 else f"{title}, model {called[:k].count(title) + 1}", found)
            for k, (title, (_, found)) in enumerate(zip(called, several, strict=True))]


def decay_table(found: Sequence[Series]) -> Table | None:
    """A row a model and budget, the decay lengths as columns; none without such attacks."""
    lengths = sorted({length for one in found for length in one.lines})
    rows, data = [], []
    for one in found:
        for budget in one.budgets:
            points = one.at(budget)
            cells = {row[_LENGTH]: percent(attacked.accuracy(one.lines[row[_LENGTH]].tables, budget))
                     for row in points.to_dict("records")}
            rows.append([one.title, f"{budget:g}", str(int(points["images"].min())), *(cells.get(x, EMPTY) for x in lengths)])
            data.append(points.assign(line=one.title, dataset=one.about.get("dataset"), budget=budget))
    if not rows:
        return None
    return Table("decay_length", "Accuracy under noise with long-range correlations, by decay length",
                 pd.concat(data, ignore_index=True), ["", "budget", "images", *(f"length {x:g}" for x in lengths)], rows,
                 [_NOTE, SPREAD])


def decay_pictures(found: Sequence[Series]) -> list[Picture]:
    """Accuracy against decay length, a panel a budget and a line a model, of each data set."""
    pictures = []
    for dataset in dict.fromkeys(str(one.about.get("dataset")) for one in found if one.budgets):
        on_this = [one for one in found if str(one.about.get("dataset")) == dataset]
        pictures.append(Picture(f"decay_length_{dataset}", _figure(on_this),
                                "Accuracy under the worst of several noises with long-range correlations against their decay "
                                "length (SGR, Figure 3), with standard errors; a panel for each scale of the noise."))
    return pictures


def _figure(found: Sequence[Series]) -> Figure:
    budgets = sorted({budget for one in found for budget in one.budgets})

    def panel(axes: Axes, budget: float) -> None:
        lengths: set[float] = set()
        for k, one in enumerate(found):
            if budget in one.budgets:
                points = one.at(budget)
                lengths |= set(points[_LENGTH])
                axes.errorbar(points[_LENGTH], 100 * points["accuracy"], yerr=100 * points["error"], label=one.title, capsize=2.5,
                              markersize=4.5, linewidth=1.5, clip_on=False, **style(k, k))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted(lengths)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.set_ylim(0, 101)

    return panels_figure([partial(panel, budget=budget) for budget in budgets],
                         [f"scale {budget:g}" for budget in budgets], "decay length (pixels)", "accuracy (%)")
