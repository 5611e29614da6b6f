"""Classifiers whose smoothed class and distance to the boundary are known: no certificate may pass it, one must reach it."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
from scipy.special import ndtr

from robust_cli.certificates import neyman_pearson, pixeldp, renyi
from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.smoothing.plans.anytime import Anytime
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import Sampling, Votes

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

    bounds = Fixed(samples, 100).bounds(Votes(votes(samples), votes(100)), 1e-6, "two_class")
    radii = neyman_pearson.radius(bounds.p1_lower, bounds.p2_upper, noise_std)
    right = bounds.predicted == (margins > 0)
    assert (radii[bounds.predicted >= 0] <= np.abs(margins)[bounds.predicted >= 0]).all()
    assert right[np.abs(margins) > 0.3 * noise_std].all()
    far = np.abs(margins) > 0.5 * noise_std
    assert far.sum() > 5
    assert (radii[far] > 0.8 * np.minimum(np.abs(margins)[far], 2.0 * noise_std)).all()


@pytest.mark.parametrize("plan", [Fixed(4096, 64), Anytime(4096)])
@pytest.mark.parametrize("kind", ["two_class", "runner_up"])
def test_linear_classifier_of_many_classes_by_its_votes(plan: Sampling, kind: str) -> None:
    """argmax W x, W of orthonormal rows: exchanging two classes is a reflection, so noise moves no boundary between them, and
    the smoothed class changes at (first score - second) / sqrt 2. (Of unlike rows it may change further out than the base's.)"""
    rng, noise_std = np.random.default_rng(1), 0.6
    weights, inputs = np.linalg.qr(rng.normal(size=(12, 5)))[0].T, 1.5 * rng.normal(size=(60, 12))
    scores = inputs @ weights.T
    best, ordered = scores.argmax(axis=1), np.sort(scores, axis=1)
    distances = (ordered[:, -1] - ordered[:, -2]) / np.sqrt(2.0)

    def votes(draws: int) -> np.ndarray:
        answers = (scores[:, None] + noise_std * rng.normal(size=(60, draws, 5))).argmax(axis=2)
        return np.stack([np.bincount(row, minlength=5) for row in answers])

    course = plan.course({"np": NeymanPearson(bounds=kind)}, noise_std, 1e-5, 5)
    bounds = course.bounds("np", Votes(votes(4096), votes(64)))
    radii = course.radius("np", bounds)
    same = bounds.predicted == best
    assert (radii[same] <= distances[same]).all()
    assert (same | (bounds.predicted == -1)).all()
    some = same & (distances > 0.5 * noise_std) & (distances < 2.0 * noise_std)
    assert some.sum() > 10
    part = np.median(radii[some] / distances[some])
    assert 0.75 < part < 0.95
    assert (1.3 * radii[same] > distances[same]).any()  # an inflated radius is caught here


@pytest.mark.parametrize(("plan", "least"), [(Fixed(100_000, 64), 0.984), (Anytime(100_000), 0.976)])
def test_the_radius_comes_near_the_distance_as_draws_grow(plan: Sampling, least: float) -> None:
    """A linear classifier at one noise_std: p = Phi(1). About 1.5 % short at 100,000 draws, and beyond it in 0.1 % of runs."""
    runs = 2000
    hits = np.random.default_rng(0).binomial(100_000, ndtr(1.0), size=runs)
    course = plan.course({"np": NeymanPearson()}, 1.0, 0.001, 2)
    chosen = np.tile([plan.selection, 0], (runs, 1))
    radii = course.radius("np", course.bounds("np", Votes(np.stack([hits, 100_000 - hits], axis=1), chosen)))
    assert (radii > 1.0).sum() <= 8  # the 99.9 % quantile at 0.1 %
    assert least < radii.mean() < least + 0.004


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
