"""Bounds that hold at all times: the bets are fair, the roots outward, and the chance of ever being wrong is summed exactly."""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp
import numpy as np
import pytest
from scipy.special import ndtri

from robust_cli.certificates import confidence
from robust_cli.messages import Wrong
from robust_cli.smoothing.plans import betting

Lower = Callable[[np.ndarray, int, float], np.ndarray]  # hits, draws, failure probability -> lower bounds
CASES = [(draws, hits) for draws in (1, 2, 64, 10**3, 10**5, 10**6, 10**7)
         for hits in {draws // 20, draws // 7, draws // 3, draws // 2, 9 * draws // 10, draws - 40, draws - 2, draws - 1, draws}
         if 0 < hits <= draws]


def capital(hits: int, draws: int, m: mp.mpf) -> mp.mpf:
    """As defined, term by term."""
    terms = []
    for lost, weight in zip(betting.LOST, betting.WEIGHTS, strict=True):
        kept = 1 - mp.mpf(float(lost))
        won = (1 - (1 - m) * kept) / m
        terms.append(mp.mpf(float(weight)) * (mp.exp(hits * mp.log(won) + (draws - hits) * mp.log(kept)) if kept else
                                              won**hits if draws == hits else mp.mpf(0)))
    return mp.fsum(terms)


def test_the_bets_are_made_with_a_capital_of_one() -> None:
    assert betting.WEIGHTS.sum() == pytest.approx(1.0, abs=1e-12)
    assert betting.WEIGHTS.sum() <= 1.0
    assert (betting.WEIGHTS > 0).all()
    assert (betting.LOST > 0).all()
    assert (betting.LOST <= 1).all()


@pytest.mark.parametrize(("hits", "draws"), [(0, 0), (0, 3), (1, 1), (40, 64), (63, 64), (64, 64), (900, 1000)])
@pytest.mark.parametrize("m", [0.001, 0.3, 0.5, 0.9, 0.9999])
def test_the_bets_are_fair_for_m_and_lose_below_it(hits: int, draws: int, m: float) -> None:
    def after(hits: int, draws: int) -> float:
        value, _ = betting.log_capital(np.array([float(hits)]), np.array([float(draws)]), np.array([np.log(m) - np.log1p(-m)]))
        return float(value[0])

    hit, miss = np.exp(after(hits + 1, draws + 1) - after(hits, draws)), np.exp(after(hits, draws + 1) - after(hits, draws))
    assert m * hit + (1 - m) * miss == pytest.approx(1.0, rel=1e-9)
    assert hit > 1.0 > miss  # so for any smaller probability the capital falls on average


def test_the_slope_is_the_derivative() -> None:
    hits, draws, odds = np.array([5.0, 64.0, 900.0]), np.array([9.0, 64.0, 1000.0]), np.array([-0.5, 2.0, 2.1])
    value, slope = betting.log_capital(hits, draws, odds)
    above, below = (betting.log_capital(hits, draws, odds + e)[0] for e in (1e-5, -1e-5))
    np.testing.assert_allclose(slope, (above - below) / 2e-5, rtol=1e-6)
    assert (above + below > 2 * value).all()  # convex


@pytest.mark.parametrize(("draws", "hits"), CASES)
@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-6])
def test_bounds_are_outside_the_exact_root_and_close_to_it(draws: int, hits: int, alpha: float) -> None:
    """The capital at the bound has reached 1 / alpha; a relative 1e-9 further in it has not."""
    with mp.workdps(40):
        low, high = mp.mpf(float(betting.lower(hits, draws, alpha))), mp.mpf(float(betting.upper(draws - hits, draws, alpha)))
        for m in (low, 1 - high):
            inside = m + mp.mpf("1e-9") * min(m, 1 - m) + mp.mpf("4e-16")
            assert 0 < m < 1
            assert capital(hits, draws, m) * mp.mpf(alpha) >= 1
            assert capital(hits, draws, inside) * mp.mpf(alpha) < 1


def test_more_hits_raise_both_bounds() -> None:
    """Which is why the largest count among the rivals is as good as the true runner-up's."""
    for draws in (1, 64, 1000):
        hits = np.arange(draws + 1)
        low, high = betting.lower(hits, draws, 0.001), betting.upper(hits, draws, 0.001)
        assert (np.diff(low) > 0).all()
        assert (np.diff(high) > 0).all()
        assert low[0] == 0.0
        assert high[-1] == 1.0
        assert (low < hits / draws).sum() == draws
        np.testing.assert_allclose(high, 1.0 - low[::-1], atol=1e-15)
        assert (high >= 1.0 - low[::-1]).all()


def test_hits_that_are_rare_beyond_all_bets() -> None:
    assert betting.lower([1, 1, 50], [10**5, 10**7, 10**7], 0.05).tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-12)
    assert betting.upper([10**5 - 1, 10**7 - 1], [10**5, 10**7], 0.05).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("alpha", "much"), [(0.05, 1.3), (0.001, 0.6)])
def test_what_holding_at_all_times_costs(alpha: float, much: float) -> None:
    """No bound that holds can be above Clopper-Pearson's; this one is behind it by a part of its distance from the share."""
    for draws in (64, 1000, 10**5):
        shares = np.concatenate([np.linspace(0.02, 0.99, 60), 1 - np.geomspace(1 / draws, 0.1, 20), [1.0]])
        hits = np.unique(np.round(draws * shares))
        low, fixed = betting.lower(hits, draws, alpha), confidence.lower(hits, draws, alpha)
        assert (low < fixed).all()
        lost = ndtri(fixed) - ndtri(low)
        assert (lost[:-1] < much * (ndtri(hits[:-1] / draws) - ndtri(fixed[:-1]))).all()
        assert lost[-1] < 0.15
    assert betting.lower(10**5, 10**5, 0.001) > 0.001 ** (1.2 / 10**5)  # a fifth more draws than any valid bound needs


def tables(bound: Lower, looks: list[int], alpha: float) -> dict[int, np.ndarray]:
    """The bounds of all counts at each look."""
    return {look: bound(np.arange(look + 1), look, alpha) for look in looks}


def ever_above(bounds: dict[int, np.ndarray], p: float) -> float:
    """The probability that at some look the bound is above p: summed over all paths that had none so far."""
    weights, last, wrong = np.ones(1), 0, 0.0
    for look, bound in bounds.items():
        for _ in range(look - last):
            weights = np.append(weights * (1 - p), 0.0) + np.append(0.0, weights * p)
        last, above = look, bound > p
        wrong += float(weights[above].sum())
        weights = np.where(above, 0.0, weights)
    return wrong


def twenty(draws: int) -> list[int]:
    return [draws * k // 20 for k in range(1, 21)]


def wald(hits: np.ndarray, draws: int, alpha: float) -> np.ndarray:
    share = hits / draws
    return share + ndtri(alpha) * np.sqrt(share * (1 - share) / draws)


def plug_in(hits: np.ndarray, draws: int, alpha: float) -> np.ndarray:
    return hits / draws


def bets_with_too_much(hits: np.ndarray, draws: int, alpha: float) -> np.ndarray:
    """Mistake: every gambler starts with the whole capital."""
    return betting.lower(hits, draws, alpha * len(betting.WEIGHTS))


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_the_chance_of_ever_being_wrong_is_within_what_is_allowed(alpha: float) -> None:
    """With a look after every draw; among the probabilities those just below the bound of some count."""
    bounds = tables(betting.lower, list(range(1, 401)), alpha)
    thresholds = [float(bounds[n][round(share * n)]) * (1 - 1e-9) for n in (20, 100, 400) for share in (0.6, 0.9, 0.99, 1.0)]
    for p in [0.1, 0.5, 0.6, 0.8, 0.95, 0.99, 0.999, 1 - 1e-5, *thresholds]:
        assert ever_above(bounds, p) <= alpha, p
    assert ever_above(bounds, 0.6) > 0.1 * alpha  # it uses what it is allowed


@pytest.mark.parametrize(("p", "peeking", "by_wald", "by_share"), [
    (0.6, 0.188, 0.050, 0.49), (0.8, 0.199, 0.059, 0.49), (0.95, 0.154, 0.060, 0.48), (0.99, 0.105, 0.066, 0.46)])
def test_mistakes_are_caught(p: float, peeking: float, by_wald: float, by_share: float) -> None:
    """Bounds for a number of draws fixed beforehand, looked at twenty times: their errors at alpha 0.05 and 1000 draws."""
    def wrong(bound: Lower, looks: list[int]) -> float:
        return ever_above(tables(bound, looks, 0.05), p)

    assert wrong(confidence.lower, twenty(1000)) == pytest.approx(peeking, abs=0.001)
    assert wrong(wald, [1000]) == pytest.approx(by_wald, abs=0.002)
    assert wrong(plug_in, [1000]) == pytest.approx(by_share, abs=0.01)
    for mistake in (wald, plug_in, confidence.lower):
        assert wrong(mistake, twenty(1000)) > 0.05
    assert wrong(betting.lower, twenty(1000)) <= 0.05
    assert wrong(confidence.lower, [1000]) <= 0.05


def test_spending_the_capital_more_than_once_is_caught() -> None:
    assert ever_above(tables(bets_with_too_much, list(range(1, 401)), 0.05), 0.6) > 0.05


def test_shapes_and_wrong_arguments() -> None:
    assert betting.lower([[3], [5]], [10, 20, 30], 0.05).shape == (2, 3)
    assert betting.lower(np.zeros((0,)), 10, 0.05).shape == (0,)
    assert betting.lower(0, 0, 0.05) == 0.0
    assert betting.upper(0, 0, 0.05) == 1.0
    together = betting.lower([3, 64, 9], [10, 64, 10], 0.05)
    assert together[1] == betting.lower(64, 64, 0.05)  # no bound depends on the others of a call
    for hits, draws, alpha, name in (
            (-1, 10, 0.05, "hits"), (11, 10, 0.05, "hits"), (0.5, 10, 0.05, "hits"), (0, -1, 0.05, "draws"),
            (5, 10, 0.0, "failure_probability"), (5, 10, 1.0, "failure_probability")):
        with pytest.raises(Wrong, match=name):
            betting.lower(hits, draws, alpha)
