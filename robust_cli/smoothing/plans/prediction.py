"""The class that a smoothed classifier answers, by a test on its votes: PREDICT of Cohen et al. 2019, section 3.2.1.

Legend: n -> draws; n_A, n_B -> the two largest counts; alpha -> failure_probability.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betainc

from robust_cli.messages import check
from robust_cli.smoothing.plans.plan import Counts, check_votes

ABSTAIN = -1
MARGIN = 1e-10
"""Relative rounding up of a p-value: above its numerical error, held by a test."""


def predicted_class(votes: Counts, failure_probability: float, draws: int) -> Counts:
    """The class with most votes where the two-sided binomial test at 1/2 of the two largest counts allows it, else -1.

    ``votes``: int64 [N, K]; the result int64 [N]. The p-value of counts a >= b is min(1, 2 P(X >= a)) for X of the binomial
    distribution with a + b trials at 1/2, exact; the class stands if it is <= failure_probability, so a tie abstains
    always. With probability at least 1 - failure_probability over its draws, an image's answer is a most probable class of
    the classifier under noise, or -1 (Cohen et al. 2019, Proposition 2; the test that allows for choosing the top two from
    the same votes is Hung and Fithian's, 2019). It says nothing of a radius.

    ``draws`` is the number fixed before the first draw: the test does not hold for votes that were stopped or prolonged on
    their own evidence, so votes of any other number are refused (UserError); a plan that stops early has its selection
    votes for this. Raises Wrong for failure probabilities outside (0, 1).

    >>> predicted_class(np.array([[90, 8, 2], [52, 48, 0]]), 0.001, draws=100)
    array([ 0, -1])
    """
    check(0.0 < failure_probability < 1.0, "failure_probability", "a number in (0, 1)", failure_probability)
    check_votes(votes, draws, "noisy")
    second, first = np.sort(votes, axis=1)[:, -2:].T.astype(np.float64)
    p_value = 2.0 * betainc(np.maximum(first, 1.0), second + 1.0, 0.5) * (1.0 + MARGIN)  # above 1 on a tie
    return np.where(p_value <= failure_probability, np.argmax(votes, axis=1), ABSTAIN)
