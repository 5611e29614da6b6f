"""Claim counts against a recursion of its own, draw by draw: they err as often as they say, and hardly less than they may."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binom

from robust_cli.certificates import confidence
from robust_cli.messages import Wrong
from robust_cli.smoothing.plans import crossing
from robust_cli.smoothing.plans.crossing import claim_counts, fewest_draws, spending
from robust_cli.smoothing.plans.plan import boundaries

LEVELS = [0.5, 0.6, 0.8, 0.95, 0.99, float(ndtr(3.0))]


def ever_claimed(p: float, looks: tuple[int, ...], most: np.ndarray) -> np.ndarray:
    """Probability, up to each look, that the misses were few enough at one; one draw after the other."""
    weights, claimed, found, drawn = np.zeros(looks[-1] + 1), 0.0, [], 0
    weights[0] = 1.0
    for look, count in zip(looks, most, strict=True):
        for _ in range(look - drawn):
            weights[1:] = weights[1:] * p + weights[:-1] * (1.0 - p)
            weights[0] *= p
        claimed, drawn = claimed + weights[:count + 1].sum(), look
        weights[:count + 1] = 0.0
        found.append(claimed)
    return np.array(found)


@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-8])
@pytest.mark.parametrize("level", LEVELS)
def test_the_error_is_exact_and_spent(level: float, alpha: float) -> None:
    looks = boundaries(4000)
    if fewest_draws(level, alpha) > looks[-1]:
        assert (claim_counts(level, looks, alpha, spending(looks))[0] == crossing.NEVER).all()
        return
    most, error = claim_counts(level, looks, alpha, spending(looks))
    exact = ever_claimed(level, looks, most)
    assert exact[-1] <= error * (1 + 1e-9) <= alpha
    assert error == pytest.approx(exact[-1], rel=1e-8)
    assert (exact <= alpha * spending(looks)).all()
    if fewest_draws(level, alpha) < 1000:
        assert exact[-1] >= 0.9 * alpha


@pytest.mark.parametrize("level", LEVELS[:5])
def test_no_count_could_be_larger(level: float) -> None:
    """One more miss at any look would spend more by then than may be spent."""
    looks = boundaries(640)
    most, _ = claim_counts(level, looks, 0.01, spending(looks))
    for look in range(len(looks)):
        more = most.copy()
        more[look] = max(most[look], most[:look].max(initial=-1)) + 1
        assert ever_claimed(level, looks, more)[look] > 0.01 * crossing.AIM * spending(looks)[look]


def test_less_probable_classes_are_claimed_less_often() -> None:
    looks = boundaries(1000)
    most, _ = claim_counts(0.8, looks, 0.05, spending(looks))
    errors = [ever_claimed(p, looks, most)[-1] for p in (0.1, 0.5, 0.7, 0.79, 0.8, 0.81, 0.9)]
    assert errors == sorted(errors)
    assert errors[4] <= 0.05 < errors[5]
    assert errors[-1] > 0.999


@pytest.mark.parametrize("draws", [100, 1000, 100_000])
def test_one_look_is_clopper_pearson(draws: int) -> None:
    for level in LEVELS:
        (most,), _ = claim_counts(level, (draws,), 0.001, np.ones(1))
        misses = np.arange(max(0, most - 3), most + 5)
        assert ((confidence.lower(draws - misses, draws, 0.001) > level) == (misses <= most)).all()


def test_fewest_draws() -> None:
    """Of all hits: three noise_std take 5114 draws, three and a half 29691, four 218105."""
    assert [fewest_draws(float(ndtr(r)), 0.001) for r in (0.0, 3.0, 3.5, 4.0)] == [10, 5114, 29691, 218105]
    for draws, claimed in ((5113, False), (5114, True)):
        assert (claim_counts(float(ndtr(3.0)), (draws,), 0.001, np.ones(1))[0] == 0).all() == claimed


def test_weights_left_out_count_as_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far coarser than it is, the recursion still errs no more often than it may."""
    monkeypatch.setattr(crossing, "NEGLIGIBLE", 0.02)
    looks = boundaries(2000)
    for level in (0.5, 0.8, 0.99):
        most, error = claim_counts(level, looks, 0.05, spending(looks))
        assert 0.0 < ever_claimed(level, looks, most)[-1] < min(error, 0.05)


def test_spending_as_at_one_look_is_caught() -> None:
    """Mistake: what would be right for one look, at every look."""
    looks = boundaries(1000)
    peeking = binom.ppf(0.05, looks, 0.5).astype(np.int64) - 1
    assert ever_claimed(0.5, looks, peeking)[-1] > 0.1


def test_spending_grows_to_one() -> None:
    shares = spending(boundaries(100_000))
    assert (np.diff(shares) > 0).all()
    assert shares[0] > 0
    assert shares[-1] == 1.0


@pytest.mark.parametrize(("level", "alpha"), [(0.0, 0.1), (1.0, 0.1), (0.5, 0.0), (0.5, 1.0)])
def test_refused(level: float, alpha: float) -> None:
    with pytest.raises(Wrong):
        claim_counts(level, (64,), alpha, np.ones(1))
