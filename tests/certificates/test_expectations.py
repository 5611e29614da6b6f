"""Bounds of an expectation: their closed forms, and that they fail no more often than said, exactly and where it is hardest."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom, multinomial

from robust_cli.certificates.expectations import empirical_bernstein, hoeffding, lower, upper
from robust_cli.messages import Wrong

INTERVALS = ("hoeffding", "empirical_bernstein")


def sums(values: list[float]) -> tuple[float, float]:
    return float(np.sum(values)), float(np.sum(np.square(values)))


def test_hoeffding_takes_off_its_closed_form() -> None:
    """sqrt(log(1 / 0.05) / 200) = 0.122387."""
    assert hoeffding(100, 0.05) == pytest.approx(0.12238734153404082, rel=1e-14)
    assert float(lower(70.0, 60.0, 100, 0.05, "hoeffding")) == pytest.approx(0.7 - 0.12238734153404082, abs=1e-12)
    assert float(upper(70.0, 60.0, 100, 0.05, "hoeffding")) == pytest.approx(0.7 + 0.12238734153404082, abs=1e-12)


def test_empirical_bernstein_takes_off_its_closed_form() -> None:
    """Of the numbers 0, 0.5, 1, 0.5: V = 1/6; sqrt(2 V log(2 / delta) / n) + 7 log(2 / delta) / (3 (n - 1)), delta = 2 / e^2."""
    delta, values = 2.0 * np.exp(-2.0), [0.0, 0.5, 1.0, 0.5]
    assert np.var(values, ddof=1) == pytest.approx(1 / 6)
    assert float(empirical_bernstein(1 / 6, 4, delta)) == pytest.approx(np.sqrt(1 / 6) + 14 / 9, rel=1e-14)
    many = values * 1000
    v, n = np.var(many, ddof=1), len(many)
    width = np.sqrt(2.0 * v * 2.0 / n) + 7.0 * 2.0 / (3.0 * (n - 1))
    assert float(lower(*sums(many), n, delta, "empirical_bernstein")) == pytest.approx(0.5 - width, abs=1e-10)
    assert float(upper(*sums(many), n, delta, "empirical_bernstein")) == pytest.approx(0.5 + width, abs=1e-10)


@pytest.mark.parametrize("interval", INTERVALS)
def test_an_upper_bound_is_the_lower_bound_of_what_lacks_to_one(interval: str) -> None:
    values = np.random.default_rng(0).beta(2.0, 5.0, size=300)
    high = upper(*sums(values), 300, 0.01, interval)
    low = lower(*sums(1.0 - values), 300, 0.01, interval)
    assert float(high) == pytest.approx(1.0 - float(low), abs=1e-9)


@pytest.mark.parametrize("interval", INTERVALS)
def test_bounds_stay_in_their_range_and_close_in_on_the_mean(interval: str) -> None:
    mean, variance, gap = 0.3, 0.02, np.inf
    for n in (1, 2, 10, 10**3, 10**5, 10**7, 10**9):
        total, squares = n * mean, n * (variance + mean**2)
        low, high = (float(bound(total, squares, n, 0.001, interval)) for bound in (lower, upper))
        assert 0.0 <= low <= mean <= high <= 1.0
        assert high - low <= gap
        gap = high - low
    assert gap < 2e-4
    for n in (1, 5):
        assert float(lower(n, n, n, 0.5, interval)) < 1.0
        assert float(upper(0, 0, n, 0.5, interval)) > 0.0


def test_empirical_bernstein_is_the_closer_one_where_scores_hardly_vary_and_not_where_they_do() -> None:
    n = 10_000
    for mean, variance, closer in ((0.99, 1e-4, True), (0.5, 0.25, False)):
        total, squares = n * mean, n * (variance + mean**2)
        low = {interval: float(lower(total, squares, n, 0.001, interval)) for interval in INTERVALS}
        assert (low["empirical_bernstein"] > low["hoeffding"]) == closer


def test_a_single_draw_has_no_variance_and_proves_nothing_by_it() -> None:
    assert float(lower(1.0, 1.0, 1, 0.05, "empirical_bernstein")) == 0.0
    assert float(upper(0.0, 0.0, 1, 0.05, "empirical_bernstein")) == 1.0


def test_rounding_errors_of_the_sums_are_paid_for() -> None:
    """Added up one by one, a million times 0.1 is too much, and 0.3 too little: the bounds are outside those of exact sums."""
    n = 10**6
    for value, drift in ((0.1, 1.0), (0.3, -1.0)):
        total = float(np.cumsum(np.full(n, value))[-1])
        assert (total - n * value) * drift > 1e-6
        for interval in INTERVALS:
            width = hoeffding(n, 0.05) if interval == "hoeffding" else float(empirical_bernstein(0.0, n, 0.05))
            low, high = (float(bound(total, total * value, n, 0.05, interval)) for bound in (lower, upper))
            assert value - width - 1e-6 < low <= value - width
            assert value + width <= high < value + width + 1e-6


def test_a_variance_that_rounding_hides_is_paid_for() -> None:
    """Numbers 1e-8 apart, whose sums of squares do not show that they differ."""
    hidden, n, delta = 0, 10**4, 0.05
    for centre in (0.1, 0.3, 0.7):
        values = centre + np.tile([-1e-8, 1e-8], n // 2)
        total, squares = float(np.cumsum(values)[-1]), float(np.cumsum(values**2)[-1])
        exact = [Fraction(float(v)) for v in values[:2]]
        mean = sum(exact) / 2
        variance = float(sum((v - mean) ** 2 for v in exact) / 2 * n / (n - 1))
        hidden += (squares - total**2 / n) / (n - 1) < variance / 2
        width = float(empirical_bernstein(variance, n, delta))
        assert float(lower(total, squares, n, delta, "empirical_bernstein")) <= float(mean) - width
        assert float(upper(total, squares, n, delta, "empirical_bernstein")) >= float(mean) + width
    assert hidden


@pytest.mark.parametrize("interval", INTERVALS)
def test_bounds_of_many_are_the_bounds_of_each(interval: str) -> None:
    values = np.random.default_rng(1).random((50, 4, 3))
    total, squares = values.sum(0), (values**2).sum(0)
    together = lower(total, squares, 50, 0.05, interval)
    assert together.shape == (4, 3)
    assert together[2, 1] == lower(total[2, 1], squares[2, 1], 50, 0.05, interval)


@pytest.mark.parametrize(("name", "arguments"), [
    ("total", (101.0, 101.0, 100, 0.05, "hoeffding")), ("total", (-1.0, 1.0, 100, 0.05, "hoeffding")),
    ("squares", (50.0, 51.0, 100, 0.05, "hoeffding")), ("squares", (50.0, 24.0, 100, 0.05, "hoeffding")),
    ("samples", (0.0, 0.0, 0, 0.05, "hoeffding")), ("failure_probability", (1.0, 1.0, 2, 1.0, "hoeffding")),
    ("failure_probability", (1.0, 1.0, 2, 0.0, "hoeffding")), ("interval", (1.0, 1.0, 2, 0.05, "clopper_pearson")),
    ("total", (np.nan, 1.0, 2, 0.05, "hoeffding"))])
def test_what_no_draws_have_is_refused(name: str, arguments: tuple[float, float, int, float, str]) -> None:
    for bound in (lower, upper):
        with pytest.raises(Wrong, match=name):
            bound(*arguments)


# ---- how often they fail ------------------------------------------------------------------------------------------------------
def exact_errors(p: float, n: int, alpha: float, interval: str) -> tuple[float, float]:
    """Probabilities that the lower and the upper bound of n Bernoulli numbers fail."""
    hits = np.arange(n + 1)
    mass = binom.pmf(hits, n, p)
    low, high = (bound(hits, hits, n, alpha, interval) for bound in (lower, upper))
    return float(mass[low > p].sum()), float(mass[high < p].sum())


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
@pytest.mark.parametrize("n", [1, 2, 3, 20, 100, 1000])
def test_exact_error_of_numbers_that_are_0_or_1(n: int, alpha: float, interval: str) -> None:
    bounds = np.unique(np.clip(lower(np.arange(n + 1), np.arange(n + 1), n, alpha, interval), 0.0, 1.0)) - 1e-9
    for p in (*bounds[bounds > 0.0][:200], 0.5, 1e-4, -np.log(alpha) / n, 1.0 - np.log(2.0 / alpha) / n):
        if 0.0 < p < 1.0:
            for side in (p, 1.0 - p):
                assert max(exact_errors(side, n, alpha, interval)) <= alpha, side


def test_hoeffding_is_not_much_too_wide_for_a_few_draws() -> None:
    """So the exact check has power: of one draw it uses 0.86 of what it is allowed."""
    p = 1.0 - hoeffding(1, 0.9) - 1e-9
    assert exact_errors(p, 1, 0.9, "hoeffding")[0] == pytest.approx(p, abs=1e-12)
    assert exact_errors(1.0 - p, 1, 0.9, "hoeffding")[1] == pytest.approx(p, abs=1e-12)
    assert 0.85 < p / 0.9 < 0.87


@pytest.mark.parametrize("interval", INTERVALS)
def test_exact_error_of_three_values(interval: str) -> None:
    """0, x and 1, all outcomes of 25 draws: small steps hide what a rare large one would show."""
    n, alpha = 25, 0.05
    counts = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
    for x in (0.02, 0.3, 0.5, 0.9):
        values = np.array([0.0, x, 1.0])
        low, high = (bound(counts @ values, counts @ values**2, n, alpha, interval) for bound in (lower, upper))
        for q in (0.5, 0.1, 0.03, 1.5 / n, 0.5 / n):
            for law in ((1.0 - q, 0.0, q), (0.0, 1.0 - q, q), (q, 1.0 - q, 0.0), (0.5 - q / 2, 0.5 - q / 2, q)):
                mass, mean = multinomial.pmf(counts, n, law), float(np.dot(law, values))
                assert mass[low > mean + 1e-12].sum() <= alpha
                assert mass[high < mean - 1e-12].sum() <= alpha


def rare(n: int, alpha: float, part: float) -> float:
    """The probability of a value that n draws all miss with probability alpha^part."""
    return float(-np.expm1(np.log(alpha) * part / n))


@pytest.mark.parametrize(("name", "width"), [
    ("no term for what the variance may miss", lambda v, n, a: np.sqrt(2.0 * v * np.log(2.0 / a) / n)),
    ("a seventh of it", lambda v, n, a: np.sqrt(2.0 * v * np.log(2.0 / a) / n) + np.log(2.0 / a) / (3.0 * (n - 1.0))),
    ("a normal approximation", lambda v, n, a: 1.645 * np.sqrt(v / n)),
    ("Hoeffding's half", lambda v, n, a: np.sqrt(-np.log(a) / (8.0 * n)) + 0.0 * v),
    ("nothing", lambda v, n, a: 0.0 * v)])
def test_wrong_widths_fail_too_often_where_the_right_ones_do_not(name: str, width) -> None:  # type: ignore[no-untyped-def]
    """Exactly, for numbers that are 0 or 1: at 1/2, and where all draws may miss the rare one."""
    n, alpha = 200, 0.05
    hits = np.arange(n + 1)
    variance = hits * (n - hits) / n / (n - 1.0)
    cases = [0.5, 0.4, *(rare(n, alpha, part) for part in (0.5, 0.9, 1.0))]
    worst = max(binom.pmf(hits[hits / n + width(variance, n, alpha) < p], n, p).sum() for p in cases)
    assert worst > 1.2 * alpha, name
    for interval in INTERVALS:
        assert max(exact_errors(p, n, alpha, interval)[1] for p in cases) <= alpha
