"""Bounded maximisation of many one-dimensional functions at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0


def maximise(function: Callable[[Array], Array], low: Array, high: Array, points: int = 48,
             steps: int = 36) -> tuple[Array, Array]:
    """(place, value) of the largest value met in [low, high]: a grid with both ends, then golden section around its best.

    ``function`` takes one place per problem ([N] -> [N]). The value returned is one that the function took, so where every
    value of the function is a valid bound, so is the result, whatever the function's shape.
    """
    width = (high - low) / (points - 1)
    place, value = low, function(low)
    for i in range(1, points):
        here = high if i == points - 1 else low + i * width
        place, value = _better(place, value, here, function(here))
    left, right = np.maximum(low, place - width), np.minimum(high, place + width)
    a, b = right - GOLDEN * (right - left), left + GOLDEN * (right - left)
    at_a, at_b = function(a), function(b)
    for _ in range(steps):
        go_left = at_a > at_b
        left, right = np.where(go_left, left, a), np.where(go_left, b, right)
        fresh = np.where(go_left, right - GOLDEN * (right - left), left + GOLDEN * (right - left))
        at_fresh = function(fresh)
        a, b = np.where(go_left, fresh, b), np.where(go_left, a, fresh)
        at_a, at_b = np.where(go_left, at_fresh, at_b), np.where(go_left, at_a, at_fresh)
    return _better(*_better(place, value, a, at_a), b, at_b)


def _better(place: Array, value: Array, other: Array, at_other: Array) -> tuple[Array, Array]:
    wins = at_other > value
    return np.where(wins, other, place), np.where(wins, at_other, value)
