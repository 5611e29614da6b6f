"""The fair comparison: the most robust model of each method among those that are as accurate as plain training.

Source: AMR (ICLR 2020 submission), its figure of the best GNR of each group among models whose accuracy is at least the
baseline's less a tolerance. A method could otherwise buy robustness with accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from robust_cli.reporting.trained.noise_training import Entry, Group

# AMR's tolerances in percentage points, by data set and model; 0 on MNIST.
_PAPERS = {("cifar10", "lenet"): 0.39, ("cifar100", "lenet"): 0.75, ("cifar10", "alexnet"): 1.68, ("cifar100", "alexnet"): 4.83}
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Tolerance:
    """By how much a model may be less accurate than the baseline: ``allowed(model, baseline)``, a share of 1."""

    name: str
    allowed: Callable[[Entry, Entry], float]


@dataclass(frozen=True)
class Choice:
    """A method's most robust model within a tolerance; None where none is accurate enough. excluded: those that are not."""

    method: str
    tolerance: Tolerance
    best: Entry | None
    excluded: tuple[Entry, ...]


def tolerances(group: Group) -> list[Tolerance]:
    """None at all; one standard error of the difference, the two accuracies taken as independent; and AMR's own, where it has
    one above 0 for this data set and model."""
    own = _PAPERS.get((group.dataset, group.model))
    return [Tolerance("0 points", lambda model, baseline: 0.0), Tolerance("one standard error", _one_error),
            *([Tolerance(f"{own:g} points, as AMR", lambda model, baseline: own / 100)] if own else [])]


def _one_error(model: Entry, baseline: Entry) -> float:
    error = math.hypot(model.test.error, baseline.test.error)
    return error if math.isfinite(error) else 0.0


def within(model: Entry, baseline: Entry, tolerance: Tolerance) -> bool:
    """Whether a model is accurate enough to be compared."""
    return model.test.value >= baseline.test.value - tolerance.allowed(model, baseline) - _ROUNDING


def choices(group: Group, chosen: Sequence[Tolerance] | None = None) -> list[Choice]:
    """Every method at every tolerance; none without a baseline."""
    baseline = group.baseline
    if baseline is None:
        return []
    found = []
    for method in group.methods:
        models = [entry for entry in group.entries if entry.method == method]
        for tolerance in tolerances(group) if chosen is None else chosen:
            kept = [entry for entry in models if within(entry, baseline, tolerance)]
            found.append(Choice(method, tolerance, max(kept, key=lambda entry: entry.gnr.value, default=None),
                                tuple(entry for entry in models if entry not in kept)))
    return found
