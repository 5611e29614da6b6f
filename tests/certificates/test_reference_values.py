"""Radii at noise_std 1 computed once with 40 digits (mpmath), and from counts through one-sided Clopper-Pearson bounds."""

from __future__ import annotations

import numpy as np
import pytest

from robust_cli.certificates import confidence, neyman_pearson, pixeldp, renyi
from robust_cli.messages import Wrong
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import Votes

# p1, p2, Renyi radius, best order, Neyman-Pearson radius, PixelDP radius, its epsilon, its delta
PROBABILITIES = np.array([
    (0.4, 0.3, 0.120061868466, 1.272929471, 0.135526704786, 0.0392489027921, 0.13225583, 0.0042783297),
    (0.5, 0.4, 0.105740065676, 1.424175915, 0.126673551568, 0.0304100841157, 0.10259619, 0.0042197893),
    (0.55, 0.45, 0.100272351971, 1.499665063, 0.125661346855, 0.0273366199649, 0.09226713, 0.0041989771),
    (0.6, 0.2, 0.477429470323, 1.324179699, 0.547484168354, 0.175635866945, 0.48742828, 0.026575082),
    (0.6, 0.4, 0.202216291706, 1.498640502, 0.253347103136, 0.0592236114778, 0.18381266, 0.010118891),
    (0.7, 0.3, 0.419070145997, 1.494211414, 0.524400512708, 0.135036143323, 0.37606304, 0.025869031),
    (0.8, 0.1, 0.91245923677, 1.358153104, 1.06158639956, 0.36151499142, 0.8993466, 0.056629698),
    (0.9, 0.05, 1.24937387276, 1.367839197, 1.46320259625, 0.479987535497, 1.0, 0.14268612),
    (0.9, 0.1, 1.03192956371, 1.466875947, 1.28155156554, 0.390267154443, 0.9428166, 0.067545201),
    (0.95, 0.05, 1.33186640854, 1.447332338, 1.64485362695, 0.490268014744, 1.0, 0.15613319),
    (0.99, 0.005, 2.08773521508, 1.351677701, 2.45108858879, 0.561746658659, 1.0, 0.25631589),
    (0.99, 0.01, 1.90800904686, 1.404102477, 2.32634787404, 0.554866734954, 1.0, 0.24637977),
    (0.3, 0.1, 0.331906777541, 1.025618906, 0.378575526418, 0.161955140971, 0.49757569, 0.011149202),
    (0.9, 0.0, 2.14596602629, 1.0, np.inf, 0.551860621771, 1.0, 0.24204728),
    (0.9999, 0.0001, 3.1409393315, 1.314474505, 3.71901648546, 0.570313338137, 1.0, 0.2687158),
])
P1, P2, RENYI, ORDER, NEYMAN_PEARSON, PIXELDP, EPSILON, DELTA = PROBABILITIES.T

# samples, votes of the first and the second class, share of the failure probability 0.05 (1/K), p1_lower, p2_upper before
# the clamp, Renyi radius, Neyman-Pearson radius
COUNTS = [
    (100, 100, 0, 2, 0.9637833074, 0.0362166926, 1.458384829, 1.796384512),
    (100, 100, 0, 10, 0.9483959704, 0.0516040296, 1.319092248, 1.629496008),
    (100, 99, 1, 2, 0.9455406146, 0.0544593854, 1.297133713, 1.603071946),
    (100, 95, 5, 2, 0.8871650889, 0.1128349111, 0.97467599, 1.211588805),
    (100, 95, 5, 10, 0.8648553175, 0.1351446825, 0.8856143108, 1.102396425),
    (100, 95, 3, 2, 0.8871650889, 0.0851760530, 1.068966011, 1.291331054),
    (100, 95, 3, 10, 0.8648553175, 0.1054812537, 0.9711407838, 1.1766598),
    (100, 90, 5, 10, 0.7980464792, 0.1351446825, 0.8129760664, 0.9685301015),
    (100, 80, 10, 2, 0.7081573109, 0.1762225977, 0.6294722938, 0.7389331872),
    (100, 80, 10, 10, 0.6787735871, 0.2019535208, 0.5522101713, 0.6494679283),
    (100, 70, 20, 2, 0.6001853238, 0.2918426891, 0.3369323017, 0.4009181612),
    (100, 70, 20, 10, 0.5693864464, 0.3212264129, 0.2682999443, 0.3195421995),
    (100, 60, 30, 2, 0.4972091504, 0.3998146762, 0.103140379, 0.1234155703),
    (100, 60, 30, 10, 0.4664729957, 0.4306135536, 0.03787576065, 0.04533670683),
    (100, 52, 48, 2, 0.4177897654, 0.5822102346, 0.0, 0.0),
    (100, 52, 48, 10, 0.3879830114, 0.6120169886, 0.0, 0.0),
    (1000, 990, 5, 2, 0.9816867569, 0.0116294706, 1.831450992, 2.179528831),
    (1000, 700, 200, 10, 0.6612727938, 0.2344885993, 0.480322001, 0.5700417663),
    (10000, 9990, 5, 2, 0.9981617359, 0.0011664442, 2.52026122, 2.974436934),
    (10000, 9990, 5, 10, 0.9978614365, 0.0014143287, 2.469451353, 2.921367374),
    (100000, 99900, 50, 2, 0.9987838636, 0.0006591352, 2.665605536, 3.121807329),
]


@pytest.mark.parametrize("noise_std", [1.0, 0.25, 100.0 / 255.0])
def test_radii_of_exact_probabilities(noise_std: float) -> None:
    finite = P2 > 0.0
    np.testing.assert_allclose(renyi.radius(P1, P2, noise_std), noise_std * RENYI, rtol=0, atol=1e-7)
    np.testing.assert_allclose(renyi.radius(P1, P2, noise_std), noise_std * RENYI, rtol=1e-10)
    np.testing.assert_allclose(pixeldp.radius(P1, P2, noise_std), noise_std * PIXELDP, rtol=1e-10)
    np.testing.assert_allclose(neyman_pearson.radius(P1[finite], P2[finite], noise_std), noise_std * NEYMAN_PEARSON[finite],
                               rtol=1e-10)


def test_where_the_suprema_are() -> None:
    np.testing.assert_allclose(renyi.best_order(P1, P2), ORDER, atol=1e-5)
    epsilon, delta = pixeldp.best_privacy(P1, P2)
    np.testing.assert_allclose(epsilon, EPSILON, atol=1e-6)
    np.testing.assert_allclose(delta, DELTA, atol=1e-6)
    assert (epsilon <= 1.0).all()


def test_infinite_radii_are_refused() -> None:
    with pytest.raises(Wrong, match="p2_upper"):
        neyman_pearson.radius(0.9, 0.0, 1.0)
    for certificate in (neyman_pearson, renyi, pixeldp):
        with pytest.raises(Wrong, match="p1_lower"):
            certificate.radius(1.0, 0.01, 1.0)
    with pytest.raises(Wrong, match="p1_lower"):
        renyi.radius(1.0, 0.0, 1.0, clamp=False)


@pytest.mark.parametrize(("samples", "first", "second", "parts", "p1", "p2", "by_renyi", "by_neyman_pearson"), COUNTS)
def test_radii_from_counts(samples: int, first: int, second: int, parts: int, p1: float, p2: float, by_renyi: float,
                           by_neyman_pearson: float) -> None:
    assert confidence.lower(first, samples, 0.05 / parts) == pytest.approx(p1, abs=1e-9)
    assert confidence.upper(second, samples, 0.05 / parts) == pytest.approx(p2, abs=1e-9)
    counts = np.zeros((1, parts), dtype=np.int64)
    counts[0, :2] = first, second
    if parts > 2:
        counts[0, 2:] = np.diff(np.linspace(0, samples - first - second, parts - 1).astype(np.int64))
    else:
        counts = np.array([[first, second, samples - first - second]])[:, : 3 if first + second < samples else 2]
    bounds = Fixed(samples, 0).bounds(Votes(counts), 0.05, "runner_up",
                                              multiplicity="pair" if parts == 2 else "classes")
    assert renyi.radius(bounds.p1_lower, bounds.p2_upper, 1.0)[0] == pytest.approx(by_renyi, abs=1e-6)
    assert neyman_pearson.radius(bounds.p1_lower, bounds.p2_upper, 1.0)[0] == pytest.approx(by_neyman_pearson, abs=1e-6)
    assert (bounds.predicted[0] == -1) == (by_renyi == 0.0)


@pytest.mark.parametrize(("samples", "parts", "largest"), [
    (100, 2, 1.45838), (100, 10, 1.31909), (1000, 2, 2.21427), (1000, 10, 2.10693), (10**4, 2, 2.83031), (10**4, 10, 2.73983),
    (10**5, 2, 3.36415), (10**5, 10, 3.28439)])
def test_largest_radii(samples: int, parts: int, largest: float) -> None:
    certificate = renyi.Renyi(multiplicity="pair" if parts == 2 else "classes")
    plan = Fixed(samples, 0)
    assert plan.largest_radius(certificate, 0.05, 1.0, 10) == pytest.approx(largest, abs=6e-6)
    assert plan.largest_radius(certificate, 0.05, 0.7, 10) == pytest.approx(0.7 * largest, abs=6e-6)


def test_the_mnist_radius_of_the_papers_needs_more_votes() -> None:
    """At noise 0.7 the radius 1.58 takes 1160 unanimous votes (K = 2) or 1666 (K = 10), not 100."""
    for certificate, needed in ((renyi.Renyi(), 1160), (renyi.Renyi(multiplicity="classes"), 1666)):
        radii = [Fixed(n, 0).largest_radius(certificate, 0.05, 0.7, 10) for n in (100, needed - 1, needed)]
        assert radii[0] < 1.03
        assert radii[1] < 1.58 <= radii[2]


@pytest.mark.parametrize(("noise_std", "radius", "by_renyi", "by_neyman_pearson"), [
    (0.7, 1.58, 0.9968233, 0.9880004), (0.7, 1.4, 0.9925161, 0.9772499), (0.4, 0.8, 0.9925161, 0.9772499),
    (100 / 255, 36 / 255, 0.6738857, 0.6405764), (50 / 255, 36 / 255, 0.8154790, 0.7642375)])
def test_probability_that_a_radius_needs(noise_std: float, radius: float, by_renyi: float, by_neyman_pearson: float) -> None:
    for certificate, p1 in ((renyi, by_renyi), (neyman_pearson, by_neyman_pearson)):
        below, above = certificate.radius([p1 - 1e-7, p1 + 1e-7], [1 - p1 + 1e-7, 1 - p1 - 1e-7], noise_std)
        assert below < radius < above


@pytest.mark.parametrize(("counts", "failure_probability", "p1", "p2", "by_renyi"), [
    ((100, 0), 0.05, 1.0, 0.01599, 1.8138), ((99, 1), 0.05, 0.98, 0.02717, 1.5841), ((95, 5), 0.05, 0.92, 0.0931, 1.0820),
    ((100, 0), 0.95, 1.0, 0.00084, 2.6476), ((99, 1), 0.95, 0.99, 0.0111, 1.8785), ((95, 5), 0.95, 0.95, 0.0521, 1.3190)])
def test_the_papers_own_intervals(counts: tuple[int, int], failure_probability: float, p1: float, p2: float,
                                  by_renyi: float) -> None:
    """Sison-Glaz under the raw Renyi formula; 0.95 is the significance that the authors' code passed by mistake."""
    certificate = renyi.Renyi(interval="sison_glaz")
    votes = Votes(np.array([[*counts, 0, 0, 0, 0, 0, 0, 0, 0]]))
    bounds = Fixed(100, 0).bounds(votes, failure_probability, "runner_up", "sison_glaz")
    assert bounds.p1_lower[0] == pytest.approx(p1, abs=1e-12)
    assert bounds.p2_upper[0] == pytest.approx(p2, abs=5e-5)
    assert certificate(bounds.p1_lower, bounds.p2_upper, 1.0)[0] == pytest.approx(by_renyi, abs=1e-4)
    assert "No guarantee" in bounds.statement


def test_the_papers_own_intervals_abstain_where_the_bounds_cross() -> None:
    """At (0.43, 0.5873) the formula without its guard gives 0.157, and proves nothing."""
    bounds = Fixed(100, 0).bounds(Votes(np.array([[52, 48]])), 0.05, "runner_up", "sison_glaz")
    assert (bounds.p1_lower[0], bounds.p2_upper[0]) == (pytest.approx(0.43), pytest.approx(0.5873, abs=5e-5))
    assert bounds.predicted[0] == -1
    assert renyi.Renyi(interval="sison_glaz")(bounds.p1_lower, bounds.p2_upper, 1.0)[0] == 0.0
