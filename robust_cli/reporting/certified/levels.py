"""What a line of certificates cannot say: values between the levels of a table, and what a run left unmeasured.

A sequential plan proves radii of a table fixed beforehand, so a radius is a level of it: certified accuracy was tested at the
levels alone and compares there with that of a fixed number of draws; the average radius compares nowhere. A label-aware run stops
an image whose class is wrong before its votes are counted; those images count as not certified, and what depends on their votes
was not measured. A deterministic certificate that was asked for one radius proves that radius or nothing: a table of one level.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robust_cli.reporting.certified import accuracy as certified
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.reading import about as abouts
from robust_cli.reporting.reading.load import Certified
from robust_cli.reporting.tables import EMPTY

MARK = "†"
_CLOSE = 1e-9  # relative: a level converted to another norm and back is the same level
_ZERO = 1e-7  # below it a radius stands for "more than 0", the lowest level there may be
_NOTE = (f"{MARK} Not comparable with runs of a fixed number of draws: this run proves radii of a table fixed beforehand, "
         "so its average radius is that of the levels, and between two levels its curve is that of the next. At the levels "
         "themselves it compares.")
_PRESET = (f"{MARK} Asked for one radius: there certified accuracy is known and compares; at smaller radii it is at least that, "
           "beyond it nothing was asked (–). The average radius would be one of 0 and that radius, so there is none.")  # noqa: RUF001
_UNTESTED = "At a radius that is no level of its table, a run was not tested (–)."  # noqa: RUF001
_NO_ABSTENTION = ("Abstention was not tested (–) where the smallest level of a table is above 0: an image without that radius "  # noqa: RUF001
                  "may well have a class.")
UNMEASURED = ("Not measured (–): a label-aware run leaves out images that its selection votes get wrong. They count as not "  # noqa: RUF001
               "certified; natural accuracy, abstention and predictions would need their votes.")
_PUBLISHED = "Not measured (–): a published file holds no majority votes and no predictions apart from its certificates."  # noqa: RUF001


def comparable(line: Line[Certified]) -> bool:
    """Whether the radii are not levels of a table, nor one that was asked for."""
    if line.is_deterministic:
        return preset(line) is None
    return all(run.about.get("comparable", True) for run in line.runs)


def preset(line: Line[Certified]) -> float | None:
    """The one radius that a deterministic certificate was asked for."""
    return abouts.preset(line.about, line.part)


def label_aware(line: Line[Certified]) -> bool:
    """Whether images may have been skipped for their labels."""
    return any(map(certified.label_aware, line.tables))


def levels(line: Line[Certified]) -> NDArray[np.float64]:
    """The radii of the table, increasing, 0 for "more than 0"; those that occur where the plan does not say which there are."""
    asked = preset(line)
    if asked is not None:
        return np.array([asked])
    rows = [table.loc[table["predicted"] >= 0, "radius"].to_numpy(dtype=np.float64) for table in line.tables]
    occurring = np.concatenate([np.zeros(0), *rows])
    occurring = np.unique(np.where(occurring < _ZERO, 0.0, occurring))
    said = line.runs[0].plan().get("radii", line.about.get("radii"))
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


def united(tables: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """All radii of some tables, increasing; of those that are one level converted to another norm and back, the smallest."""
    found: list[float] = []
    for radius in np.unique(np.concatenate([np.zeros(0), *tables])):
        if not found or not np.isclose(radius, found[-1], rtol=_CLOSE, atol=0.0):
            found.append(float(radius))
    return np.array(found)


def tested(line: Line[Certified], radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """The radii at which this line was tested, each as the line itself has it; NaN between the levels of its table."""
    if comparable(line):
        return radii
    table = levels(line)
    near = [np.flatnonzero(np.isclose(table, r, rtol=_CLOSE, atol=0.0)) for r in radii]
    return np.array([table[k[0]] if len(k) else np.nan for k in near])


def abstention_tested(line: Line[Certified]) -> bool:
    """Whether an image without a certified class is one for which none could be named: not where a table begins above 0."""
    return line.is_deterministic or comparable(line) or among(0.0, levels(line))


def notes(lines: Sequence[Line[Certified]], columns: NDArray[np.float64] | None = None) -> list[str]:
    """The footnotes that these lines need, in a table with these columns of radii (None: in a figure)."""
    radii = np.zeros(0) if columns is None else columns
    drawn = [line for line in lines if preset(line) is None]
    untested = any(np.isnan(tested(line, radii)).any() for line in drawn)
    return [*[_NOTE] * (not all(map(comparable, drawn))), *[_PRESET] * (len(drawn) < len(lines)), *[_UNTESTED] * untested,
            *[_NO_ABSTENTION] * (columns is not None and not all(map(abstention_tested, lines))),
            *[UNMEASURED] * any(map(label_aware, lines)),
            *[_PUBLISHED] * any(line.about.get("published") and not line.is_deterministic for line in lines)]


def footnote(lines: Sequence[Line[Certified]], cells: Sequence[str]) -> str:
    """One line for a screen on what a table of these cells shows; marks and dashes only where there are any."""
    exact, asked = all(line.is_deterministic for line in lines), any(preset(line) is not None for line in lines)
    answer = "the network's class" if exact else "the majority of the votes"
    marked = ("one radius was asked for; at smaller ones at least as much holds, and there is no average radius" if asked
              else "of a table's levels, not comparable with a fixed number of draws")
    dagger = [f"{MARK}: {marked}"] * any(MARK in cell for cell in cells)
    aware, begun = any(map(label_aware, lines)), not all(map(abstention_tested, lines))
    why = " and ".join(["not measured in a label-aware run"] * aware
                      + ["abstention not tested by a table that begins above 0"] * begun)
    dash = [f"{EMPTY}: {why or 'not tested or not measured'}"] * (EMPTY in cells)
    return "; ".join([f"natural: {answer} is right, certified or not", *dagger, *dash])
