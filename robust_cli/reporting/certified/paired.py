"""Paired differences of certified accuracy: which lines are set against each other, and at which radii that can be done."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from robust_cli.reporting.certified import accuracy as certified
from robust_cli.reporting.certified import exact, levels
from robust_cli.reporting.certified.tables import by_table, named, radii_for
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.reading.load import Certified
from robust_cli.reporting.tables import EMPTY, Table, difference

_MOST = 6
_SPREAD = ("± is the standard error of the mean difference on the same images. Lines of several seeds enter by the share "
           "of their runs that certifies an image; the spread between trainings is not in it.")
_LEVELS = ("– at radii that are no level of a line whose radii are those of a table, or not the one it was asked for: there it "  # noqa: RUF001
           "was not tested.")
_ROUNDED = "Radii in a published file may have been rounded up when written (see the remarks under certified accuracy)."


def paired_tables(lines: Sequence[Line[Certified]], radii: ArrayLike | None = None) -> list[Table]:
    """`paired_table` for each norm and data set in which lines can be paired."""
    found = [(name, paired_table(group, radii_for(group) if radii is None else radii)) for name, group in by_table(lines).items()]
    return [replace(table, name=f"paired_differences{name}") for name, table in found if table is not None]


def paired_table(lines: Sequence[Line[Certified]], radii: ArrayLike) -> Table | None:
    """Differences between lines of one norm and one data set on the images both have; None where there is no pair.

    Our lines are paired with those of the same certificate, those of the network itself also with those of other certificates,
    published ones with all of their data set where that is known.
    """
    radii = np.atleast_1d(np.asarray(radii, dtype=np.float64))
    rows, data, shown = [], [], []
    for first, second in _pairs(lines):
        table = certified.paired(first.tables, second.tables, radii)
        if not int(table["images"].iloc[0]):
            continue
        apart = np.isnan(levels.tested(first, radii)) | np.isnan(levels.tested(second, radii))
        if apart.all():
            continue  # tables of radii that share none of these
        table.loc[apart, ["difference", "error"]] = np.nan
        title = f"{first.title} minus {second.title}"
        rows.append([title, str(int(table["images"].iloc[0])),
                     *(difference(d, e) for d, e in zip(table["difference"], table["error"], strict=True))])
        data.append(table.assign(first=first.title, second=second.title))
        shown += [first, second]
    if not rows:
        return None
    blank, rounded = any(EMPTY in row for row in rows), any(line.about.get("remarks") for line in shown)
    claims = any(line.is_claim for line in shown)
    return Table(named("paired_differences", lines[0].norm), "Paired differences of certified accuracy in percentage points by "
                 f"{lines[0].norm} radius", pd.concat(data, ignore_index=True), ["", "images", *(f"r = {r:.6g}" for r in radii)],
                 rows, [_SPREAD, *[_LEVELS] * blank, *[exact.CLAIM] * claims, *[_ROUNDED] * rounded])


def _pairs(lines: Sequence[Line[Certified]]) -> list[tuple[Line[Certified], Line[Certified]]]:
    groups: dict[tuple[object, ...], list[Line[Certified]]] = {}
    published = [line for line in lines if line.about.get("published") and line.about.get("dataset") is not None]
    ours = [line for line in lines if not line.about.get("published")]
    for line in ours:
        groups.setdefault((line.about.get("dataset"), line.part, line.facets.get("bounds")), []).append(line)
    pairs: list[tuple[Line[Certified], Line[Certified]]] = []
    for group in groups.values():
        few = len(group) <= _MOST
        pairs += [(b, a) for a, b in itertools.combinations(group, 2)] if few else [(b, group[0]) for b in group[1:]]
    pairs += _across(ours)
    for k, line in enumerate(published):
        pairs += [(other, line) for other in [*ours, *published[k + 1:]] if other.about["dataset"] == line.about["dataset"]]
    return pairs


def _across(ours: Sequence[Line[Certified]]) -> list[tuple[Line[Certified], Line[Certified]]]:
    """Certificates of the network itself with all others, each defence with its own proof; where there are many, with the first
    line of each of the other certificates."""
    alone = [line for line in ours if line.is_deterministic]
    few = len(alone) * len(ours) <= _MOST ** 2
    first = {id(line) for line in {line.part: line for line in reversed(ours)}.values()}
    found: list[tuple[Line[Certified], Line[Certified]]] = []
    for k, line in enumerate(alone):
        rest = [*(other for other in ours if not other.is_deterministic), *alone[k + 1:]]
        found += [(other, line) for other in rest if (other.part, other.is_deterministic) != (line.part, True)
                  and (few or id(other) in first)]
    return found
