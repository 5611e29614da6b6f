"""Classifiers whose smoothed class and distance to the boundary are known: no certificate may pass it, one must reach it."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
from scipy.special import ndtr

from robust_cli.certificates import neyman_pearson, pixeldp, renyi
from robust_cli.smoothing.sampling import FixedSampling, Votes

DISTANCES = np.array([0.25, 0.5, 1.0, 2.0, 3.0])


def test_linear_classifier() -> None:
    """sign(w x + b) under noise answers its class with probability Phi(distance / noise_std)."""
    p1 = ndtr(DISTANCES)
    by_renyi = renyi.radius(p1, 1.0 - p1, 1.0)
    np.testing.assert_allclose(by_renyi, [0.1995427757, 0.3995137825, 0.8024017681, 1.6297982986, 2.4957168134], atol=1e-9)
    np.testing.assert_allclose(neyman_pearson.radius(p1, 1.0 - p1, 1.0), DISTANCES, rtol=1e-12)
    assert (pixeldp.radius(p1, 1.0 - p1, 1.0) < by_renyi).all()


def test_linear_classifier_by_its_votes() -> None:
    """Drawn votes of a random linear classifier on 24 pixels: certified up to nearly the true distance, not beyond it."""
    rng = np.random.default_rng(0)
    weights, noise_std, images, samples = rng.normal(size=24), 0.4, 40, 5000
    inputs = rng.uniform(size=(images, 24))
    bias = -np.median(inputs @ weights)
    margins = (inputs @ weights + bias) / np.linalg.norm(weights)

    def votes(draws: int) -> np.ndarray:
        noisy = inputs[:, None, :] + noise_std * rng.normal(size=(1, draws, 24))
        positive = (noisy @ weights + bias > 0).sum(axis=1)
        return np.stack([draws - positive, positive], axis=1)

    bounds = FixedSampling(samples, 100).bounds(Votes(votes(samples), votes(100)), 1e-6, "two_class")
    radii = neyman_pearson.radius(bounds.p1_lower, bounds.p2_upper, noise_std)
    right = bounds.predicted == (margins > 0)
    assert (radii[bounds.predicted >= 0] <= np.abs(margins)[bounds.predicted >= 0]).all()
    assert right[np.abs(margins) > 0.3 * noise_std].all()
    far = np.abs(margins) > 0.5 * noise_std
    assert far.sum() > 5
    assert (radii[far] > 0.8 * np.minimum(np.abs(margins)[far], 2.0 * noise_std)).all()


@pytest.mark.parametrize("noise_std", [0.25, 1.0])
@pytest.mark.parametrize(("p1", "p2"), [
    (0.4, 0.3), (0.5, 0.49999), (0.6, 0.2), (0.9, 0.1), (0.9, 1e-9), (0.999999, 1e-7), (0.02, 1e-5)])
def test_two_half_spaces_change_class_exactly_at_the_tight_radius(p1: float, p2: float, noise_std: float) -> None:
    """Class A where x <= a, class B where x >= b, another in between: shifted by r towards B, A leads B iff r < R."""
    tight = float(neyman_pearson.radius(p1, p2, noise_std))
    with mp.workdps(50):
        a, b = (noise_std * mp.sqrt(2) * mp.erfinv(2 * mp.mpf(p) - 1) * sign for p, sign in ((p1, 1), (p2, -1)))

        def lead(shift: mp.mpf) -> mp.mpf:
            return mp.ncdf((a - shift) / noise_std) - mp.ncdf((shift - b) / noise_std)

        assert mp.almosteq(lead(mp.mpf(0)), mp.mpf(p1) - mp.mpf(p2), rel_eps=mp.mpf("1e-30"))
        assert lead(mp.mpf(tight)) >= 0
        assert lead(mp.mpf(tight) * (1 + mp.mpf("1e-9"))) < 0
        for other in (renyi, pixeldp):
            assert lead(mp.mpf(float(other.radius(p1, p2, noise_std)))) > 0
        assert lead(mp.mpf(tight) * mp.mpf("1.3")) < 0  # an inflated radius is caught here
