"""Laplace noise: the l1 radius against half-spaces whose distance and probabilities are known exactly, from both sides."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy.stats import laplace

from robust_cli.certificates.certificate import Certificate
from robust_cli.certificates.laplace import Laplace, radius
from robust_cli.messages import Wrong

PAIRS = [(0.5001, 0.4999), (0.9, 0.1), (0.9, 0.02), (0.99999, 1e-7), (0.4, 0.1), (0.3, 0.29), (0.6, 0.4), (0.6, 1e-12)]


def change_of_class(p1: float, p2: float, std: float) -> mpmath.mpf:
    """Where two half-spaces along one pixel with these probabilities change places: class A is z <= a, B is z >= c and the shift
    goes from A to B. Found by bisection on the probabilities themselves at 50 digits."""
    mpmath.mp.dps = 50
    scale, a, b = mpmath.mpf(std) / mpmath.sqrt(2), mpmath.mpf(p1), mpmath.mpf(p2)

    def below(x: mpmath.mpf) -> mpmath.mpf:
        return mpmath.exp(x / scale) / 2 if x < 0 else 1 - mpmath.exp(-x / scale) / 2

    def quantile(p: mpmath.mpf) -> mpmath.mpf:
        return scale * mpmath.log(2 * p) if p <= 0.5 else -scale * mpmath.log(2 * (1 - p))

    edge_a, edge_b = quantile(a), -quantile(b)
    assert abs(below(edge_a) - a) < mpmath.mpf(10) ** -45
    low, high = mpmath.mpf(0), 100 * scale
    for _ in range(150):
        middle = (low + high) / 2
        if below(edge_a - middle) > below(-(edge_b - middle)):
            low = middle
        else:
            high = middle
    return low


def tight(certificate: Certificate, std: float = 0.7) -> None:
    """From both sides: never above the true distance, and not below it by more than rounding."""
    for p1, p2 in PAIRS:
        truth, found = change_of_class(p1, p2, std), mpmath.mpf(float(certificate(p1, p2, std)))
        assert truth * (1 - mpmath.mpf(1e-9)) <= found <= truth, (p1, p2)


def test_the_radius_is_the_distance_of_the_worst_half_spaces() -> None:
    tight(Laplace())


def test_no_rounding_goes_up() -> None:
    """Thousands of pairs against the formula at 50 digits."""
    mpmath.mp.dps = 50
    rng = np.random.default_rng(1)
    p1 = np.concatenate([1 - rng.random(1000) / 2, rng.random(1000) / 2])
    p2 = np.minimum(p1, 1 - p1) * rng.random(2000)
    found = radius(p1, p2, 0.7)
    for a, b, r in zip(p1.tolist(), p2.tolist(), found.tolist(), strict=True):
        ahead = -mpmath.log(2 * (1 - mpmath.mpf(a))) if a >= 0.5 else mpmath.log(2 * mpmath.mpf(a))
        exact = (ahead - mpmath.log(2 * mpmath.mpf(b))) * mpmath.mpf(0.7) / mpmath.sqrt(8)
        assert exact * (1 - mpmath.mpf(1e-11)) < r <= exact


@pytest.mark.parametrize("mutant", [
    lambda p1, p2, std: radius(p1, p2, std) * np.sqrt(2),  # noise_std for the scale
    lambda p1, p2, std: radius(p1, p2, std) / 2,
    lambda p1, p2, std: radius(p1, p2, std) * (1 + 1e-11),  # rounded up
    lambda p1, p2, std: radius(p1, 1 - p1, std),  # the runner-up's bound not used
    lambda p1, p2, std: std / np.sqrt(2) * max(np.log(p1 / p2) / 2, -np.log(1 - p1 + p2)),  # by the ratio of densities alone
    lambda p1, p2, std: std / np.sqrt(8) * (laplace.ppf(p1) + laplace.ppf(p2))])  # a sign
def test_mutants_are_caught(mutant: Certificate) -> None:
    with pytest.raises(AssertionError):
        tight(mutant)


def test_no_direction_of_the_same_length_is_worse() -> None:
    """Half-spaces of several pixels, under shifts over several pixels: the first class has more at 0.999 radii (by sampling)."""
    rng, std, n = np.random.default_rng(0), 0.5, 200_000
    noise = laplace.rvs(scale=std / np.sqrt(2), size=(n, 4), random_state=rng)
    for weights in (np.ones(4), np.array([1.0, 0.5, 0.25, 0.0]), np.array([3.0, -1.0, 1.0, 1.0])):
        values = noise @ weights
        edge = np.quantile(values, 0.85)
        p1 = (values <= edge).mean() - 4.5 * 0.5 / n**0.5
        length = float(radius(p1, 1 - p1, std))
        for shift in (np.sign(weights) / np.abs(np.sign(weights)).sum(), np.sign(weights) * np.eye(4)[np.abs(weights).argmax()]):
            assert np.abs(shift).sum() == pytest.approx(1)
            assert (values + 0.999 * length * (shift @ weights) <= edge).mean() > 0.5 - 4.5 * 0.5 / n**0.5


def test_two_classes_are_the_published_formula() -> None:
    p1 = np.linspace(0.51, 0.999, 50)
    np.testing.assert_allclose(radius(p1, 1 - p1, np.sqrt(2)), -np.log(2 * (1 - p1)), rtol=1e-10)
    np.testing.assert_allclose(radius(p1, 1.0, 0.3), radius(p1, 1 - p1, 0.3), rtol=0)  # the clamp


def test_it_grows_with_p1_and_the_noise_and_falls_with_p2() -> None:
    p1 = np.linspace(0.05, 1 - 1e-15, 400)
    assert (np.diff(radius(p1, 0.04, 1.0)) > 0).all()
    p2 = np.geomspace(1e-320, 0.3, 400)
    assert (np.diff(radius(0.6, p2, 1.0)) <= 0).all()
    assert np.isfinite(radius([0.4, 1 - 2**-53], 1e-320, 1.0)).all()
    assert radius(0.7, 0.2, 2.0) == pytest.approx(4 * float(radius(0.7, 0.2, 0.5)), rel=1e-15)
    assert (radius([0.3, 0.5, 0.0], [0.4, 0.5, 0.1], 1.0) == 0).all()


@pytest.mark.parametrize(("arguments", "name"), [((1.0, 0.1, 1.0), "p1_lower"), ((0.9, 0.0, 1.0), "p2_upper"),
                                                 ((0.9, 0.1, 0.0), "noise_std"), ((-0.1, 0.1, 1.0), "p1_lower")])
def test_bounds_that_no_votes_prove_are_refused(arguments: tuple[float, float, float], name: str) -> None:
    with pytest.raises(Wrong, match=name):
        radius(*arguments)


@pytest.mark.parametrize("settings", [{"bounds": "both"}, {"interval": "sison_glaz", "bounds": "runner_up"},
                                      {"multiplicity": "classes"}])
def test_choices_that_do_not_go_together_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(Wrong, match=next(iter(settings))):
        Laplace(**settings)
