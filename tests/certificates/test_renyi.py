from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from robust_cli.certificates import renyi
from robust_cli.messages import Wrong


def divergence(q: np.ndarray, p: np.ndarray, order: float) -> float:
    """D_order(Q || P)."""
    return float(np.log(np.sum(p * (q / p) ** order)) / (order - 1.0))


def power_mean(p1: float, p2: float, power: float) -> float:
    return float(((p1**power + p2**power) / 2.0) ** (1.0 / power))


def random_simplex(rng: np.random.Generator, classes: int) -> np.ndarray:
    return np.sort(rng.dirichlet(np.full(classes, 0.7)) * 0.98 + 0.02 / classes)[::-1]


@pytest.mark.parametrize("case", range(30))
def test_lemma_1_against_a_numerical_minimiser(case: int) -> None:
    """The least divergence of a Q whose largest entry is not P's, found by SLSQP over the simplex, is the formula."""
    rng = np.random.default_rng(case)
    p, order = random_simplex(rng, 2 + case % 5), float(rng.choice([1.05, 1.3, 2.0, 4.0, 10.0]))

    def objective(odds: np.ndarray) -> float:  # Q by its log-odds: well scaled however small its entries
        return float((logsumexp(order * odds + (1.0 - order) * np.log(p)) - order * logsumexp(odds)) / (order - 1.0))

    starts = [np.log(p) - np.eye(len(p))[0], np.zeros(len(p)), np.log(p), rng.normal(size=len(p))]
    found = min((minimize(objective, start, method="SLSQP", options={"ftol": 1e-15, "maxiter": 1000},
                          constraints=[{"type": "ineq", "fun": lambda odds: odds[1] - odds[0]}]) for start in starts),
                key=lambda result: result.fun if result.x[1] >= result.x[0] - 1e-9 else np.inf)
    bound = float(renyi.divergence_bound(p[0], p[1], order))
    assert divergence(softmax(found.x), p, order) == pytest.approx(objective(found.x), rel=1e-9)
    assert objective(found.x) == pytest.approx(bound, rel=1e-6, abs=1e-9)


def test_lemma_1_holds_for_any_distribution_with_another_largest_entry() -> None:
    rng = np.random.default_rng(0)
    closest = np.inf
    for _ in range(4000):
        p, order = random_simplex(rng, int(rng.integers(2, 7))), float(rng.uniform(1.01, 8.0))
        q = random_simplex(rng, len(p))[rng.permutation(len(p))]
        other = int(rng.integers(1, len(p)))
        q[0], q[other] = sorted((q[0], q[other]))
        slack = divergence(q, p, order) - float(renyi.divergence_bound(p[0], p[1], order))
        assert slack > -1e-12
        closest = min(closest, slack)
    assert closest < 0.05  # the bound is nearly met, so that a bound of 0 would not do as well


def test_the_minimiser_attains_lemma_1_and_that_of_the_printed_proof_does_not() -> None:
    p, order, value = np.array([0.6, 0.2, 0.2]), 1.5, 0.1706957252262446
    q_star = power_mean(0.6, 0.2, 1.0 - order)
    scale = 1.0 / (1.0 - 0.8 + 2.0 * q_star)
    minimiser = scale * np.array([q_star, q_star, 0.2])
    assert minimiser.sum() == pytest.approx(1.0, abs=1e-15)
    assert divergence(minimiser, p, order) == pytest.approx(value, rel=1e-14)
    assert float(renyi.divergence_bound(0.6, 0.2, order)) == pytest.approx(value, rel=1e-14)
    printed = np.array([q_star, q_star, (1.0 - 2.0 * q_star) * 0.2 / (1.0 - 0.8)])
    assert printed.sum() == pytest.approx(1.0, abs=1e-15)
    assert divergence(printed, p, order) == pytest.approx(0.22646, abs=1e-5)


@pytest.mark.parametrize("order", [1.0, 1.0 + 1e-9, 1.0 + 1e-4, 1.5, 4.0])
def test_order_1_is_the_limit(order: float) -> None:
    limit = -np.log(1.0 - (np.sqrt(0.7) - np.sqrt(0.1)) ** 2)
    assert float(renyi.divergence_bound(0.7, 0.1, 1.0)) == pytest.approx(limit, rel=1e-14)
    expected = limit if order == 1.0 else -np.log(1.0 - 0.8 + 2.0 * power_mean(0.7, 0.1, 1.0 - order))
    assert float(renyi.divergence_bound(0.7, 0.1, order)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("p1", [1e-6, 0.1, 0.5, 0.9, 0.999999, 1.0 - 1e-12])
def test_without_a_runner_up_there_is_a_closed_form(p1: float) -> None:
    exact = np.sqrt(-2.0 * np.log1p(-p1))
    found = float(renyi.radius(p1, 0.0, 1.0))
    assert found == pytest.approx(exact, rel=1e-11)
    assert found < exact
    assert float(renyi.best_order(p1, 0.0)) == pytest.approx(1.0, abs=1e-6)


def exact_radius(p1: float, p2: float) -> mp.mpf:
    """The supremum over the order by golden section with 60 digits."""
    a, b = mp.mpf(p1), mp.mpf(p2)

    def value(order: mp.mpf) -> mp.mpf:
        mean = mp.sqrt(a * b) if order == 1 else ((a ** (1 - order) + b ** (1 - order)) / 2) ** (1 / (1 - order))
        return -2 / order * mp.log(1 - a - b + 2 * mean)

    left, right, golden = mp.mpf(1), mp.mpf(4), (mp.sqrt(5) - 1) / 2
    for _ in range(120):
        x, y = right - golden * (right - left), left + golden * (right - left)
        left, right = (left, y) if value(x) > value(y) else (x, right)
    return mp.sqrt(max(value((left + right) / 2), value(mp.mpf(1))))


@pytest.mark.parametrize(("p1", "p2"), [
    (0.5 + 1e-9, 0.5 - 1e-9), (0.5, np.nextafter(0.5, 0)), (0.3, np.nextafter(0.3, 0)), (0.2, 0.2 - 1e-12), (0.6, 0.25),
    (0.99, 0.001), (0.9, 1e-12), (1e-5, 1e-7), (1.0 - 1e-6, 1e-6), (1.0 - 1e-12, 1e-12), (1.0 - 1e-12, 1e-15),
    (0.05, 0.0013), (0.1825, 0.0175), (0.999999, 1e-9)])
def test_radii_are_rounded_down_and_nearly_exact(p1: float, p2: float) -> None:
    with mp.workdps(60):
        exact = exact_radius(p1, min(p2, 1.0 - p1))
        found = mp.mpf(float(renyi.radius(p1, p2, 1.0)))
        assert exact * (1 - mp.mpf("1e-11")) < found <= exact


def test_the_supremum_is_not_missed() -> None:
    """No order of a fine grid, up to 50, does better than the bounded search: also beyond the orders searched."""
    rng = np.random.default_rng(1)
    p1 = rng.uniform(0.02, 0.999, 400)
    p2 = rng.uniform(0.0, 1.0, 400) ** 2 * np.minimum(p1, 1.0 - p1)
    orders = np.concatenate([np.linspace(1.0, 4.0, 1501), np.linspace(4.0, 50.0, 200)])
    values = np.sqrt(2.0 * renyi.divergence_bound(p1[:, None], p2[:, None], orders) / orders).max(axis=1)
    np.testing.assert_allclose(renyi.radius(p1, p2, 1.0), values, rtol=1e-5)
    assert (renyi.radius(p1, p2, 1.0) >= values * (1 - 1e-11)).all()


def test_the_clamp_is_tighter_and_the_raw_formula_symmetric() -> None:
    assert renyi.radius(0.9, 0.3, 1.0, clamp=False) == pytest.approx(0.59863, abs=1e-5)
    assert renyi.radius(0.9, 0.3, 1.0) == pytest.approx(1.03192956371, abs=1e-9)
    assert float(renyi.divergence_bound(0.42, 0.58, 1.4)) == float(renyi.divergence_bound(0.58, 0.42, 1.4)) > 0.01
    assert renyi.radius(0.42, 0.58, 1.0) == renyi.radius(0.42, 0.58, 1.0, clamp=False) == 0.0


def test_settings_that_do_not_go_together() -> None:
    for wrong in ({"bounds": "one_class"}, {"interval": "wald"}, {"multiplicity": "all"},
                  {"bounds": "two_class", "interval": "sison_glaz"}, {"interval": "sison_glaz", "multiplicity": "classes"},
                  {"bounds": "two_class", "multiplicity": "classes"}):
        with pytest.raises(Wrong):
            renyi.Renyi(**wrong)
    assert (renyi.Renyi().bounds, renyi.Renyi().norm) == ("runner_up", "l2")


@pytest.mark.parametrize(("p1", "p2", "noise_std", "name"), [
    (-0.1, 0.1, 1.0, "p1_lower"), (1.0, 0.1, 1.0, "p1_lower"), (float("nan"), 0.1, 1.0, "p1_lower"), (0.9, -0.1, 1.0, "p2_upper"),
    (0.9, 1.1, 1.0, "p2_upper"), (0.9, float("nan"), 1.0, "p2_upper"), (0.9, 0.1, 0.0, "noise_std"),
    (0.9, 0.1, float("inf"), "noise_std")])
def test_wrong_bounds(p1: float, p2: float, noise_std: float, name: str) -> None:
    with pytest.raises(Wrong, match=name):
        renyi.radius([p1, 0.9], p2, noise_std)
