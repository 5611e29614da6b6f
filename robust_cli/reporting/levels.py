"""What a line of certificates cannot say: values between the levels of a table, and what a run left unmeasured.

A sequential plan proves radii of a table fixed beforehand, so a radius is a level of it: certified accuracy compares with that
of a fixed number of draws at the levels alone, and the average radius nowhere. A label-aware run stops an image whose class is
wrong before its votes are counted; those images count as not certified, and what depends on their votes was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robust_cli.reporting import certified
from robust_cli.reporting.lines import Line
from robust_cli.reporting.load import Certified

MARK = "†"
_CLOSE = 1e-9  # relative: a level converted to another norm and back is the same level
_ZERO = 1e-7  # below it a radius stands for "more than 0", the lowest level there may be
_NOTE = (f"{MARK} Not comparable with runs of a fixed number of draws: this run proves radii of a table fixed beforehand, "
         "so between its levels certified accuracy is that of the next level, and the average radius is that of the levels. "
         "At the levels themselves it compares.")
UNMEASURED = ("Not measured (–): a label-aware run leaves out images that its selection votes get wrong. They count as not "  # noqa: RUF001
               "certified; natural accuracy, abstention and predictions would need their votes.")
_PUBLISHED = "Not measured (–): a published file holds no majority votes and no predictions apart from its certificates."  # noqa: RUF001


def comparable(line: Line[Certified]) -> bool:
    """Whether the radii are not levels of a table."""
    return all(run.about.get("comparable", True) for run in line.runs)


def label_aware(line: Line[Certified]) -> bool:
    """Whether images may have been skipped for their labels."""
    return any(map(certified.label_aware, line.tables))


def levels(line: Line[Certified]) -> NDArray[np.float64]:
    """The radii of the table, increasing, 0 for "more than 0"; those that occur where the plan does not say which there are."""
    rows = [table.loc[table["predicted"] >= 0, "radius"].to_numpy(dtype=np.float64) for table in line.tables]
    occurring = np.concatenate([np.zeros(0), *rows])
    occurring = np.unique(np.where(occurring < _ZERO, 0.0, occurring))
    said = line.runs[0].plan().get("radii")
    if isinstance(said, dict):
        said = said.get(line.part)
    if isinstance(said, list) and all(isinstance(r, int | float) for r in said):
        table = np.unique(np.asarray(said, dtype=np.float64))
        if all(among(r, table) for r in occurring):
            return table
    return occurring


def among(radius: float, table: NDArray[np.float64]) -> bool:
    """Whether a radius is one of a table's."""
    return bool(np.isclose(table, radius, rtol=_CLOSE, atol=0.0).any())


def common(lines: Sequence[Line[Certified]]) -> NDArray[np.float64] | None:
    """The levels that all lines with a table share, increasing; None where no line has one."""
    tables = [levels(line) for line in lines if not comparable(line)]
    if not tables:
        return None
    return np.array([r for r in tables[0] if all(among(r, table) for table in tables[1:])])


def between(line: Line[Certified], radius: float) -> bool:
    """Whether certified accuracy at this radius is, for this line, that of the next level of its table."""
    return not comparable(line) and not among(radius, levels(line))


def notes(lines: Sequence[Line[Certified]]) -> list[str]:
    """The footnotes that these lines need."""
    return [*[_NOTE] * any(not comparable(line) for line in lines), *[UNMEASURED] * any(map(label_aware, lines)),
            *[_PUBLISHED] * any(line.about.get("published") for line in lines)]
