from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
from scipy.special import betainc, betaincc
from scipy.stats import binom, norm

from robust_cli.certificates import confidence
from robust_cli.messages import Wrong

CASES = [(samples, hits, alpha) for samples in (100, 10**5, 10**6, 10**7) for alpha in (0.05, 5e-4, 1e-6)
         for hits in (1, 7, 60, samples // 3, samples // 2, 9 * samples // 10, samples - 40, samples - 1)]
# where the inverse beta function of scipy 1.17 is wrong in its fifth digit and more
HARD = [(10**7, 999, 1e-6), (10**7, 1000, 1e-6), (10**7, 999, 0.05), (10**7, 1000, 0.001), (10**9, 1000, 0.05)]


def tail(a: int, b: int, p: mp.mpf) -> mp.mpf:
    """The regularised incomplete beta function I_p(a, b), by its continued fraction with 40 digits."""
    if p > mp.mpf(a + 1) / (a + b + 2):
        return 1 - tail(b, a, 1 - p)
    value, c, d = mp.mpf(1), mp.mpf(1), mp.mpf(0)
    for i in range(100_000):
        m = i // 2
        if i == 0:
            term = mp.mpf(1)
        elif i % 2 == 0:
            term = m * (b - m) * p / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * p / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + term * d)
        c = 1 + term / c
        value *= c * d
        if abs(1 - c * d) < mp.mpf(10) ** -36:
            break
    front = a * mp.log(p) + b * mp.log(1 - p) + mp.loggamma(a + b) - mp.loggamma(a) - mp.loggamma(b)
    return mp.exp(front) / a * (value - 1)


@pytest.mark.parametrize(("samples", "hits", "alpha"), CASES + HARD)
def test_bounds_are_outside_the_exact_ones_and_close(samples: int, hits: int, alpha: float) -> None:
    """The tail at the bound is at most alpha; 1e-9 (relative to the nearer of 0 and 1) further in, it is more than alpha."""
    with mp.workdps(40):
        low, high = (mp.mpf(float(bound(hits, samples, alpha))) for bound in (confidence.lower, confidence.upper))
        inside_low = low + mp.mpf("1e-9") * min(low, 1 - low) + mp.mpf("3e-16") * low
        inside_high = high - mp.mpf("1e-9") * min(high, 1 - high) - mp.mpf("3e-16") * high
        assert tail(hits, samples - hits + 1, low) <= alpha < tail(hits, samples - hits + 1, inside_low)
        assert 1 - tail(hits + 1, samples - hits, high) <= alpha < 1 - tail(hits + 1, samples - hits, inside_high)


@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-3, 1e-6, 1e-12, 1e-20])
def test_no_bound_is_inside_whatever_the_counts(alpha: float) -> None:
    """The search for a bound has to end on its safe side, also where it begins far from it: few draws, tiny probabilities."""
    rng = np.random.default_rng(0)
    samples = np.floor(10 ** rng.uniform(0, 7, 3000))
    hits = np.floor(samples * np.where(rng.random(3000) < 0.5, rng.random(3000), 10 ** rng.uniform(-7, 0, 3000)))
    hits = np.where(rng.random(3000) < 0.3, samples - hits, hits)
    some, rest = hits > 0, hits < samples
    low, high = (bound(hits, samples, alpha) for bound in (confidence.lower, confidence.upper))
    assert (betainc(hits, samples - hits + 1, low)[some] <= alpha * (1 + 1e-10)).all()
    assert (betaincc(hits + 1, samples - hits, high)[rest] <= alpha * (1 + 1e-10)).all()
    assert (low <= hits / samples).all() or alpha >= 0.5
    assert (high >= hits / samples).all() or alpha >= 0.5


@pytest.mark.parametrize("samples", [1, 2, 10, 100, 10**5, 10**6, 10**7])
@pytest.mark.parametrize("alpha", [0.3, 0.05, 5e-4, 1e-6])
def test_unanimous_votes_in_closed_form(samples: int, alpha: float) -> None:
    with mp.workdps(40):
        exact = mp.mpf(alpha) ** (mp.mpf(1) / samples)
        low, high = mp.mpf(float(confidence.lower(samples, samples, alpha))), mp.mpf(float(confidence.upper(0, samples, alpha)))
        assert exact - mp.mpf("1e-9") * (1 - exact) - mp.mpf("3e-16") < low < exact
        assert 1 - exact < high < (1 - exact) * (1 + mp.mpf("1e-9"))
    assert confidence.lower(0, samples, alpha) == 0.0
    assert confidence.upper(samples, samples, alpha) == 1.0


@pytest.mark.parametrize("samples", [1, 3, 30, 1000])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_coverage_is_exact(samples: int, alpha: float) -> None:
    """P(bound beyond p) <= alpha for every p, summed over all counts; at p just inside a bound it reaches alpha."""
    hits = np.arange(samples + 1)
    low, high = confidence.lower(hits, samples, alpha), confidence.upper(hits, samples, alpha)
    assert (np.diff(low) > 0).all()
    assert (np.diff(high) > 0).all()
    for p in np.concatenate([np.linspace(0.001, 0.999, 97), low[1:], high[:-1]]):
        weights = binom.pmf(hits, samples, p)
        assert weights[low > p].sum() <= alpha * (1 + 1e-9)
        assert weights[high < p].sum() <= alpha * (1 + 1e-9)
    weights = binom.pmf(hits, samples, low[samples] * (1 - 1e-9))
    assert weights[low > low[samples] * (1 - 1e-9)].sum() == pytest.approx(alpha, rel=1e-3)


def test_shapes_broadcast_and_repeat() -> None:
    counts = np.array([[3, 7, 7], [0, 10, 3]])
    together = confidence.lower(counts, 10, [[0.1], [0.05]])
    assert together.shape == (2, 3)
    assert together[0, 1] == together[0, 2] == confidence.lower(7, 10, 0.1)
    assert together[1, 2] == confidence.lower(3, 10, 0.05)
    assert confidence.lower(np.zeros((0,)), 10, 0.05).shape == (0,)


@pytest.mark.parametrize(("count", "samples", "alpha", "name"), [
    (-1, 10, 0.05, "count"), (11, 10, 0.05, "count"), (0.5, 10, 0.05, "count"), (0, 0, 0.05, "samples"),
    (5, 10, 0.0, "failure_probability"), (5, 10, 1.0, "failure_probability"), (5, 10, float("nan"), "failure_probability")])
def test_wrong_arguments(count: float, samples: int, alpha: float, name: str) -> None:
    for bound in (confidence.lower, confidence.upper):
        with pytest.raises(Wrong, match=name):
            bound(count, samples, alpha)


def test_sison_glaz_follows_its_definition() -> None:
    """The probability of the box by summing Poisson terms in 30 digits, its width by walking c upwards."""
    counts, confidence_level = [50, 30, 15, 5], 0.95

    def nu(width: int) -> mp.mpf:
        mean = variance = third = excess = mp.mpf(0)
        product = mp.mpf(1)
        for count in counts:
            values = [v for v in range(count - width, count + width + 1) if v >= 0]
            weights = [mp.exp(v * mp.log(count) - count - mp.loggamma(v + 1)) for v in values]
            total = mp.fsum(weights)
            mu = mp.fsum(w * v for w, v in zip(weights, values, strict=True)) / total
            m2, m3, m4 = (mp.fsum(w * (v - mu) ** r for w, v in zip(weights, values, strict=True)) / total for r in (2, 3, 4))
            product, mean, variance = product * total, mean + mu, variance + m2
            third, excess = third + m3, excess + m4 - 3 * m2**2
        x, g1, g2 = (100 - mean) / mp.sqrt(variance), third / variance ** mp.mpf(1.5), excess / variance**2
        edgeworth = (1 + g1 / 6 * (x**3 - 3 * x) + g2 / 24 * (x**4 - 6 * x**2 + 3)
                     + g1**2 / 72 * (x**6 - 15 * x**4 + 45 * x**2 - 15)) * mp.exp(-x**2 / 2) / mp.sqrt(2 * mp.pi)
        return mp.factorial(100) / (mp.mpf(100) ** 100 * mp.exp(-100)) * product * edgeworth / mp.sqrt(variance)

    with mp.workdps(30):
        width = 1
        while nu(width + 1) < confidence_level:
            width += 1
        part = float((confidence_level - nu(width)) / (nu(width + 1) - nu(width)))
    low, high = confidence.sison_glaz([counts], 0.05)
    shares = np.array(counts) / 100
    np.testing.assert_allclose(low[0], np.maximum(shares - width / 100, 0), atol=1e-12)
    np.testing.assert_allclose(high[0], shares + (width + 2 * part) / 100, atol=1e-9)


def test_sison_glaz_covers_about_as_aimed_in_the_middle_and_far_too_little_at_the_edge() -> None:
    rng = np.random.default_rng(0)
    for p, least, most in (((0.4, 0.35, 0.25), 0.92, 0.98), ((0.99, 0.005, 0.005), 0.0, 0.75)):
        low, high = confidence.sison_glaz(rng.multinomial(100, p, size=4000), 0.05)
        covered = ((low <= p) & (p <= high)).all(axis=1).mean()
        assert least < covered < most, (p, covered)


def test_sison_glaz_width_shrinks_like_a_normal_interval() -> None:
    """For two classes the box is one interval of one binomial count; the Edgeworth series is 6 % off there."""
    low, high = confidence.sison_glaz([[50_000, 50_000]], 0.05)
    assert (high - low)[0, 0] / 2 == pytest.approx(norm.ppf(0.975) * 0.5 / np.sqrt(10**5), rel=0.07)


def test_sison_glaz_refuses_what_is_no_table() -> None:
    for counts in ([5, 5], [[5, -5]], [[5, 5], [5, 6]], [[0, 0]]):
        with pytest.raises(Wrong, match="counts"):
            confidence.sison_glaz(counts, 0.05)
    with pytest.raises(Wrong, match="failure_probability"):
        confidence.sison_glaz([[5, 5]], 0.0)
