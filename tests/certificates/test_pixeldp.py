from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from robust_cli.certificates import pixeldp
from robust_cli.messages import Wrong


def test_no_pair_of_a_fine_grid_does_better() -> None:
    """Every (epsilon, delta) of a grid that meets the condition with delta, epsilon <= 1, stays below; the best comes near."""
    epsilon, delta = np.meshgrid(np.linspace(0.001, 1.0, 1000), np.concatenate([np.geomspace(1e-9, 0.5, 1500)]))
    radii = epsilon / np.sqrt(2.0 * np.log(1.25 / delta))
    for p1, p2 in ((0.9, 0.05), (0.6, 0.2), (0.55, 0.45), (0.3, 0.1), (0.9, 0.0), (0.2, 0.19), (0.05, 0.0013)):
        allowed = p1 >= np.exp(2.0 * epsilon) * p2 + (1.0 + np.exp(epsilon)) * delta
        best = radii[allowed].max()
        found = float(pixeldp.radius(p1, p2, 1.0))
        assert best <= found <= best * 1.03


def test_the_condition_holds_at_the_pair_returned_with_nothing_to_spare() -> None:
    rng = np.random.default_rng(0)
    p1 = rng.uniform(0.05, 0.999, 500)
    p2 = rng.uniform(0.0, 1.0, 500) * np.minimum(p1, 1.0 - p1)
    epsilon, delta = pixeldp.best_privacy(p1, p2)
    assert ((epsilon > 0) & (epsilon <= 1.0) & (delta > 0)).all()
    np.testing.assert_allclose(np.exp(2.0 * epsilon) * p2 + (1.0 + np.exp(epsilon)) * delta, p1, rtol=1e-9)
    np.testing.assert_allclose(pixeldp.radius(p1, p2, 1.0), epsilon / np.sqrt(2.0 * np.log(1.25 / delta)), rtol=1e-11)


def test_the_mechanism_is_private_at_the_radius() -> None:
    """The exact Gaussian mechanism (hockey-stick divergence) at distance R has no more than delta beyond epsilon."""
    for p1, p2 in ((0.9, 0.05), (0.6, 0.2), (0.55, 0.45), (0.9999, 0.0001), (0.9, 0.0)):
        epsilon, delta = pixeldp.best_privacy(p1, p2)
        shift = float(pixeldp.radius(p1, p2, 1.0))
        exact = ndtr(shift / 2 - epsilon / shift) - np.exp(epsilon) * ndtr(-shift / 2 - epsilon / shift)
        assert 0.0 < exact <= delta


def test_guard_and_vanishing_gaps() -> None:
    assert pixeldp.radius([0.4, 0.5, 0.0], [0.6, 0.5, 0.0], 1.0).tolist() == [0.0, 0.0, 0.0]
    tiny = pixeldp.radius(0.3, [0.3 - 1e-6, 0.3 - 1e-12, np.nextafter(0.3, 0)], 1.0)
    assert (np.diff(tiny) < 0).all()
    assert (tiny >= 0).all()
    assert tiny[0] < 1e-6


def test_settings() -> None:
    with pytest.raises(Wrong, match="interval"):
        pixeldp.PixelDP(bounds="two_class", interval="sison_glaz")
    assert pixeldp.PixelDP().bounds == "runner_up"
    assert pixeldp.PixelDP(interval="sison_glaz")(1.0, 0.016, 1.0) == pixeldp.radius(1.0, 0.016, 1.0, clamp=False) > 0.5
