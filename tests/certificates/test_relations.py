"""What holds between the certificates and along their arguments, on random bounds and on ugly ones."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robust_cli.certificates import neyman_pearson, pixeldp, renyi

CERTIFICATES = [renyi, pixeldp, neyman_pearson]
UNIT = st.floats(1e-9, 1.0 - 1e-9)


def pairs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """p1 > p2 > 0 with p1 + p2 <= 1: spread evenly, near a tie, near certainty, and small."""
    rng = np.random.default_rng(seed)
    p1 = np.concatenate([rng.uniform(0, 1, count), 1 - 10 ** rng.uniform(-12, -1, count), 10 ** rng.uniform(-8, -1, count)])
    p1 = np.clip(p1, 1e-9, 1 - 1e-13)
    share = np.where(rng.random(len(p1)) < 0.3, 1 - 10 ** rng.uniform(-14, -1, len(p1)), rng.uniform(0, 1, len(p1)))
    p2 = np.maximum(np.minimum(p1, 1 - p1) * share, 1e-16)
    keep = p1 > p2
    return p1[keep], p2[keep]


def test_neyman_pearson_is_never_below_renyi() -> None:
    p1, p2 = pairs(100_000, 0)
    by_renyi, tight = renyi.radius(p1, p2, 1.0), neyman_pearson.radius(p1, p2, 1.0)
    assert (by_renyi < tight).all()
    papers = (p1 + p2 >= 0.2) & (p2 >= 0.015)
    assert (by_renyi[papers] > 0.63 * tight[papers]).all()
    assert (by_renyi[papers] < 0.905 * tight[papers]).all()


def test_renyi_against_neyman_pearson_for_two_classes() -> None:
    """sqrt(2/pi) as p1 -> 1/2, rising slowly; so Renyi gives away a fifth of the radius."""
    p1 = np.array([0.5 + 1e-7, 0.6, 0.9, 0.99993])
    ratio = renyi.radius(p1, 1 - p1, 1.0) / neyman_pearson.radius(p1, 1 - p1, 1.0)
    assert ratio[0] == pytest.approx(np.sqrt(2 / np.pi), abs=1e-4)
    assert (np.diff(ratio) > 0).all()
    assert ratio[-1] == pytest.approx(0.846, abs=1e-3)


def test_renyi_is_above_pixeldp_in_the_papers_range_and_not_below_it() -> None:
    p1, p2 = pairs(100_000, 1)
    by_renyi, by_pixeldp = renyi.radius(p1, p2, 1.0), pixeldp.radius(p1, p2, 1.0)
    papers = p1 + p2 >= 0.2
    assert (by_renyi[papers] > 1.27 * by_pixeldp[papers]).all()
    assert (by_pixeldp <= neyman_pearson.radius(p1, p2, 1.0)).all()
    assert pixeldp.radius(0.05, 0.0013, 1.0) == pytest.approx(0.3246, abs=1e-4)
    assert renyi.radius(0.05, 0.0013, 1.0) == pytest.approx(0.2676, abs=1e-4)


def test_renyi_is_more_than_twice_pixeldp_where_the_papers_say_so() -> None:
    p1, p2 = np.meshgrid(np.linspace(0.8, 0.999, 40), np.linspace(0.0005, 0.1, 40))
    p1, p2 = p1[p1 + p2 <= 1], p2[p1 + p2 <= 1]
    assert (renyi.radius(p1, p2, 1.0) > 2.0 * pixeldp.radius(p1, p2, 1.0)).all()


@pytest.mark.parametrize("certificate", CERTIFICATES)
def test_the_radius_grows_with_p1_and_shrinks_with_p2(certificate: ModuleType) -> None:
    """Strictly along steps of 1 % (where p2 is not negligible); never back by more than the rounding along the smallest steps."""
    p1, p2 = pairs(20_000, 2)
    base = certificate.radius(p1, p2, 1.0)
    more, less = p1 + 0.01 * (1 - p1), p2 * 0.99
    strict = p2 > 1e-3 * p1
    assert (certificate.radius(p1, less, 1.0) > base)[strict].all()
    assert (certificate.radius(more, p2, 1.0) > base)[strict].all()
    for a, b in ((np.nextafter(p1, 1), p2), (p1, np.nextafter(p2, 0)), (more, p2), (p1, less)):
        assert (certificate.radius(a, b, 1.0) >= base * (1 - 1e-11) - 1e-14).all()


@pytest.mark.parametrize("certificate", CERTIFICATES)
def test_nothing_is_proven_where_the_bounds_meet_or_cross(certificate: ModuleType) -> None:
    rng = np.random.default_rng(3)
    p1 = rng.uniform(1e-6, 0.5, 20_000)
    p2 = rng.uniform(p1, 1.0)
    assert (certificate.radius(p1, p2, 1.0) == 0.0).all()
    assert (certificate.radius(p1, p1, 1.0) == 0.0).all()
    # above 1/2 the first bound alone proves something, whatever the second
    assert (certificate.radius(p1 + 0.5, p2, 1.0) == certificate.radius(p1 + 0.5, 1 - (p1 + 0.5), 1.0))[p2 > 0.5 - p1].all()


@pytest.mark.parametrize("certificate", CERTIFICATES)
def test_the_radius_is_linear_in_the_noise_and_each_image_is_by_itself(certificate: ModuleType) -> None:
    p1, p2 = pairs(500, 4)
    noise = np.geomspace(0.01, 10, len(p1))
    together = certificate.radius(p1, p2, noise)
    np.testing.assert_allclose(together, noise * certificate.radius(p1, p2, 1.0), rtol=1e-15)
    for k in (0, 7, len(p1) - 1):
        assert certificate.radius(p1[k], p2[k], noise[k]) == pytest.approx(together[k], rel=1e-13)
    assert together.dtype == np.float64
    assert certificate.radius(np.zeros((2, 0)), 0.5, 1.0).shape == (2, 0)


@given(UNIT, UNIT)
@example(0.5, 0.5)
@example(0.5, np.nextafter(0.5, 0))
@example(1 - 1e-9, 1e-9)
@example(1e-9, 1e-9)
def test_any_bounds_give_finite_radii_in_order(p1: float, p2: float) -> None:
    by_renyi, by_pixeldp, tight = (float(c.radius(p1, p2, 0.5)) for c in CERTIFICATES)
    assert 0.0 <= by_renyi <= tight < 10.0
    assert 0.0 <= by_pixeldp <= tight
    assert (tight > 0.0) == (by_renyi > 0.0) == (p1 > min(p2, 1 - p1))
