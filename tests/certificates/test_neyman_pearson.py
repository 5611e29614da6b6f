from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest

from robust_cli.certificates import neyman_pearson
from robust_cli.messages import Wrong


def quantile(p: float) -> mp.mpf:
    return mp.sqrt(2) * mp.erfinv(2 * mp.mpf(p) - 1)


@pytest.mark.parametrize(("p1", "p2"), [
    (0.5 + 1e-9, 0.5 - 1e-9), (0.5, np.nextafter(0.5, 0)), (np.nextafter(0.5, 1), 0.5), (0.3, np.nextafter(0.3, 0)),
    (0.2, 0.2 - 1e-12), (0.6, 0.25), (0.9, 0.1), (0.9, 1e-12), (1e-5, 1e-7), (1e-5, 1e-5 * (1 - 1e-10)), (1.0 - 1e-6, 1e-6),
    (1.0 - 1e-12, 1e-12), (1.0 - 1e-12, 1e-15), (np.nextafter(1.0, 0.0), 1e-17)])
def test_radii_are_rounded_down_finite_and_nearly_exact(p1: float, p2: float) -> None:
    with mp.workdps(60):
        exact = (quantile(p1) - quantile(min(p2, 1.0 - p1))) / 2
        found = mp.mpf(float(neyman_pearson.radius(p1, p2, 1.0)))
        assert mp.isfinite(found)
        assert found <= exact
        assert found > exact * (1 - mp.mpf("1e-11")) - mp.mpf("1e-14")
        assert found > exact * mp.mpf("0.999")  # also where the two bounds are the closest doubles


def test_two_class_bounds_give_the_quantile() -> None:
    p1 = np.array([0.6, 0.9, 0.999, 1 - 1e-9])
    np.testing.assert_allclose(neyman_pearson.radius(p1, 1 - p1, 0.5), [0.5 * float(quantile(p)) for p in p1], rtol=1e-12)


def test_guard_and_clamp() -> None:
    assert neyman_pearson.radius([0.4, 0.5, 0.3], [0.6, 0.5, 0.9], 1.0).tolist() == [0.0, 0.0, 0.0]
    assert neyman_pearson.radius(0.9, 0.3, 1.0) == neyman_pearson.radius(0.9, 1 - 0.9, 1.0)


def test_settings() -> None:
    with pytest.raises(Wrong, match="12 to 37"):
        neyman_pearson.NeymanPearson(bounds="runner_up", interval="sison_glaz")
    with pytest.raises(Wrong, match="bounds"):
        neyman_pearson.NeymanPearson(bounds="both")
    assert neyman_pearson.NeymanPearson().bounds == "two_class"
