"""The verifier's part for expected softmax re-derives stored bounds, and finds scores that no run has left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from invoking import robust
from tampering import change_rows

WORDS = {"two": "selection_samples=50", "same": "selection_samples=0",
         "two_class": "certificate.pixeldp_softmax.bounds=two_class",
         "hoeffding": "certificate.pixeldp_softmax.interval=hoeffding"}


@pytest.fixture(scope="module")
def softmax_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place, found = tmp_path_factory.mktemp("verified"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        train = robust("train", "training.epochs=6", "training.batch_size=64", "training.learning_rate=0.003").folder
        for name, word in WORDS.items():
            found[name] = robust("certify", f"run={train}", "subset=first:8", "samples=500", "failure_probability=0.05",
                                 "certificate=pixeldp_softmax", word).folder.path
    return found


@pytest.fixture
def copied(softmax_runs: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(softmax_runs[name], tmp_path / name))


def read(path: Path) -> tuple[Any, Any]:
    from verify_files import Run
    from verify_scores import softmax_scores

    run = Run(path)
    run.scores = softmax_scores(path, run)
    return run, run.about["certificates"]["pixeldp_softmax"]


@pytest.mark.parametrize("name", WORDS)
def test_stored_bounds_are_those_that_the_scores_prove(softmax_runs: dict[str, Path], name: str) -> None:
    from verify_scores import softmax_answers, softmax_bounds

    run, own = read(softmax_runs[name])
    stored = pd.read_csv(softmax_runs[name] / "certificates.csv")
    p1, p2, chosen = softmax_bounds(run, own, stored["index"].tolist())
    np.testing.assert_allclose(stored["p1_lower"], p1, rtol=1e-6)
    np.testing.assert_allclose(stored["p2_upper"], p2, rtol=1e-6)
    assert (stored["p1_lower"] <= p1).all()  # they pay for rounding, which these do not
    assert (stored["p2_upper"] >= p2).all()
    assert stored["predicted"].tolist() == np.where(p1 > p2, chosen, -1).tolist()
    assert (stored["predicted"] >= 0).sum() >= 4
    for row in stored.itertuples():
        assert softmax_answers(run, own, row.index) == (row.majority, row.prediction)


def raised(row: dict[str, str]) -> None:
    """More for the first class than there are draws."""
    row["sum_0"] = repr(float(row["sum_0"]) + 1.0)


@pytest.mark.parametrize(("change", "said"), [
    (lambda rows: raised(rows[4]), "no sums of softmax"),
    (lambda rows: rows[4].update(square_3="-0.5"), "no sums of softmax"),
    (lambda rows: rows[4].update(sum_1="nan"), "no sums of softmax"),
    (lambda rows: rows.pop(4), "blocks are not those of votes.csv"),
    (lambda rows: rows.append(rows[4]), "a second time"),
    (lambda rows: rows[4].update(index="99999"), "are not those of votes.csv"),
    (lambda rows: rows.append({**rows[4], "index": "99999"}), "image 99999, which has no votes")])
def test_scores_that_no_run_leaves_are_found(copied: Callable[[str], Path], change: Any, said: str) -> None:
    from verify_bounds import Bad

    path = copied("two")
    change_rows(path / "scores.csv", change)
    with pytest.raises(Bad, match=said):
        read(path)


def test_scores_that_were_shifted_prove_other_bounds(copied: Callable[[str], Path]) -> None:
    """From the class to another, which no sum shows."""
    from verify_scores import softmax_bounds

    path = copied("two")
    run, own = read(path)
    before = softmax_bounds(run, own, [0])[0][0]
    chosen = int(run.scores[0][0].argmax())

    def shift(rows: list[dict[str, str]]) -> None:
        mine = next(row for row in rows if row["index"] == "0" and row["purpose"] == "estimation")
        for sign, k in ((-1.0, chosen), (1.0, (chosen + 1) % 10)):
            for what in ("sum", "square"):
                mine[f"{what}_{k}"] = repr(float(mine[f"{what}_{k}"]) + sign)

    change_rows(path / "scores.csv", shift)
    run, own = read(path)
    assert softmax_bounds(run, own, [0])[0][0] < before - 0.001


def test_what_makes_no_guarantee_is_not_verified() -> None:
    from verify_bounds import Bad
    from verify_scores import softmax_bounds

    own = {"bounds": "runner_up", "interval": "hoeffding", "multiplicity": "pair"}
    run = SimpleNamespace(name="fixed", selection=0, samples=10, alpha=0.05, classes=2, scores={})
    for change, plan in (({"interval": "clopper_pearson"}, "fixed"), ({"multiplicity": "classes"}, "fixed"),
                         ({"bounds": "two_class"}, "fixed"), ({}, "anytime")):
        run.name = plan
        with pytest.raises(Bad, match="no guarantee"):
            softmax_bounds(run, {**own, **change}, [])
