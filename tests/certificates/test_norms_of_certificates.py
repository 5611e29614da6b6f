"""The norm that a radius is in, the least probability that gives a radius, and the noise that a certificate holds for."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import norm as gaussian

from robust_cli.certificates.certificate import Certificate, check_noise, least_p1
from robust_cli.certificates.laplace import Laplace
from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.certificates.pixeldp import PixelDP
from robust_cli.certificates.renyi import Renyi
from robust_cli.certificates.uniform import Uniform
from robust_cli.messages import UserError, Wrong

ALL = [NeymanPearson(), Renyi(), PixelDP(), Laplace(), Uniform()]
GAUSSIAN = [NeymanPearson, Renyi, PixelDP]
RADII = np.array([0.0, 1e-12, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 3.8])


@pytest.mark.parametrize("dimension", [1, 2, 3, 784, 3072, 150_528])
def test_linf_is_attained_by_the_diagonal(dimension: int) -> None:
    """The half-space of the diagonal changes class at the l2 radius along (1, ..., 1), whose linf length is that over sqrt(d)."""
    certificate, p1, std = NeymanPearson(norm="linf"), 0.97, 0.5
    found = float(certificate.in_norm(certificate(p1, 1 - p1, std), dimension))
    edge = std * gaussian.ppf(p1)
    assert found * np.sqrt(dimension) <= edge  # the shift found * (1, ..., 1) has this l2 length
    assert found * np.sqrt(dimension) >= edge * (1 - 1e-9)


def test_linf_is_rounded_down() -> None:
    certificate, radii = NeymanPearson(norm="linf"), np.random.default_rng(0).random(300)
    for dimension in (2, 3, 784, 3072):
        for radius, found in zip(radii.tolist(), certificate.in_norm(radii, dimension).tolist(), strict=True):
            assert Fraction(found) ** 2 * dimension <= Fraction(radius) ** 2


@pytest.mark.parametrize("kind", GAUSSIAN)
def test_norms_of_the_gaussian_certificates(kind: type) -> None:
    l2, linf, l1 = (kind(norm=norm) for norm in ("l2", "linf", "l1"))
    radius = l2(0.9, 0.1, 0.5)
    assert (l2.norm, linf.norm, l1.norm) == ("l2", "linf", "l1")
    assert linf(0.9, 0.1, 0.5) == radius  # in the norm of the proof until `in_norm`
    assert l2.in_norm(radius, 49) == l1.in_norm(radius, 49) == radius
    assert float(linf.in_norm(radius, 49)) == pytest.approx(float(radius) / 7, rel=1e-11)
    with pytest.raises(Wrong, match="norm"):
        kind(norm="l0")
    with pytest.raises(Wrong, match="dimension"):
        linf.in_norm(radius, 0)


def test_l1_of_the_axis_is_attained() -> None:
    """Along one pixel an l1 length is an l2 length: the radius cannot be larger."""
    certificate = NeymanPearson(norm="l1")
    found, edge = float(certificate.in_norm(certificate(0.97, 0.03, 0.5), 784)), 0.5 * gaussian.ppf(0.97)
    assert edge * (1 - 1e-9) <= found <= edge


@pytest.mark.parametrize("certificate", ALL, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("std", [0.25, 1.0])
def test_least_p1_reaches_the_radius_and_nothing_less_does(certificate: Certificate, std: float) -> None:
    radii = RADII * std
    p1 = certificate.least_p1(radii, std)
    assert p1[0] == 0.5
    reachable = p1 < 1
    assert (certificate(p1[reachable], 1 - p1[reachable], std) >= radii[reachable]).all()
    less = p1[reachable][1:] * (1 - 1e-9)
    assert (certificate(less, 1 - less, std) < radii[reachable][1:]).all()
    largest = np.nextafter(1.0, 0.0)
    assert (certificate(largest, 1 - largest, std) < radii[~reachable]).all()
    assert (np.diff(p1) >= 0).all()


def test_least_p1_in_closed_form() -> None:
    radii = np.array([0.1, 0.5, 1.0, 1.5])
    np.testing.assert_allclose(NeymanPearson().least_p1(radii, 0.5), gaussian.cdf(radii / 0.5), rtol=1e-10)
    np.testing.assert_allclose(Laplace().least_p1(radii, 0.5), 1 - np.exp(-radii * np.sqrt(2) / 0.5) / 2, rtol=1e-10)
    np.testing.assert_allclose(Uniform().least_p1(radii / 4, 0.5), 0.5 + radii / 4 / np.sqrt(3), rtol=1e-10)
    assert NeymanPearson().least_p1(1e6, 0.5) == 1


def test_least_p1_with_a_dimension_is_of_the_radius_in_the_norm() -> None:
    linf, l2 = NeymanPearson(norm="linf"), NeymanPearson()
    radii = np.array([0.001, 0.01, 0.05])
    p1 = linf.least_p1(radii, 0.5, dimension=784)
    np.testing.assert_allclose(p1, l2.least_p1(radii * 28, 0.5), rtol=1e-10)
    assert (linf.in_norm(linf(p1, 1 - p1, 0.5), 784) >= radii).all()
    np.testing.assert_array_equal(Laplace().least_p1(radii, 0.5, dimension=784), Laplace().least_p1(radii, 0.5))


@pytest.mark.parametrize("radius", [-0.1, np.nan])
def test_least_p1_of_no_radius_is_refused(radius: float) -> None:
    with pytest.raises(Wrong, match="radius"):
        least_p1(NeymanPearson(), radius, 0.5)


@pytest.mark.parametrize("kind", ["gaussian", "integer_grid", "laplace", "uniform"])
def test_a_certificate_is_refused_for_other_noise(kind: str) -> None:
    for certificate in ALL:
        if certificate.noise == kind or (certificate.noise, kind) == ("gaussian", "integer_grid"):
            check_noise({"mine": certificate}, kind)
        else:
            with pytest.raises(UserError, match=rf"^certificate\.mine: holds for noise={certificate.noise}.*has noise={kind};"):
                check_noise({"mine": certificate}, kind)


def test_the_line_says_what_to_do() -> None:
    with pytest.raises(UserError) as error:
        check_noise({"laplace_l1": Laplace()}, "gaussian")
    assert str(error.value) == ("certificate.laplace_l1: holds for noise=laplace, this run has noise=gaussian; "
                                "set noise=laplace, or certificate=[neyman_pearson]")
