"""The whole procedure, class and bounds and radius, on votes of known probabilities: how often is a certificate false?

A certificate is false if its radius is above the true one. For given probabilities the worst classifier is that of two
half-spaces, which changes class exactly at 1/2 (Phi^-1(p of the class) - Phi^-1(p of the next)); a class that is not the
single most likely one has no true radius. Each check is also run on procedures with a known mistake, and must catch them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import gammaln, ndtri, xlogy

from robust_cli.certificates import confidence, pixeldp, renyi
from robust_cli.certificates.neyman_pearson import NeymanPearson, radius
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import Votes

Procedure = Callable[[Votes, float], tuple[np.ndarray, np.ndarray]]  # votes, failure probability -> class, radius
ALPHA, RUNS, SELECTION = 0.05, 20_000, 100
EPSILON = 1e-12


def plan_of(votes: Votes) -> Fixed:
    return Fixed(int(votes.estimation[0].sum()), 0 if votes.selection is None else int(votes.selection[0].sum()))


def certify(kind: str, multiplicity: str = "pair") -> Procedure:
    certificate = NeymanPearson(bounds=kind, multiplicity=multiplicity)

    def procedure(votes: Votes, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        found = plan_of(votes).bounds(votes, alpha, kind, multiplicity=multiplicity)
        return found.predicted, certificate(found.p1_lower, found.p2_upper, 1.0)

    return procedure


def true_radii(p: np.ndarray) -> np.ndarray:
    """Of each class, exact up to a relative 1e-12 upwards (so that rounding makes no false certificate)."""
    radii = np.zeros(len(p))
    order = np.argsort(p)
    first, second = order[-1], order[-2]
    if p[first] - p[second] > EPSILON:
        with np.errstate(divide="ignore"):
            radii[first] = (ndtri(p[first]) - ndtri(p[second])) / 2.0 * (1.0 + EPSILON)
    return radii


def thresholds(samples: int, alpha: float) -> list[tuple[float, ...]]:
    """Two classes just inside a bound of the procedure: there a Clopper-Pearson bound fails with exactly alpha."""
    hits = np.array([round(0.55 * samples), round(0.8 * samples), round(0.95 * samples), samples - 1, samples])
    found = [float(p) * (1 - 1e-9) for share in (1, 2) for p in confidence.lower(hits, samples, alpha / share)]
    return [(p, 1.0 - p) for p in found]


def hard_cases(samples: int, alpha: float) -> list[tuple[float, ...]]:
    """Ties and near-ties of 2 to 10 classes, near certainty, and thresholds."""
    ties = [(1.0 / k,) * k for k in (2, 3, 4, 5, 7, 10)]
    near = [(0.501, 0.499), (0.5, 0.499, 0.001), (0.45, 0.449) + (0.101 / 8,) * 8, (0.335, 0.333, 0.332),
            (0.11,) + (0.89 / 9,) * 9]
    shared = [(0.5, 0.25, 0.25), (0.5, 0.25, 0.22, 0.03), (0.4, 0.3, 0.3), (0.6, 0.2, 0.2), (0.8, 0.1, 0.1), (0.5, 0.5, 0.0)]
    certain = [(0.99, 0.01), (0.99, 0.005, 0.005), (0.999, 0.001), (1 - 1e-5, 1e-5)]
    return ties + near + shared + certain + thresholds(samples, alpha)


def draw(p: tuple[float, ...], samples: int, selection: int, seed: int, runs: int = RUNS) -> Votes:
    rng = np.random.default_rng([seed, samples, selection])
    probabilities = np.array(p) / np.sum(p)
    return Votes(rng.multinomial(samples, probabilities, size=runs),
                 rng.multinomial(selection, probabilities, size=runs) if selection else None)


def false_share(procedure: Procedure, votes: Votes, p: tuple[float, ...], alpha: float) -> np.ndarray:
    predicted, radii = procedure(votes, alpha)
    return (predicted >= 0) & (radii > true_radii(np.array(p))[predicted])


def too_often(procedure: Procedure, samples: int, selection: int, cases: list[tuple[float, ...]] | None = None) -> list[str]:
    """The cases in which the 99.9 % lower confidence bound of the share of false certificates is above ALPHA."""
    found = []
    for seed, p in enumerate(hard_cases(samples, ALPHA) if cases is None else cases):
        wrong = int(false_share(procedure, draw(p, samples, selection, seed), p, ALPHA).sum())
        if confidence.lower(wrong, RUNS, 0.001) > ALPHA:
            found.append(f"{p[:4]}: {wrong / RUNS:.4f}")
    return found


@pytest.mark.parametrize("samples", [100, 1000])
@pytest.mark.parametrize(("kind", "multiplicity", "selection"), [
    ("two_class", "pair", SELECTION), ("two_class", "pair", 1), ("runner_up", "pair", SELECTION), ("runner_up", "pair", 0),
    ("runner_up", "classes", 0)])
def test_no_more_false_certificates_than_allowed(kind: str, multiplicity: str, selection: int, samples: int) -> None:
    assert too_often(certify(kind, multiplicity), samples, selection) == []


def test_the_check_has_power_because_the_procedure_uses_what_it_is_allowed() -> None:
    """At a threshold the two-class procedure fails in 5 % of runs, so any mistake shows."""
    p = thresholds(1000, ALPHA)[1]
    assert false_share(certify("two_class"), draw(p, 1000, SELECTION, 0), p, ALPHA).mean() == pytest.approx(ALPHA, abs=0.006)


def rivals(counts: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    others = counts.copy()
    np.put_along_axis(others, predicted[:, None], -1, axis=1)
    return others


def of(counts: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.take_along_axis(counts, chosen[:, None], axis=1)[:, 0]


def safe(p1: np.ndarray, p2: np.ndarray) -> np.ndarray:
    """The plain formula, infinite where a mistaken bound is 0 or 1."""
    with np.errstate(divide="ignore"):
        return np.where(p1 > p2, (ndtri(p1) - ndtri(p2)) / 2.0, 0.0)


def plug_in(votes: Votes, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Mistake: frequencies in place of bounds."""
    predicted, n = votes.estimation.argmax(1), plan_of(votes).samples
    return predicted, safe(of(votes.estimation, predicted) / n, rivals(votes.estimation, predicted).max(1) / n)


def wald(votes: Votes, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Mistake: the normal approximation in place of the exact bound."""
    assert votes.selection is not None
    predicted, n = votes.selection.argmax(1), plan_of(votes).samples
    share = of(votes.estimation, predicted) / n
    p1 = share + ndtri(alpha) * np.sqrt(share * (1.0 - share) / n)
    return predicted, safe(p1, 1.0 - p1)


def full_on_the_same_votes(votes: Votes, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Mistake: class and two-class bound at the full failure probability from the same votes."""
    predicted = votes.estimation.argmax(1)
    p1 = confidence.lower(of(votes.estimation, predicted), plan_of(votes).samples, alpha)
    return predicted, safe(p1, 1.0 - p1)


def runner_up_fixed_beforehand(votes: Votes, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Mistake: only the class that comes second in the selection votes is bounded from above."""
    assert votes.selection is not None
    predicted, n = votes.selection.argmax(1), plan_of(votes).samples
    second = rivals(votes.selection, predicted).argmax(1)
    p1 = confidence.lower(of(votes.estimation, predicted), n, alpha / 2)
    return predicted, safe(p1, np.minimum(confidence.upper(of(votes.estimation, second), n, alpha / 2), 1.0 - p1))


def sison_glaz(votes: Votes, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Mistake: asymptotic intervals under the tight radius."""
    found = plan_of(votes).bounds(votes, alpha, "runner_up", "sison_glaz")
    return found.predicted, safe(found.p1_lower, found.p2_upper)


def selection_reused(votes: Votes, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Mistake: the votes that chose the class count once more in its bound."""
    assert votes.selection is not None
    predicted, together = votes.selection.argmax(1), votes.estimation + votes.selection
    p1 = confidence.lower(of(together, predicted), int(together[0].sum()), alpha)
    return predicted, safe(p1, 1.0 - p1)


def inflated(votes: Votes, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Mistake: every radius is 30 % too large."""
    predicted, radii = certify("two_class")(votes, alpha)
    return predicted, 1.3 * radii


def same_votes_one_bound_for_each(votes: Votes, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Mistake: both bounds at the full failure probability."""
    predicted, n = votes.estimation.argmax(1), plan_of(votes).samples
    p1 = confidence.lower(of(votes.estimation, predicted), n, alpha)
    return predicted, safe(p1, np.minimum(confidence.upper(rivals(votes.estimation, predicted).max(1), n, alpha), 1.0 - p1))


BESIDE_A_NEAR_RUNNER_UP = (0.5, 0.25, 0.22, 0.03)


@pytest.mark.parametrize(("mistake", "samples", "selection", "cases"), [
    (plug_in, 1000, 0, [(0.6, 0.2, 0.2), (0.99, 0.01)]), (full_on_the_same_votes, 100, 0, [(0.5, 0.5)]),
    (wald, 1000, SELECTION, [(0.99, 0.01)]),
    (sison_glaz, 100, 0, [(0.99, 0.01)]), (selection_reused, 100, SELECTION, [(0.5, 0.5)]),
    (inflated, 1000, SELECTION, thresholds(1000, ALPHA)), (same_votes_one_bound_for_each, 100, 0, [(0.5, 0.5)]),
    (runner_up_fixed_beforehand, 10_000, SELECTION, [BESIDE_A_NEAR_RUNNER_UP])],
    ids=lambda value: getattr(value, "__name__", None))
def test_mistakes_are_caught(mistake: Procedure, samples: int, selection: int, cases: list[tuple[float, ...]]) -> None:
    """In the cases, among those that the right procedure passes, where each shows most."""
    assert set(cases) <= set(hard_cases(samples, ALPHA))
    assert too_often(mistake, samples, selection, cases)


def test_the_right_procedure_passes_where_the_fixed_runner_up_is_caught() -> None:
    assert too_often(certify("runner_up"), 10_000, SELECTION, [BESIDE_A_NEAR_RUNNER_UP]) == []


def test_how_often_sison_glaz_fails_under_the_tight_radius() -> None:
    """37 % at p1 = 0.99 and 100 draws, where 5 % are allowed: with 100 of 100 hits the radius is infinite."""
    share = false_share(sison_glaz, draw((0.99, 0.01), 100, 0, 0), (0.99, 0.01), ALPHA).mean()
    assert share == pytest.approx(0.37, abs=0.02)


@pytest.mark.parametrize("formula", [renyi.radius, pixeldp.radius])
def test_looser_certificates_do_not_pass_their_own_exact_radius_too_often(formula: Callable[..., np.ndarray]) -> None:
    """Against the formula at the true probabilities: what the bounds fail by is not hidden by the certificate's looseness."""
    for samples in (100, 1000):
        for seed, p in enumerate(hard_cases(samples, ALPHA)):
            first, second = sorted(p)[-1:-3:-1]
            exact = formula(first, second, 1.0) * (1 + 1e-9) if first - second > EPSILON else 0.0
            votes = draw(p, samples, 0, seed, runs=4000)
            found = plan_of(votes).bounds(votes, ALPHA, "runner_up")
            true = np.where(found.predicted == int(np.argmax(p)), exact, 0.0)
            wrong = (formula(found.p1_lower, found.p2_upper, 1.0) > true).sum()
            assert confidence.lower(int(wrong), 4000, 0.001) <= ALPHA, (p, wrong)


def outcomes(samples: int, classes: int) -> np.ndarray:
    """All vote vectors of so many draws."""
    if classes == 1:
        return np.array([[samples]])
    return np.concatenate([np.insert(outcomes(samples - first, classes - 1), 0, first, axis=1) for first in range(samples + 1)])


def exact_error(procedure: Procedure, table: Votes, p: tuple[float, ...], alpha: float) -> float:
    """The probability of a false certificate, summed over all vote vectors."""
    counts = table.estimation
    weights = np.exp(gammaln(counts[0].sum() + 1.0) + (xlogy(counts, np.array(p)) - gammaln(counts + 1.0)).sum(axis=1))
    assert weights.sum() == pytest.approx(1.0, abs=1e-9)
    return float(weights[false_share(procedure, table, p, alpha)].sum())


def cases_of(samples: int, classes: int, alpha: float) -> list[tuple[float, ...]]:
    return [p + (0.0,) * (classes - len(p)) for p in hard_cases(samples, alpha) if len(p) <= classes]


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize(("samples", "classes"), [(100, 2), (1000, 2), (60, 3), (20, 4)])
def test_exact_error_of_the_single_sample_form(samples: int, classes: int, alpha: float) -> None:
    """Its worst case is a tie of two classes, where it is the two-sided Clopper-Pearson test of 1/2."""
    table = Votes(outcomes(samples, classes))
    for p in cases_of(samples, classes, alpha):
        assert exact_error(certify("runner_up"), table, p, alpha) <= alpha, p


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize(("samples", "classes"), [(100, 2), (1000, 2), (60, 3)])
def test_exact_error_whatever_class_was_selected(samples: int, classes: int, alpha: float) -> None:
    """With votes of its own for the class, the error is at most alpha given the class, so for any way of choosing it."""
    counts = outcomes(samples, classes)
    for chosen in range(classes):
        table = Votes(counts, np.tile(np.eye(classes, dtype=np.int64)[chosen], (len(counts), 1)))
        for kind in ("two_class", "runner_up"):
            for p in cases_of(samples, classes, alpha):
                assert exact_error(certify(kind), table, p, alpha) <= alpha * (1 + 1e-9), (kind, chosen, p)


def test_exact_error_finds_the_mistakes_too() -> None:
    table = Votes(outcomes(100, 2))
    assert exact_error(full_on_the_same_votes, table, (0.5, 0.5), ALPHA) == pytest.approx(0.0886, abs=1e-3)
    for mistake in (plug_in, full_on_the_same_votes, sison_glaz):
        assert max(exact_error(mistake, table, p, 0.001) for p in cases_of(100, 2, 0.001)) > 0.001


def test_the_formula_of_the_mistakes_is_the_certificates() -> None:
    p1, p2 = np.array([0.6, 0.9, 0.3]), np.array([0.3, 0.05, 0.4])
    np.testing.assert_allclose(safe(p1, p2), radius(p1, p2, 1.0), rtol=1e-12)
