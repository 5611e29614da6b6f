from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
from scipy.special import gammaln, xlogy
from scipy.stats import binomtest

from robust_cli.messages import UserError, Wrong
from robust_cli.smoothing.plans.prediction import predicted_class


def outcomes(draws: int) -> np.ndarray:
    """All votes of three classes."""
    return np.array([(a, b, draws - a - b) for a in range(draws + 1) for b in range(draws + 1 - a)])


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("draws", [1, 7, 20, 64])
def test_it_is_the_two_sided_binomial_test_of_the_top_two(draws: int, alpha: float) -> None:
    votes = outcomes(draws)
    found = predicted_class(votes, alpha, draws)
    for counts, answer in zip(votes, found, strict=True):
        second, first = np.sort(counts)[-2:]
        stands = binomtest(int(first), int(first + second), 0.5).pvalue <= alpha
        assert answer == (np.argmax(counts) if stands else -1), counts


def test_ties_abstain_even_where_nearly_anything_is_allowed() -> None:
    votes = np.array([[5, 5, 0], [2, 3, 5], [0, 0, 10], [4, 4, 2]])
    assert predicted_class(votes, 0.999999, 10).tolist() == [-1, 2, 2, -1]


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("p", [
    (0.3334, 0.3333, 0.3333), (0.501, 0.499, 0.0), (0.4, 0.39, 0.21), (0.99, 0.01, 0.0), (0.51, 0.245, 0.245)])
def test_how_often_it_answers_a_class_that_is_not_the_most_probable(p: tuple[float, ...], alpha: float) -> None:
    """Summed over all votes of 60 draws. The class with most votes, without the test, is wrong far more often."""
    votes = outcomes(60)
    weights = np.exp(gammaln(61.0) + (xlogy(votes, np.array(p)) - gammaln(votes + 1.0)).sum(axis=1))
    found = predicted_class(votes, alpha, 60)
    assert weights[found > 0].sum() <= alpha
    if p[0] - p[1] < 0.02:
        assert weights[votes.argmax(1) > 0].sum() > 0.4
        assert weights[found > 0].sum() > 1e-3 * alpha


@pytest.mark.parametrize("draws", [100, 10**5, 10**7])
@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-6])
def test_the_answer_begins_where_the_exact_p_value_is_small_enough(draws: int, alpha: float) -> None:
    first = np.arange(draws // 2, min(draws, draws // 2 + 4 * int(draws**0.5)) + 1)
    found = predicted_class(np.stack([first, draws - first], axis=1), alpha, draws)
    least = int(first[found == 0][0])
    assert (found[first >= least] == 0).all()
    with mp.workdps(30):
        def p_value(count: int) -> mp.mpf:
            """Terms of the tail by their ratio, until they no longer count."""
            term = mp.binomial(draws, count) / mp.mpf(2) ** draws
            total = term
            for k in range(count, draws):
                term *= mp.mpf(draws - k) / (k + 1)
                total += term
                if term < total * mp.mpf("1e-16"):
                    break
            return 2 * total

        assert p_value(least) <= alpha < p_value(least - 1)


def test_votes_of_another_number_are_refused() -> None:
    for votes in ([[90, 9]], [[90, 11]], [[101, -1]]):
        with pytest.raises(UserError, match="100 noisy votes for each image, as fixed before the first draw"):
            predicted_class(np.array(votes), 0.05, draws=100)
    with pytest.raises(Wrong, match="failure_probability"):
        predicted_class(np.array([[90, 10]]), 0.0, draws=100)
    assert predicted_class(np.zeros((0, 3), dtype=np.int64), 0.05, draws=100).shape == (0,)
