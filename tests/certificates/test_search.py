from __future__ import annotations

import numpy as np

from robust_cli.certificates.search import maximise


def test_inside_and_at_the_ends() -> None:
    top = np.array([-1.0, 0.0, 0.3, 1.7, 2.0, 5.0])
    place, value = maximise(lambda x: -((x - top) ** 2), np.zeros(6), np.full(6, 2.0))
    np.testing.assert_allclose(place, np.clip(top, 0.0, 2.0), atol=1e-6)
    np.testing.assert_allclose(value, -((place - top) ** 2), atol=1e-15)
    assert place[0] == 0.0
    assert place[-1] == 2.0


def test_the_value_is_one_that_was_met() -> None:
    """A jagged function: whatever is returned was taken there, and no grid point is better."""
    place, value = maximise(lambda x: np.sin(40.0 * x), np.zeros(3), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(value, np.sin(40.0 * place))
    assert (value > 0.9).all()
