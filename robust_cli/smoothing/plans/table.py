"""A table of levels for one run: with how many misses each is claimed or given up at each look, and the walk through it.

Levels are probabilities p_1 < p_2 < ... Level j stands for the claim p_A > p_j, which errs at most with the failure probability
over all looks together (`crossing`). A level is claimed only if all smaller ones are. So if p_A <= p_j for some j, a false
claim needs that of the least such level, and errs no more often than that one: no correction for the number of levels (closed
testing in fixed order; Marcus, Peritz and Gabriel 1976).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from robust_cli.smoothing.plans import crossing, futility
from robust_cli.smoothing.plans.plan import CHUNK

Counts = NDArray[np.int64]
REASONS = ("", "complete", "cap", "futile")


@dataclass(frozen=True, eq=False)
class Table:
    """``claims`` and ``keep``, int64 [looks, levels]: the most misses with which a level is claimed, and with which an image
    goes on that is to prove it next; -1: none. ``errors`` [levels]: the probability of ever claiming each at p_A = level."""

    levels: tuple[float, ...]
    looks: tuple[int, ...]
    claims: Counts
    keep: Counts
    errors: tuple[float, ...]


@lru_cache(maxsize=16)
def table(levels: tuple[float, ...], looks: tuple[int, ...], failure_probability: float, patience: float) -> Table:
    """The table of these levels, which increase and can all be proven. See `crossing.claim_counts`, `futility.keep_counts`."""
    spent = crossing.spending(looks)
    found = [crossing.claim_counts(level, looks, failure_probability, spent) for level in levels]
    claims = np.stack([counts for counts, _ in found], axis=1)
    keep = futility.keep_counts(levels, looks, claims, futility.worth(levels, failure_probability, patience))
    for counts in (claims, keep):
        counts.setflags(write=False)
    return Table(levels, looks, claims, keep, tuple(error for _, error in found))


class Step:
    """One image at one look after the other: levels proven so far, and why it stopped."""

    def __init__(self, table: Table) -> None:
        self._table, self._crossed = table, np.zeros(len(table.levels), dtype=bool)
        self.look, self.level, self.stopped = 0, 0, ""

    def take(self, misses: int) -> None:
        """Look at the misses among all draws up to the look that is next."""
        table = self._table
        self._crossed |= misses <= table.claims[self.look]
        self.level = int(np.argmin(self._crossed)) if not self._crossed.all() else len(table.levels)
        if self.level == len(table.levels):
            self.stopped = "complete"
        elif self.look + 1 == len(table.looks):
            self.stopped = "cap"
        elif misses > table.keep[self.look, self.level]:
            self.stopped = "futile"
        self.look += 1


@dataclass(frozen=True)
class Ends:
    """Where images ended: levels proven, estimation draws and evaluations (draws in whole chunks), int64 [N]; reasons [N]."""

    level: Counts
    draws: Counts
    evaluations: Counts
    stopped: Sequence[str]


def walk(table: Table, hits: Counts) -> Ends:
    """All images at once, from their hits up to each look, int64 [N, looks]: where `Step` would end one by one."""
    images, last = len(hits), len(table.looks) - 1
    crossed = np.zeros((images, len(table.levels) + 1), dtype=bool)
    level, draws, reason = (np.zeros(images, dtype=np.int64) for _ in range(3))
    going = np.arange(images)
    for look, number in enumerate(table.looks):
        misses = number - hits[going, look]
        now = crossed[going]
        now[:, :-1] |= misses[:, None] <= table.claims[look]
        crossed[going], level[going], draws[going] = now, now.argmin(axis=1), number
        complete, futile = now[:, :-1].all(axis=1), misses > np.append(table.keep[look], -1)[level[going]]
        reason[going] = np.where(complete, 1, 2 if look == last else np.where(futile, 3, 0))
        going = going[reason[going] == 0]
    return Ends(level, draws, -(-draws // CHUNK) * CHUNK, [REASONS[r] for r in reason])
