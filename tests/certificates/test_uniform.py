"""Uniform noise: the l1 radius against thresholds of one pixel, whose distance and probabilities are linear, from both sides."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest

from robust_cli.certificates.certificate import Certificate
from robust_cli.certificates.uniform import Uniform, radius
from robust_cli.messages import Wrong

PAIRS = [(0.5001, 0.4999), (0.9, 0.1), (0.9, 0.02), (0.99999, 1e-7), (0.4, 0.1), (0.3, 0.29), (0.6, 0.0)]


def change_of_class(p1: float, p2: float, std: float) -> Fraction:
    """With half_width w, class A is z <= w (2 p1 - 1) and B is z >= w (1 - 2 p2): after a shift by t towards B they have
    p1 - t / 2w and p2 + t / 2w, and are equal at t = w (p1 - p2). sqrt 3 to 40 digits."""
    width = Fraction(std) * Fraction(isqrt(3 * 10**80), 10**40)

    def part(low: Fraction, high: Fraction) -> Fraction:
        return (max(min(high, width), -width) - max(min(low, width), -width)) / (2 * width)

    edge_a, edge_b, t = width * (2 * Fraction(p1) - 1), width * (1 - 2 * Fraction(p2)), width * (Fraction(p1) - Fraction(p2))
    assert part(-width, edge_a) == Fraction(p1)
    assert part(edge_b, width) == Fraction(p2)
    assert part(-width, edge_a - t) == part(edge_b - t, width)
    assert part(-width, edge_a - t * Fraction(99, 100)) > part(edge_b - t * Fraction(99, 100), width)
    return t


def tight(certificate: Certificate, std: float = 0.7) -> None:
    """From both sides: never above the true distance, and not below it by more than rounding."""
    for p1, p2 in PAIRS:
        truth, found = change_of_class(p1, p2, std), Fraction(float(certificate(p1, p2, std)))
        assert truth * (1 - Fraction(1, 10**9)) <= found <= truth, (p1, p2)


def test_the_radius_is_the_distance_of_the_worst_thresholds() -> None:
    tight(Uniform())


@pytest.mark.parametrize("mutant", [
    lambda p1, p2, std: radius(p1, p2, std) / np.sqrt(3),  # noise_std for the half width
    lambda p1, p2, std: radius(p1, p2, std) * 2,  # the whole width
    lambda p1, p2, std: radius(p1, p2, std) * (1 + 1e-11),  # rounded up
    lambda p1, p2, std: radius(p1, 1 - p1, std),  # the runner-up's bound not used
    lambda p1, p2, std: std * np.sqrt(3) * (p1 + p2)])
def test_mutants_are_caught(mutant: Certificate) -> None:
    with pytest.raises(AssertionError):
        tight(mutant)


def test_no_direction_of_the_same_length_is_worse() -> None:
    """The worst set for a shift over several pixels, what one cube has and the other has not, is no larger than along one."""
    rng, std, n = np.random.default_rng(0), 0.5, 200_000
    width = std * np.sqrt(3)
    noise = rng.uniform(-width, width, (n, 3))
    for shift in (np.array([0.2, 0.0, 0.0]), np.array([0.1, 0.1, 0.0]), np.array([0.1, -0.06, 0.04])):
        lost = (np.abs(noise - shift) > width).any(1).mean()  # of the best set's probability after the shift
        p1 = 0.5 + np.abs(shift).sum() / (2 * width)
        assert float(radius(p1, 1 - p1, std)) == pytest.approx(np.abs(shift).sum())
        assert lost <= p1 - 0.5 + 4.5 * (0.25 / n) ** 0.5


def test_two_classes_are_the_published_formula() -> None:
    p1 = np.linspace(0.5, 1 - 1e-15, 50)
    np.testing.assert_allclose(radius(p1, 1 - p1, 1 / np.sqrt(3)), 2 * (p1 - 0.5), rtol=1e-10)
    np.testing.assert_allclose(radius(p1, 1.0, 0.3), radius(p1, 1 - p1, 0.3), rtol=0)  # the clamp
    assert (radius([0.3, 0.5, 0.0], [0.4, 0.5, 0.1], 1.0) == 0).all()


@pytest.mark.parametrize(("arguments", "name"), [((1.0, 0.1, 1.0), "p1_lower"), ((0.9, 1.1, 1.0), "p2_upper"),
                                                 ((0.9, 0.1, 0.0), "noise_std"), ((-0.1, 0.1, 1.0), "p1_lower")])
def test_bounds_out_of_range_are_refused(arguments: tuple[float, float, float], name: str) -> None:
    with pytest.raises(Wrong, match=name):
        radius(*arguments)


@pytest.mark.parametrize("settings", [{"bounds": "both"}, {"interval": "sison_glaz", "bounds": "runner_up"},
                                      {"multiplicity": "classes"}])
def test_choices_that_do_not_go_together_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(Wrong, match=next(iter(settings))):
        Uniform(**settings)
