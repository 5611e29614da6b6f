"""Giving up against the same induction over all vote counts, one by one; and that it takes part in no claim."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import betabinom

from robust_cli.smoothing.plans.futility import PRIOR_HITS, PRIOR_MISSES, keep_counts, worth
from robust_cli.smoothing.plans.plan import boundaries
from robust_cli.smoothing.plans.table import Table, table, walk

LEVELS = tuple(float(ndtr(r)) for r in (1e-9, 0.5, 1.0, 1.5))


def made(patience: float, samples: int = 4000, alpha: float = 0.05) -> Table:
    return table(LEVELS, boundaries(samples), alpha, patience)


def by_hand(looks: tuple[int, ...], claims: np.ndarray, worths: list[float]) -> np.ndarray:
    """keep_counts from the definition: value of every (look, misses, next level), with the plain beta-binomial."""

    @cache
    def value(look: int, misses: int, j: int) -> float:
        if j == len(worths):
            return 0.0
        if misses <= claims[look, j]:
            return worths[j] + value(look, misses, j + 1)
        return max(0.0, going_on(look, misses, j))

    @cache
    def going_on(look: int, misses: int, j: int) -> float:
        if look + 1 == len(looks):
            return -np.inf
        more = looks[look + 1] - looks[look]
        steps = np.arange(more + 1)
        odds = betabinom.pmf(steps, more, PRIOR_MISSES + misses, PRIOR_HITS + looks[look] - misses)
        return float(sum(o * value(look + 1, misses + int(s), j) for s, o in zip(steps, odds, strict=True))) - more

    return np.array([[max((m for m in range(n + 1) if m <= claims[look, j] or going_on(look, m, j) > 0), default=-1)
                      if look + 1 < len(looks) else -1 for j in range(len(worths))] for look, n in enumerate(looks)])


@pytest.mark.parametrize("worths", [[30.0, 30.0], [80.0, 200.0], [5.0, 5.0], [1000.0, 10.0], [10.0, 400.0]])
def test_against_the_definition(worths: list[float]) -> None:
    looks, claims = (8, 16, 24, 40), np.array([[0, -1], [3, 0], [6, 2], [12, 5]])
    found = keep_counts([0.5, 0.75], looks, claims, np.array(worths))
    assert (found == by_hand(looks, claims, worths)).all()


def test_more_patience_goes_on_for_longer() -> None:
    counts = [made(patience).keep for patience in (100.0, 1000.0, 10_000.0, 1e6)]
    assert all((more >= less).all() for less, more in pairwise(counts))
    assert (counts[-1] > counts[0]).any()
    assert all((keep[-1] == -1).all() for keep in counts)


def test_high_levels_are_worth_more() -> None:
    worths = worth(LEVELS, 0.001, 1000.0)
    assert (np.diff(worths) > 0).all()
    assert worths[0] == pytest.approx(1000.0 * (1 + np.sqrt(0.1)))
    assert worth(LEVELS, 0.001, 2000.0) == pytest.approx(2 * worths)


def votes(p: np.ndarray, looks: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.binomial(np.diff(looks, prepend=0), p[:, None]), axis=1)


def test_giving_up_makes_no_claim() -> None:
    """On the same votes, whoever gives up has proven no more than without giving up, everyone else exactly the same."""
    steps = made(1000.0)
    never = replace(steps, keep=np.full_like(steps.keep, 10**9))
    hits = votes(np.random.default_rng(0).beta(3.0, 1.0, 5000), steps.looks, 1)
    with_it, without = walk(steps, hits), walk(never, hits)
    futile = np.array(with_it.stopped) == "futile"
    assert (with_it.level <= without.level).all()
    assert (with_it.level == without.level)[~futile].all()
    assert (with_it.draws < without.draws)[futile].all()
    assert "futile" not in without.stopped
    assert 1000 < futile.sum() < 4900


def test_the_hopeless_stop_soon_and_the_certain_are_not_stopped() -> None:
    steps = made(2000.0)
    hopeless = walk(steps, votes(np.full(500, 0.3), steps.looks, 2))
    assert hopeless.draws.mean() < 150
    assert set(hopeless.stopped) == {"futile"}
    certain = walk(steps, votes(np.full(500, 0.999), steps.looks, 3))
    assert set(certain.stopped) == {"complete"}
    assert certain.draws.mean() < 150


def test_a_claim_is_not_worth_more_than_its_draws() -> None:
    """Images below the level by half of its spread at the end: more patience buys hardly a claim, and many draws."""
    p = np.full(300, 0.5)
    spent = [walk(made(patience), votes(p, made(patience).looks, 4)).draws.mean() for patience in (100.0, 3000.0, 1e6)]
    assert spent[0] < spent[1] < spent[2]
