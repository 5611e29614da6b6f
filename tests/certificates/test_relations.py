"""What holds between the certificates and along their arguments, on random bounds and on ugly ones."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robust_cli.certificates import neyman_pearson, pixeldp, renyi
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import Votes

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


def bounds_of_top_two(first: np.ndarray, second: np.ndarray, samples: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """The single-sample bounds from the two largest counts of many classes."""
    rest = samples - first - second
    counts = np.stack([first, second, *(np.clip(rest - k * second, 0, second) for k in range(8))], axis=1)
    assert (counts.sum(axis=1) == samples).all()
    found = Fixed(samples, 0).bounds(Votes(counts), alpha, "runner_up")
    assert (found.predicted[found.predicted >= 0] == 0).all()
    return found.p1_lower, found.p2_upper


def vote_vectors(samples: int, count: int, seed: int) -> np.ndarray:
    """Top two counts [N, 2], each pair once, of ``count`` random votes of 2 to 10 classes: even, skewed, nearly sure."""
    rng = np.random.default_rng(seed)
    tops = []
    for classes in (2, 3, 5, 10):
        for skew in (0.1, 0.3, 1.0, 10.0):
            p = rng.dirichlet(np.full(classes, skew), size=count // 16)
            tops.append(np.sort(rng.multinomial(samples, p), axis=1)[:, :-3:-1])
    return np.unique(np.concatenate(tops), axis=0)


@pytest.mark.parametrize(("samples", "alpha"), [(1000, 0.001), (300, 0.05)])
def test_the_order_of_the_certificates_on_a_million_vote_vectors(samples: int, alpha: float) -> None:
    first, second = vote_vectors(samples, 10**6, samples).T
    assert len(first) > 10_000
    p1, p2 = bounds_of_top_two(first, second, samples, alpha)
    by_renyi, by_pixeldp, tight = (c.radius(p1, p2, 1.0) for c in CERTIFICATES)
    some = tight > 0
    assert (by_renyi[some] < tight[some]).all()
    assert (by_renyi[~some] == 0).all()
    assert (by_pixeldp[~some] == 0).all()
    papers = some & (p1 + p2 >= 0.2)
    assert papers.sum() > 5000
    assert (by_pixeldp[papers] < by_renyi[papers]).all()
    assert np.isfinite(tight).all()


@pytest.mark.parametrize("certificate", CERTIFICATES)
def test_a_vote_for_the_class_never_lowers_its_radius(certificate: ModuleType) -> None:
    """All top two counts of 100 draws of ten classes, and the same with a vote that went from the runner-up to the class."""
    first, second = np.array([(a, b) for a in range(100) for b in range(1, min(a, 100 - a) + 1)
                              if 100 - a - b <= 8 * (b - 1)]).T
    before, after = (certificate.radius(*bounds_of_top_two(first + k, second - k, 100, 0.05), 1.0) for k in (0, 1))
    assert (after >= before).all()
    assert (after[before > 0] > before[before > 0]).all()


@given(UNIT, UNIT, UNIT, st.floats(0.01, 10.0))
def test_better_bounds_and_more_noise_certify_more(p1: float, p2: float, closer: float, noise_std: float) -> None:
    """p1 moved towards 1, p2 towards 0; two_class is runner_up with p2 = 1 - p1; twice the noise, twice the radius."""
    for certificate in CERTIFICATES:
        radius = float(certificate.radius(p1, p2, noise_std))
        slack = 1e-11 * radius + 1e-13 * noise_std
        assert certificate.radius(p1 + closer * (1 - 1e-9 - p1), p2, noise_std) >= radius - slack
        assert certificate.radius(p1, p2 * closer, noise_std) >= radius - slack
        assert certificate.radius(p1, max(p2, 1 - p1), noise_std) == certificate.radius(p1, 1 - p1, noise_std)
        assert certificate.radius(p1, p2, 2 * noise_std) == pytest.approx(2 * radius, rel=1e-14)
