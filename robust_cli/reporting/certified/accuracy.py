"""Certified accuracy and what belongs beside it, from one certificate's rows (one row per image of the whole subset).

A table here is a data frame with the columns of certificates.csv for one certificate. Accuracy is over all of its images: a
misclassified or an abstained image counts as not certified, with radius 0. Each row's radius holds at its own failure
probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from robust_cli.messages import UserError
from robust_cli.reporting.estimates import Estimate, estimate, over_runs
from robust_cli.smoothing.plans.plan import false_certificates

Tables = Sequence[pd.DataFrame]
ABSTAIN = -1
SKIPPED = "skipped"
_EVERYTHING = 1e6  # a radius in which all images lie, in any norm: what is proven of a network that gives all one class


@dataclass(frozen=True)
class Summary:
    """What one certificate proves on a subset.

    natural: the majority of the estimation votes is right; abstention: share of images without a certified class; predicted:
    the class by the test of the two top votes is right, undecided: that test names none (NaN where not measured);
    average_radius: wrong and abstained images count 0; largest_radius: what unanimous votes would prove; false_expected and
    false_quantile: expected number and 99.9 % quantile of false certificates among the images at this failure probability.
    """

    natural: Estimate
    abstention: Estimate
    predicted: Estimate
    undecided: Estimate
    average_radius: Estimate
    largest_radius: float
    false_expected: float
    false_quantile: int | None


def proven(table: pd.DataFrame) -> NDArray[np.float64]:
    """Each image's radius, 0 where the class is wrong or the classifier abstains."""
    predicted = table["predicted"].to_numpy()
    right = (predicted == table["label"].to_numpy()) & (predicted != ABSTAIN)
    return np.where(right, table["radius"].to_numpy(dtype=np.float64), 0.0)


def reached(table: pd.DataFrame) -> float:
    """The largest radius proven of an image whose class is right, of those that leave any image of [0, 1] out; 0 for none."""
    radii = proven(table)
    return float(radii[radii < _EVERYTHING].max(initial=0.0))


def certified(table: pd.DataFrame, radius: float) -> NDArray[np.bool_]:
    """Which images are right, not abstained and certified to at least ``radius`` (pixel units); at 0: to more than 0.

    Where the column ``positive`` says so, a class that is named is proven, so to more than 0, though the radius may be written
    as 0 (the lowest level of a table, or three digits of a small number). Not so where a network itself answers: it always
    names a class, proven or not.
    """
    radii = proven(table)
    if radius > 0:
        return radii >= radius
    named = (table["predicted"] == table["label"]) & (table["predicted"] != ABSTAIN)
    return (radii > 0) | (named & table["positive"]).to_numpy(dtype=bool) if "positive" in table else radii > 0


def accuracy(tables: Tables, radius: float) -> Estimate:
    """Certified accuracy at one radius, of one run or of runs that differ in their seeds."""
    return over_runs([estimate(certified(table, radius)) for table in tables])


def curve(tables: pd.DataFrame | Tables, radii: ArrayLike) -> pd.DataFrame:
    """Certified accuracy at each radius: columns radius, accuracy, error, images, runs."""
    group = [tables] if isinstance(tables, pd.DataFrame) else tables
    radii = np.atleast_1d(np.asarray(radii, dtype=np.float64))
    return points("radius", radii, [accuracy(group, float(r)) for r in radii])


def points(name: str, at: ArrayLike, estimates: Sequence[Estimate]) -> pd.DataFrame:
    """Estimates along an axis as a data frame: columns ``name``, accuracy, error, images, runs."""
    return pd.DataFrame({name: np.asarray(at, dtype=np.float64), "accuracy": [e.value for e in estimates],
                         "error": [e.error for e in estimates], "images": [e.images for e in estimates],
                         "runs": [e.runs for e in estimates]})


def natural(tables: Tables) -> Estimate:
    """Accuracy of the majority of the estimation votes; NaN where a table does not hold it, or holds images that were skipped."""
    return _of_answers(tables, lambda t: t["majority"] == t["label"], "majority")


def _of_answers(tables: Tables, answers: Callable[[pd.DataFrame], pd.Series], column: str) -> Estimate:
    """A share of all images, over runs; NaN where a table lacks the column's values, or may leave out images for their labels."""
    if any(column not in t or t[column].isna().any() or label_aware(t) for t in tables):
        return Estimate(np.nan, np.nan, min(map(len, tables)), len(tables))
    return over_runs([estimate(answers(t).to_numpy()) for t in tables])


def label_aware(table: pd.DataFrame) -> bool:
    """Whether images may have been skipped because their class was wrong."""
    said = (("stopped", SKIPPED), ("label_aware", True))
    return any(name in table and bool((table[name] == value).any()) for name, value in said)


def summary(tables: pd.DataFrame | Tables, failure_probability: float | None, largest_radius: float) -> Summary:
    """The figures beside the curve, of one run or of runs that differ in their seeds; failure_probability None: not known."""
    group = [tables] if isinstance(tables, pd.DataFrame) else tables
    expected, quantile = (np.nan, None) if failure_probability is None else \
        false_certificates(len(group[0]), failure_probability)
    return Summary(
        natural=natural(group),
        abstention=_of_answers(group, lambda t: t["predicted"] == ABSTAIN, "predicted"),
        predicted=_of_answers(group, lambda t: t["prediction"] == t["label"], "prediction"),
        undecided=_of_answers(group, lambda t: t["prediction"] == ABSTAIN, "prediction"),
        average_radius=over_runs([estimate(proven(t)) for t in group]),
        largest_radius=largest_radius, false_expected=float(expected), false_quantile=quantile)


def paired(first: Tables, second: Tables, radii: ArrayLike) -> pd.DataFrame:
    """Certified accuracy of ``first`` minus that of ``second`` on the images both have.

    Columns radius, difference, error, images. The error is the standard error of the mean of the per-image differences; runs of
    several seeds enter by the share of them that certifies an image. Raises UserError when an image's labels differ.
    """
    a, b = _common(first, second)
    rows = []
    for r in np.atleast_1d(np.asarray(radii, dtype=np.float64)):
        shares = [np.mean([certified(t, float(r)) for t in group], axis=0) for group in (a, b)]
        rows.append((r, estimate(shares[0] - shares[1])))
    return pd.DataFrame([(r, e.value, e.error, e.images) for r, e in rows], columns=["radius", "difference", "error", "images"])


def _common(first: Tables, second: Tables) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
    """Both groups restricted to the images that every table has, in the same order."""
    images = pd.Index(first[0]["index"])
    for table in (*first[1:], *second):
        images = images.intersection(pd.Index(table["index"]))
    images = images.sort_values()
    a, b = ([t.set_index("index").loc[images].reset_index() for t in group] for group in (first, second))
    if any((t["label"].to_numpy() != a[0]["label"].to_numpy()).any() for t in (*a, *b)):
        raise UserError("report: expected the same label for an image in every run, found different ones; "
                        "compare runs made on the same data")
    return a, b


def default_radii(largest: float, most: int = 8) -> NDArray[np.float64]:
    """0 and at most ``most`` round radii up to the largest that can be proven, for a table."""
    if not (np.isfinite(largest) and largest > 0):
        return np.zeros(1)
    scale = 10.0 ** np.floor(np.log10(largest))
    steps = [s * t for t in (scale / 100, scale / 10, scale) for s in (2.5, 5, 10)]
    step = next(s for s in steps if largest / s < most + 1)
    return np.round(step * np.arange(int(largest / step + 1e-9) + 1), 10)


def collapsed(table: pd.DataFrame, classes: int) -> int | None:
    """The number of classes that the majority votes ever name, where it is less than half of those among the labels.

    Never where majority votes are missing, or images may have been skipped for their labels.
    """
    if table["majority"].isna().any() or label_aware(table):
        return None
    named, present = table.loc[table["majority"] >= 0, "majority"].nunique(), min(classes, table["label"].nunique())
    return int(named) if present > 2 and named < present / 2 else None
