"""Tables of certified accuracy, and of what the certificates could prove at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from robust_cli.reporting.certified import accuracy as certified
from robust_cli.reporting.certified import exact, levels
from robust_cli.reporting.estimates import Estimate
from robust_cli.reporting.lines.facets import EXACT
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.lines.of_runs import certified_lines
from robust_cli.reporting.reading.about import ceiling, noise_layer, of_softmax
from robust_cli.reporting.reading.load import Certified
from robust_cli.reporting.tables import Table, average_radius, percent

_MOST = 14  # columns of radii, but for more runs with a table of their own than that
_PREDICTION = ("Prediction: the class by the binomial test of the two top votes (Algorithm 1 of Cohen et al. 2019) at the same "
               "failure probability is right; undecided: the test names no class. Over all images; – where a run holds none.")  # noqa: RUF001
_PROVEN = ("Prediction of lines of the expected softmax: the class that the bounds prove to have the largest is right; "
           "undecided: they prove none.")
_MEANS = "Natural, for lines of the expected softmax: the class of the largest mean softmax."
SPREAD = ("± is the standard error over the images; for a line of several seeds, the standard deviation over the seeds. "
          "0.0 at 0 % or 100 % means that the images show no exception, not that there is none.")
_CERTIFIED = ("Certified accuracy at r: right, not abstained, radius at least r (at 0: more than 0), over all images. "
              "Natural: the majority of the estimation votes. Average radius: wrong and abstained images count 0.")
EACH_ROW = "Each row's radius holds at its own failure probability over the sampling, not jointly with the others."


def largest_radius(line: Line[Certified]) -> float:
    """What unanimous votes would prove, or the radius that was asked for; NaN where the run does not say, inf for no limit."""
    return ceiling(line.about, line.part)


def summary(line: Line[Certified]) -> certified.Summary:
    """A line's summary, without what its run did not test."""
    probability = line.about.get("failure_probability")
    if line.is_deterministic:
        probability = None if line.is_claim else 0.0
    found = certified.summary(line.tables, None if probability is None else float(probability), largest_radius(line))
    if levels.preset(line) is not None:
        found = replace(found, average_radius=_untested(found.average_radius))
    if levels.abstention_tested(line):
        return found
    return replace(found, abstention=_untested(found.abstention))


def _untested(e: Estimate) -> Estimate:
    return Estimate(math.nan, math.nan, e.images, e.runs)


def tested(line: Line[Certified], radii: ArrayLike) -> list[Estimate]:
    """Certified accuracy at each radius; NaN where a line with a table of radii was not tested."""
    radii = np.atleast_1d(np.asarray(radii, dtype=np.float64))
    found = [certified.accuracy(line.tables, float(r)) for r in np.fmax(levels.tested(line, radii), 0.0)]
    return [_untested(e) if math.isnan(r) else e for e, r in zip(found, levels.tested(line, radii), strict=True)]


def radii_for(lines: Sequence[Line[Certified]]) -> NDArray[np.float64]:
    """Round radii where a line has no table of its own, and the levels of those that have one, up to the largest that any of the
    lines can prove; each thinned out alike where together they are many."""
    ends = [largest_radius(line) for line in lines]
    reached = max((certified.reached(t) for line in lines for t in line.tables), default=0.0)
    end = max([end for end in ends if math.isfinite(end)] + [reached])
    usual = [certified.default_radii(end)] * any(map(levels.comparable, lines))
    sources = [*usual, *(_up_to(levels.levels(line), end) for line in lines if not levels.comparable(line))]
    found = levels.united(sources)
    for quota in range(_MOST, 0, -1):
        if len(found) <= _MOST:
            break
        found = levels.united([_thinned(radii, quota) for radii in sources])
    return found if len(found) else np.zeros(1)


def _up_to(table: NDArray[np.float64], end: float) -> NDArray[np.float64]:
    return table[:max(int(np.searchsorted(table, end * (1 + 1e-9), side="right")), 1)]


def _thinned(radii: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    return radii[::-1][::-(-len(radii) // most)][::-1]


def brief(run: Certified, radii: ArrayLike | None = None) -> list[Table]:
    """One run's certificates in small tables, one a norm, as `certify` shows them at its end."""
    return accuracy_tables(certified_lines([run], []), radii)


def by_norm(lines: Sequence[Line[Certified]]) -> dict[str, list[Line[Certified]]]:
    """The lines of each norm, l2 first: radii of two norms stand in no table and no figure together."""
    norms = sorted(dict.fromkeys(line.norm for line in lines), key=lambda norm: norm != "l2")
    return {norm: [line for line in lines if line.norm == norm] for norm in norms}


def by_table(lines: Sequence[Line[Certified]]) -> dict[str, list[Line[Certified]]]:
    """The lines that share a table of radii, those of each norm and data set, by what their tables' names end in; where a single
    data set is named, files that do not say theirs stand beside it."""
    sets = list(dict.fromkeys(line.about["dataset"] for line in lines if line.about.get("dataset") is not None))
    found: dict[str, list[Line[Certified]]] = {}
    for norm, group in by_norm(lines).items():
        for line in group:
            of = line.about.get("dataset") or "published"
            found.setdefault(named(f"_{of}" if len(sets) > 1 else "", norm), []).append(line)
    return found


def named(name: str, norm: str) -> str:
    """The name of a table or figure of one norm."""
    return name if norm == "l2" else f"{name}_{norm}"


def accuracy_tables(lines: Sequence[Line[Certified]], radii: ArrayLike | None = None) -> list[Table]:
    """`accuracy_table` for each norm and data set, at given radii or at those that suit the lines."""
    groups = by_table(lines)
    found = [accuracy_table(group, radii_for(group) if radii is None else radii) for group in groups.values()]
    sets = [group[0].about.get("dataset") or "data set not said" for group in groups.values()]
    several = len(set(sets)) > 1
    return [replace(table, name=f"certified_accuracy{name}", title=f"{table.title}{f', {of}' * several}")
            for name, of, table in zip(groups, sets, found, strict=True)]


def accuracy_table(lines: Sequence[Line[Certified]], radii: ArrayLike) -> Table:
    """Of one norm: natural accuracy, abstention, certified accuracy at each radius, average radius; where a discount is set, a
    row with it. What a line with a table did not test stays empty; what compares with no fixed number of draws is marked."""
    radii = np.atleast_1d(np.asarray(radii, dtype=np.float64))
    rows, data = [], []
    for line in lines:
        s, at = summary(line), tested(line, radii)
        discount = None if line.is_deterministic else line.about.get("discount")
        rows.append([line.title, str(at[0].images), percent(s.natural), exact.abstains(line, s.abstention),
                     *map(percent, at), average_radius(s.average_radius) + levels.MARK * (not levels.comparable(line))])
        data += [_row(line, f"certified at {r:g}", e, float(r)) for r, e in zip(radii, at, strict=True)]
        if discount is not None:
            reduced = [Estimate(e.value * float(str(discount)), e.error * float(str(discount)), e.images, e.runs) for e in at]
            rows.append([f"{line.title}, times {discount}", str(at[0].images), "", "", *map(percent, reduced), ""])
            data += [_row(line, f"certified at {r:g} times {discount}", e, float(r)) for r, e in zip(radii, reduced, strict=True)]
        data += [_row(line, quantity, e) for quantity, e in
                 (("natural", s.natural), ("abstention", s.abstention), ("average radius", s.average_radius))]
    notes = [SPREAD, _CERTIFIED if not all(line.is_deterministic for line in lines) else exact.CERTIFIED]
    notes += [*[_MEANS] * any(map(_of_softmax, lines)), *exact.notes(lines)]
    if any(line.about.get("discount") is not None and not line.is_deterministic for line in lines):
        notes.append("'times 0.95' multiplies certified accuracy by the confidence, as STN (Li et al. 2019) reports it.")
    columns = ["", "images", "natural %", "abstains %", *(f"r = {r:.6g}" for r in radii), "average radius"]
    norm = lines[0].norm
    return Table(named("certified_accuracy", norm), f"Certified accuracy in % by {norm} radius", pd.DataFrame(data), columns,
                 rows, [*notes, *levels.notes(lines, radii), *published_notes(lines)])


def _of_softmax(line: Line[Certified]) -> bool:
    return of_softmax(line.about, line.part)


def _row(line: Line[Certified], quantity: str, e: Estimate, at: float = math.nan) -> dict[str, object]:
    whole = levels.comparable(line) or (quantity != "average radius" and math.isfinite(e.value))
    return {"line": line.title, "quantity": quantity, "radius": at, "value": e.value, "error": e.error, "images": e.images,
            "runs": e.runs, "norm": line.norm, "comparable": whole}


def certificates_table(lines: Sequence[Line[Certified]]) -> Table:
    """What each certificate assumed, the largest radius it could ever prove, how many false ones to expect, and how often the
    class alone, without a radius, is named and right."""
    rows, data = [], []
    for line in lines:
        s, about = summary(line), line.runs[0].about
        own = about.get("certificates", {}).get(line.part, {})
        said = {"noise": about.get("noise", "gaussian"), "sampling": (about.get("sampling") or {}).get("name", "fixed"),
                **{k: about.get(k) for k in ("noise_std", "samples", "selection_samples", "failure_probability")}}
        if line.is_deterministic:
            said = {**dict.fromkeys(said), "noise": "none", "sampling": EXACT}
        layer = noise_layer(about)
        if about.get("published") and not line.is_deterministic:
            said |= {"noise": about.get("noise"), "sampling": (about.get("sampling") or {}).get("name")}
        placed = said if layer == "input" else {**said, "noise": f"{said['noise']} in the {layer} layer"}
        rows.append([line.title, line.part, line.norm, str(own.get("bounds", "")).replace("_", "-"),
                     str(own.get("interval", "")), *map(_plain, placed.values()), exact.ceiling(s.largest_radius),
                     *exact.false_ones(line, s), percent(s.predicted), exact.abstains(line, s.undecided)])
        data.append({"line": line.title, "certificate": line.part, "norm": line.norm,
                     **{k: own.get(k) for k in ("bounds", "interval", "multiplicity")}, **said, "noise_layer": layer,
                     "scores": None if line.is_deterministic else own.get("scores", "votes"),
                     **{k: own.get(k) for k in ("relaxation", "cascade", "radius")},
                     "largest_radius": s.largest_radius, "false_expected": s.false_expected, "false_quantile": s.false_quantile,
                     "prediction_accuracy": s.predicted.value, "prediction_abstention": s.undecided.value,
                     "statement": own.get("statement")})
    columns = ["", "certificate", "norm", "bounds", "interval", "noise", "sampling", "noise_std", "n", "selection",
               "failure probability", "largest provable radius", "false: expected", "false: 99.9 %", "prediction %",
               "undecided %"]
    notes = [EACH_ROW, "False: expected number and 99.9 % quantile of wrong certificates among one run's images.", _PREDICTION]
    if all(line.is_deterministic for line in lines):
        columns, rows, notes = *exact.columns(columns, rows), []
    return Table("provable_radii", "What the certificates can prove", pd.DataFrame(data), columns, rows,
                 [*notes, *exact.notes(lines), *[_PROVEN] * any(map(_of_softmax, lines)),
                  *[levels.UNMEASURED] * any(map(levels.label_aware, lines)), *_statements(lines)])


def _plain(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _statements(lines: Sequence[Line[Certified]]) -> list[str]:
    """What each line's certificate states; the same words once, with the lines that they are said of."""
    said: dict[str, list[str]] = {}
    for line in lines:
        if text := line.runs[0].about.get("certificates", {}).get(line.part, {}).get("statement"):
            said.setdefault(text, []).append(line.title)
    return [f"{'All lines' if len(titles) == len(lines) > 1 else '; '.join(titles)}: {text}" for text, titles in said.items()]


def published_notes(lines: Sequence[Line[Certified]]) -> list[str]:
    """What is not known of files made by others, and how far their rounding may have gone up."""
    return [f"{line.title}: {text}" for line in lines for text in line.about.get("remarks") or []]
