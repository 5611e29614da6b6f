"""Tables of certified accuracy, of what the certificates could prove at all, and of paired differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from robust_cli.reporting import certified
from robust_cli.reporting.estimates import Estimate
from robust_cli.reporting.lines import Line, certified_lines
from robust_cli.reporting.load import Certified
from robust_cli.reporting.tables import Table, average_radius, difference, number, percent, radius

SPREAD = ("± is the standard error over the images; for a line of several seeds, the standard deviation over the seeds. "
          "0.0 at 0 % or 100 % means that the images show no exception, not that there is none.")
EACH_ROW = "Each row's radius holds at its own failure probability over the sampling, not jointly with the others."
_PAIRED_MOST = 6


def largest_radius(line: Line[Certified]) -> float:
    """What unanimous votes would prove; NaN where the run does not say."""
    own = line.runs[0].about.get("certificates", {}).get(line.part, {})
    value = own.get("largest_radius")
    return math.nan if value is None else float(value)


def summary(line: Line[Certified]) -> certified.Summary:
    return certified.summary(line.tables, float(line.runs[0].about["failure_probability"]), largest_radius(line))


def radii_for(lines: Sequence[Line[Certified]]) -> NDArray[np.float64]:
    """Round radii up to the largest that any of the lines can prove."""
    ends = [largest_radius(line) for line in lines]
    reached = max((float(t["radius"].max()) for line in lines for t in line.tables), default=0.0)
    return certified.default_radii(max([end for end in ends if math.isfinite(end)] + [reached]))


def brief(run: Certified, radii: ArrayLike | None = None) -> Table:
    """One run's certificates in a small table, as `certify` shows it at its end."""
    lines = certified_lines([run], [])
    return accuracy_table(lines, radii_for(lines) if radii is None else radii)


def accuracy_table(lines: Sequence[Line[Certified]], radii: ArrayLike, name: str = "certified_accuracy") -> Table:
    """Natural accuracy, abstention, certified accuracy at each radius, average radius; where a discount is set, a row with it."""
    radii = np.atleast_1d(np.asarray(radii, dtype=np.float64))
    rows, data = [], []
    for line in lines:
        s, at = summary(line), [certified.accuracy(line.tables, float(r)) for r in radii]
        discount = line.about.get("discount")
        rows.append([line.title, str(at[0].images), percent(s.natural), percent(s.abstention), *map(percent, at),
                     average_radius(s.average_radius)])
        data += [_row(line, f"certified at {r:g}", e, float(r)) for r, e in zip(radii, at, strict=True)]
        if discount is not None:
            reduced = [Estimate(e.value * float(str(discount)), e.error * float(str(discount)), e.images, e.runs) for e in at]
            rows.append([f"{line.title}, times {discount}", str(at[0].images), "", "", *map(percent, reduced), ""])
            data += [_row(line, f"certified at {r:g} times {discount}", e, float(r)) for r, e in zip(radii, reduced, strict=True)]
        data += [_row(line, quantity, e) for quantity, e in
                 (("natural", s.natural), ("abstention", s.abstention), ("average radius", s.average_radius))]
    notes = [SPREAD, "Certified accuracy at r: right, not abstained, radius at least r (at 0: more than 0), over all images. "
             "Natural: the majority of the estimation votes. Average radius: wrong and abstained images count 0."]
    if any(line.about.get("discount") is not None for line in lines):
        notes.append("'times 0.95' multiplies certified accuracy by the confidence, as STN (Li et al. 2019) reports it.")
    columns = ["", "images", "natural %", "abstains %", *(f"r = {r:g}" for r in radii), "average radius"]
    return Table(name, "Certified accuracy in % by l2 radius", pd.DataFrame(data), columns, rows, notes)


def _row(line: Line[Certified], quantity: str, e: Estimate, at: float = math.nan) -> dict[str, object]:
    return {"line": line.title, "quantity": quantity, "radius": at, "value": e.value, "error": e.error, "images": e.images,
            "runs": e.runs}


def certificates_table(lines: Sequence[Line[Certified]]) -> Table:
    """What each certificate assumed, the largest radius it could ever prove, and how many false ones to expect."""
    rows, data = [], []
    for line in lines:
        s, about = summary(line), line.runs[0].about
        own = about.get("certificates", {}).get(line.part, {})
        rows.append([line.title, line.part, str(own.get("bounds", "")).replace("_", "-"), str(own.get("interval", "")),
                     str(about.get("noise_std", "")), str(about.get("samples", "")), str(about.get("selection_samples", "")),
                     f"{about['failure_probability']:g}", radius(s.largest_radius), number(s.false_expected, 2),
                     str(s.false_quantile)])
        data.append({"line": line.title, "certificate": line.part,
                     **{k: own.get(k) for k in ("bounds", "interval", "multiplicity")},
                     **{k: about.get(k) for k in ("noise_std", "samples", "selection_samples", "failure_probability")},
                     "largest_radius": s.largest_radius, "false_expected": s.false_expected, "false_quantile": s.false_quantile,
                     "statement": own.get("statement")})
    said = dict.fromkeys(f"{line.part}: {text}" for line in lines
                         if (text := line.runs[0].about.get("certificates", {}).get(line.part, {}).get("statement")))
    columns = ["", "certificate", "bounds", "interval", "noise", "n", "selection", "failure probability",
               "largest provable radius", "false: expected", "false: 99.9 %"]
    return Table("provable_radii", "What the certificates can prove", pd.DataFrame(data), columns, rows,
                 [EACH_ROW, "False: expected number and 99.9 % quantile of wrong certificates among one run's images.", *said])


def paired_table(lines: Sequence[Line[Certified]], radii: ArrayLike) -> Table | None:
    """Differences between lines of one data set and one certificate on the images both have; None where there is no pair."""
    radii = np.atleast_1d(np.asarray(radii, dtype=np.float64))
    rows, data = [], []
    for first, second in _pairs(lines):
        table = certified.paired(first.tables, second.tables, radii)
        if not int(table["images"].iloc[0]):
            continue
        title = f"{first.title} minus {second.title}"
        rows.append([title, str(int(table["images"].iloc[0])),
                     *(difference(d, e) for d, e in zip(table["difference"], table["error"], strict=True))])
        data.append(table.assign(first=first.title, second=second.title))
    if not rows:
        return None
    return Table("paired_differences", "Paired differences of certified accuracy in percentage points",
                 pd.concat(data, ignore_index=True), ["", "images", *(f"r = {r:g}" for r in radii)], rows,
                 ["± is the standard error of the mean difference on the same images. Lines of several seeds enter by the share "
                  "of their runs that certifies an image; the spread between trainings is not in it."])


def _pairs(lines: Sequence[Line[Certified]]) -> list[tuple[Line[Certified], Line[Certified]]]:
    groups: dict[tuple[object, ...], list[Line[Certified]]] = {}
    for line in lines:
        groups.setdefault((line.about.get("dataset"), line.part, line.facets.get("bounds")), []).append(line)
    pairs: list[tuple[Line[Certified], Line[Certified]]] = []
    for group in groups.values():
        few = len(group) <= _PAIRED_MOST
        pairs += [(b, a) for a, b in itertools.combinations(group, 2)] if few else [(b, group[0]) for b in group[1:]]
    return pairs
