"""Robust accuracy by attack and budget, from the rows of outcomes.csv."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """One attack at one budget. ``accuracy``: the share of all ``images`` that are right clean and after the attack;
    ``standard_error``: of that share, over images; forward, backward: mean passes an attacked image (0 for the clean row)."""

    attack: str
    norm: str
    budget: float
    images: int
    accuracy: float
    standard_error: float
    forward: float
    backward: float


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def summarise(rows: Iterable[Mapping[str, str]]) -> list[Summary]:
    """A summary for each (attack, budget) in the order of the rows: first the clean outcomes (attack none, budget 0)."""
    groups: dict[tuple[str, str, float], list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["attack"], row["norm"], float(row["budget"])), []).append(row)
    found = []
    for (attack, norm, budget), group in groups.items():
        accuracy = sum(int(row["robust"]) for row in group) / len(group)
        attacked = [row for row in group if float(row["forward"]) > 0]
        forward, backward = (_mean([float(row[name]) for row in attacked]) for name in ("forward", "backward"))
        error = math.sqrt(accuracy * (1 - accuracy) / len(group))
        found.append(Summary(attack, norm, budget, len(group), accuracy, error, forward, backward))
    return found
