"""Tables of certified accuracy, and of what the certificates could prove at all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from robust_cli.reporting import certified, levels
from robust_cli.reporting.estimates import Estimate
from robust_cli.reporting.lines import Line, certified_lines
from robust_cli.reporting.load import Certified
from robust_cli.reporting.tables import EMPTY, Table, average_radius, number, percent, radius

_LEVELS_MOST = 14
_PREDICTION = ("Prediction: the class by the binomial test of the two top votes (Algorithm 1 of Cohen et al. 2019) at the same "
               "failure probability is right; undecided: the test names no class. Over all images; – where a run holds none.")  # noqa: RUF001
SPREAD = ("± is the standard error over the images; for a line of several seeds, the standard deviation over the seeds. "
          "0.0 at 0 % or 100 % means that the images show no exception, not that there is none.")
EACH_ROW = "Each row's radius holds at its own failure probability over the sampling, not jointly with the others."


def largest_radius(line: Line[Certified]) -> float:
    """What unanimous votes would prove; NaN where the run does not say."""
    own = line.runs[0].about.get("certificates", {}).get(line.part, {})
    value = own.get("largest_radius")
    return math.nan if value is None else float(value)


def summary(line: Line[Certified]) -> certified.Summary:
    probability = line.runs[0].about.get("failure_probability")
    return certified.summary(line.tables, None if probability is None else float(probability), largest_radius(line))


def radii_for(lines: Sequence[Line[Certified]]) -> NDArray[np.float64]:
    """The levels that all lines with a table share, thinned out to a few; without such, round radii up to the largest that any
    of the lines can prove."""
    shared = levels.common(lines)
    if shared is not None and len(shared):
        return shared[::-1][::-(-len(shared) // _LEVELS_MOST)][::-1]
    ends = [largest_radius(line) for line in lines]
    reached = max((float(certified.proven(t).max(initial=0.0)) for line in lines for t in line.tables), default=0.0)
    return certified.default_radii(max([end for end in ends if math.isfinite(end)] + [reached]))


def brief(run: Certified, radii: ArrayLike | None = None) -> list[Table]:
    """One run's certificates in small tables, one a norm, as `certify` shows them at its end."""
    return accuracy_tables(certified_lines([run], []), radii)


def by_norm(lines: Sequence[Line[Certified]]) -> dict[str, list[Line[Certified]]]:
    """The lines of each norm, l2 first: radii of two norms stand in no table and no figure together."""
    norms = sorted(dict.fromkeys(line.norm for line in lines), key=lambda norm: norm != "l2")
    return {norm: [line for line in lines if line.norm == norm] for norm in norms}


def named(name: str, norm: str) -> str:
    """The name of a table or figure of one norm."""
    return name if norm == "l2" else f"{name}_{norm}"


def accuracy_tables(lines: Sequence[Line[Certified]], radii: ArrayLike | None = None) -> list[Table]:
    """`accuracy_table` for each norm, at given radii or at those that suit the lines."""
    return [accuracy_table(group, radii_for(group) if radii is None else radii) for group in by_norm(lines).values()]


def accuracy_table(lines: Sequence[Line[Certified]], radii: ArrayLike) -> Table:
    """Of one norm: natural accuracy, abstention, certified accuracy at each radius, average radius; where a discount is set, a
    row with it. Values that do not compare with a fixed number of draws are marked."""
    radii = np.atleast_1d(np.asarray(radii, dtype=np.float64))
    rows, data = [], []
    for line in lines:
        s, at = summary(line), [certified.accuracy(line.tables, float(r)) for r in radii]
        marks = [levels.MARK * levels.between(line, float(r)) for r in radii]
        discount = line.about.get("discount")
        rows.append([line.title, str(at[0].images), percent(s.natural), percent(s.abstention),
                     *(percent(e) + mark for e, mark in zip(at, marks, strict=True)),
                     average_radius(s.average_radius) + levels.MARK * (not levels.comparable(line))])
        data += [_row(line, f"certified at {r:g}", e, float(r)) for r, e in zip(radii, at, strict=True)]
        if discount is not None:
            reduced = [Estimate(e.value * float(str(discount)), e.error * float(str(discount)), e.images, e.runs) for e in at]
            rows.append([f"{line.title}, times {discount}", str(at[0].images), "", "",
                         *(percent(e) + mark for e, mark in zip(reduced, marks, strict=True)), ""])
            data += [_row(line, f"certified at {r:g} times {discount}", e, float(r)) for r, e in zip(radii, reduced, strict=True)]
        data += [_row(line, quantity, e) for quantity, e in
                 (("natural", s.natural), ("abstention", s.abstention), ("average radius", s.average_radius))]
    notes = [SPREAD, "Certified accuracy at r: right, not abstained, radius at least r (at 0: more than 0), over all images. "
             "Natural: the majority of the estimation votes. Average radius: wrong and abstained images count 0."]
    if any(line.about.get("discount") is not None for line in lines):
        notes.append("'times 0.95' multiplies certified accuracy by the confidence, as STN (Li et al. 2019) reports it.")
    columns = ["", "images", "natural %", "abstains %", *(f"r = {r:.6g}" for r in radii), "average radius"]
    norm = lines[0].norm
    return Table(named("certified_accuracy", norm), f"Certified accuracy in % by {norm} radius", pd.DataFrame(data), columns,
                 rows, [*notes, *levels.notes(lines), *published_notes(lines)])


def _row(line: Line[Certified], quantity: str, e: Estimate, at: float = math.nan) -> dict[str, object]:
    whole = levels.comparable(line) or (quantity.startswith("certified") and not levels.between(line, at))
    return {"line": line.title, "quantity": quantity, "radius": at, "value": e.value, "error": e.error, "images": e.images,
            "runs": e.runs, "norm": line.norm, "comparable": whole or quantity in ("natural", "abstention")}


def certificates_table(lines: Sequence[Line[Certified]]) -> Table:
    """What each certificate assumed, the largest radius it could ever prove, how many false ones to expect, and how often the
    class alone, without a radius, is named and right."""
    rows, data = [], []
    for line in lines:
        s, about = summary(line), line.runs[0].about
        own = about.get("certificates", {}).get(line.part, {})
        said = {"noise": about.get("noise", "gaussian"), "sampling": (about.get("sampling") or {}).get("name", "fixed"),
                **{k: about.get(k) for k in ("noise_std", "samples", "selection_samples", "failure_probability")}}
        if about.get("published"):
            said |= {"noise": None, "sampling": None}
        rows.append([line.title, line.part, line.norm, str(own.get("bounds", "")).replace("_", "-"),
                     str(own.get("interval", "")), *map(_plain, said.values()), radius(s.largest_radius),
                     number(s.false_expected, 2),
                     EMPTY if s.false_quantile is None else str(s.false_quantile), percent(s.predicted), percent(s.undecided)])
        data.append({"line": line.title, "certificate": line.part, "norm": line.norm,
                     **{k: own.get(k) for k in ("bounds", "interval", "multiplicity")}, **said,
                     "largest_radius": s.largest_radius, "false_expected": s.false_expected, "false_quantile": s.false_quantile,
                     "prediction_accuracy": s.predicted.value, "prediction_abstention": s.undecided.value,
                     "statement": own.get("statement")})
    columns = ["", "certificate", "norm", "bounds", "interval", "noise", "sampling", "noise_std", "n", "selection",
               "failure probability", "largest provable radius", "false: expected", "false: 99.9 %", "prediction %",
               "undecided %"]
    return Table("provable_radii", "What the certificates can prove", pd.DataFrame(data), columns, rows,
                 [EACH_ROW, "False: expected number and 99.9 % quantile of wrong certificates among one run's images.",
                  _PREDICTION, *[levels.UNMEASURED] * any(map(levels.label_aware, lines)), *_statements(lines)])


def _plain(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _statements(lines: Sequence[Line[Certified]]) -> list[str]:
    return list(dict.fromkeys(f"{line.part}: {text}" for line in lines
                              if (text := line.runs[0].about.get("certificates", {}).get(line.part, {}).get("statement"))))


def published_notes(lines: Sequence[Line[Certified]]) -> list[str]:
    """What is not known of files made by others, and how far their rounding may have gone up."""
    return [f"{line.title}: {text}" for line in lines for text in line.about.get("remarks") or []]
