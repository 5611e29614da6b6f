"""The verifier's own bounds, radii and crossing probabilities against closed forms; it shares no code with the package."""

from __future__ import annotations

import ast
from pathlib import Path

import mpmath
import numpy as np
import pytest
import verify_bounds
from scipy.stats import beta, binom, norm

SCRIPTS = Path(verify_bounds.__file__).parent


def test_it_shares_no_code_with_the_package():
    for name in ("verify_certificates", "verify_files", "verify_bounds", "verify_layer", "verify_scores"):
        tree = ast.parse((SCRIPTS / f"{name}.py").read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {name.split(".")[0] for name in names} <= {
            "__future__", "csv", "json", "sys", "pathlib", "numpy", "scipy", "mpmath", "verify_bounds", "verify_files",
            "verify_layer", "verify_scores"}


def test_its_clopper_pearson_bound_is_the_beta_quantile():
    k, n, alpha = np.array([1, 50, 99, 100, 0]), 100, 0.01
    p, q = verify_bounds.clopper_pearson(k, n, alpha)
    assert p[:-1] == pytest.approx(beta.ppf(alpha, k[:-1], n - k[:-1] + 1), rel=1e-12)
    assert (p[-1], q[-1]) == (0, 1)
    million = verify_bounds.clopper_pearson(10**6, 10**6, 0.001)[1]
    assert float(million) == pytest.approx(float(-mpmath.expm1(mpmath.log(0.001) / 10**6)), rel=1e-12)


def test_its_radii_have_their_closed_forms():
    p1 = np.array([0.6, 0.9, 0.999])
    q1 = 1 - p1
    assert verify_bounds.radius("neyman_pearson", "l2", 1, p1, q1, q1, 2.0) == pytest.approx(2 * norm.ppf(p1), rel=1e-12)
    assert verify_bounds.radius("neyman_pearson", "linf", 100, p1, q1, q1, 2.0) == pytest.approx(0.2 * norm.ppf(p1), rel=1e-12)
    assert verify_bounds.radius("laplace", "l1", 1, p1, q1, q1, np.sqrt(2)) == pytest.approx(-np.log(2 * q1), rel=1e-12)
    assert verify_bounds.radius("uniform", "l1", 1, p1, q1, q1, 1 / np.sqrt(3)) == pytest.approx(2 * p1 - 1, rel=1e-12)
    # Reference values of the Renyi and PixelDP radii at noise_std 1, p = (0.9, 0.1).
    assert verify_bounds.radius("renyi", "l2", 1, p1, q1, q1, 1.0)[1] == pytest.approx(1.03193, rel=1e-5)
    assert verify_bounds.radius("pixeldp", "l2", 1, p1, q1, q1, 1.0)[1] == pytest.approx(0.390267, rel=1e-5)


def test_its_crossing_probability_is_that_of_all_paths():
    looks, most, p = (2, 4, 7), (-1, 0, 2), 0.7
    total = 0.0
    for path in range(2 ** 7):
        misses = [path >> k & 1 for k in range(7)]
        if any(sum(misses[:n]) <= m for n, m in zip(looks, most, strict=True)):
            total += np.prod([1 - p if miss else p for miss in misses])
    assert verify_bounds.crossing(p, looks, most) == pytest.approx(total, rel=1e-12)
    assert verify_bounds.crossing(0.9, (10**5,), (9900,)) == pytest.approx(binom.cdf(9900, 10**5, 0.1), rel=1e-9)
