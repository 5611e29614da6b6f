"""PixelDP's own form beside the votes, from the same draws: whole runs, killed runs, parts, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from invoking import Answer, robust
from test_killed import killed_when, start
from test_shards import torchrun

from robust_cli.certificates import expectations
from robust_cli.certificates.pixeldp import PixelDP, radius
from robust_cli.commands import scoring
from robust_cli.runs.folder import RunFolder
from robust_cli.smoothing.plans.plan import Bounds, Scores, Votes

WORDS = ("noise_std=0.5", "samples=700", "selection_samples=100", "subset=every:40", "failure_probability=0.01")
BOTH = "certificate=[pixeldp,pixeldp_softmax]"
RESULTS = ("votes.csv", "scores.csv", "certificates.csv", "plan.json", "about.json", "certified_accuracy.csv")


@pytest.fixture(scope="module")
def place(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of both certificates."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("softmax")
        patch.chdir(root)
        answer = robust("certify", f"run={trained}", *WORDS, BOTH, "hydra.run.dir=whole")
        assert answer.code == 0, answer.err
        return root


@pytest.fixture
def whole(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """That run, looked at from an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return RunFolder(place / "whole")


def same_results(one: Path, other: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def rows(folder: RunFolder, certificate: str) -> pd.DataFrame:
    table = pd.read_csv(folder.certificates)
    return table[table["certificate"] == certificate].reset_index(drop=True)


def sums(folder: RunFolder, purpose: str, what: str) -> pd.DataFrame:
    """Over all blocks of a purpose, by image in the order of the file."""
    table = pd.read_csv(folder.scores)
    table = table[table["purpose"] == purpose]
    return table.groupby("index", sort=False)[[name for name in table if name.startswith(f"{what}_")]].sum()


def refused(answer: Answer) -> str:
    assert answer.code == 2
    assert answer.err.count("\n") == 1, answer.err
    assert not any((folder.path / "certificates.csv").exists() for folder in answer.folders)
    return answer.err


def test_radii_are_those_of_the_bounds_of_the_stored_scores(whole: RunFolder) -> None:
    found, total, squares = rows(whole, "pixeldp_softmax"), sums(whole, "estimation", "sum"), sums(whole, "estimation", "square")
    assert found["index"].tolist() == total.index.tolist()
    chosen = sums(whole, "selection", "sum").to_numpy().argmax(1)
    n, at = 700, np.arange(len(found))
    low = expectations.lower(total.to_numpy()[at, chosen], squares.to_numpy()[at, chosen], n, 0.005, "empirical_bernstein")
    high = expectations.upper(total, squares, n, 0.005, "empirical_bernstein")
    high[at, chosen] = 0.0
    high = np.minimum(high.max(1), 1.0 - low)
    np.testing.assert_allclose(found["p1_lower"], low, rtol=1e-12)
    np.testing.assert_allclose(found["p2_upper"], high, rtol=1e-12)
    assert found["predicted"].tolist() == np.where(low > high, chosen, -1).tolist()
    np.testing.assert_allclose(found["radius"], np.where(low > high, radius(low, np.minimum(high, 1 - low), 0.5), 0.0), rtol=1e-9)
    assert (found["radius"] > 0.05).mean() > 0.8
    assert found["majority"].tolist() == total.to_numpy().argmax(1).tolist()
    assert set(found["norm"]) == {"l2"}
    assert set(found["bounds"]) == {"runner_up"}
    assert set(found["stopped"]) == {"complete"}


def test_it_is_said_what_the_probabilities_are_of(whole: RunFolder) -> None:
    about = whole.read_about()["certificates"]
    assert about["pixeldp_softmax"]["scores"] == "softmax"
    assert about["pixeldp_softmax"]["interval"] == "empirical_bernstein"
    assert "largest expected softmax under noise (empirical Bernstein, Maurer and Pontil" in about["pixeldp_softmax"]["statement"]
    assert "Clopper-Pearson" in about["pixeldp"]["statement"]
    assert rows(whole, "pixeldp_softmax")["radius"].max() <= about["pixeldp_softmax"]["largest_radius"]
    assert about["pixeldp_softmax"]["largest_radius"] < about["pixeldp"]["largest_radius"]


def test_the_answer_of_a_row_is_that_of_what_it_certifies() -> None:
    """Most draws name the first class, barely; the second has the larger mean."""
    votes = Votes(np.array([[60, 40]]), scores=Scores(np.array([[36.0, 64.0]]), np.array([[22.0, 45.0]])))
    of_votes = {"majority": np.array([0]), "prediction": np.array([0])}
    found = Bounds(np.array([1]), np.array([0.6]), np.array([0.4]), "")
    soft = scoring.answers(PixelDP(scores="softmax", interval="hoeffding"), found, votes, of_votes)
    assert (soft["majority"].tolist(), soft["prediction"].tolist()) == ([1], [1])
    assert scoring.answers(PixelDP(), found, votes, of_votes) == of_votes


def test_asking_for_scores_changes_nothing_of_the_votes(whole: RunFolder, trained: RunFolder) -> None:
    plain = robust("certify", f"run={trained}", *WORDS, "certificate=[pixeldp]").folder
    assert not plain.scores.exists()
    assert plain.votes.read_bytes() == whole.votes.read_bytes()
    assert plain.plan.read_bytes() == whole.plan.read_bytes()
    pd.testing.assert_frame_equal(rows(plain, "pixeldp"), rows(whole, "pixeldp"))
    assert plain.read_about()["certificates"]["pixeldp"] == whole.read_about()["certificates"]["pixeldp"]


def test_every_block_of_votes_has_its_scores(whole: RunFolder) -> None:
    votes, scores = (pd.read_csv(path) for path in (whole.votes, whole.scores))
    pd.testing.assert_frame_equal(votes.iloc[:, :4], scores.iloc[:, :4])
    np.testing.assert_allclose(scores.filter(like="sum_").sum(axis=1), scores["draws"], rtol=1e-12)


def test_the_same_draws_may_choose_and_bound_and_hoeffding_may_be_asked_for(workplace: Path, trained: RunFolder) -> None:
    found = {}
    for interval in ("hoeffding", "empirical_bernstein"):
        run = robust("certify", f"run={trained}", *WORDS[:2], "subset=every:40", "selection_samples=0", BOTH,
                     f"certificate.pixeldp_softmax.interval={interval}").folder
        found[interval] = rows(run, "pixeldp_softmax")
        assert "quarter for each upper bound" in run.read_about()["certificates"]["pixeldp_softmax"]["statement"]
        assert (found[interval]["majority"] == found[interval]["predicted"])[found[interval]["predicted"] >= 0].all()
    assert (found["hoeffding"]["p1_lower"] != found["empirical_bernstein"]["p1_lower"]).all()


def test_the_report_shows_both_as_curves_that_compare(whole: RunFolder) -> None:
    answer = robust("report", str(whole))
    assert answer.code == 0, answer.err
    table = pd.read_csv(next(Path("outputs").glob("*/*_report*/provable_radii.csv")))
    assert table["certificate"].tolist() == ["pixeldp", "pixeldp_softmax"]
    assert table["interval"].tolist() == ["clopper_pearson", "empirical_bernstein"]
    curve = pd.read_csv(next(Path("outputs").glob("*/*_report*/certified_accuracy.csv")))
    assert curve["comparable"].all()
    assert set(curve["line"]) == {"pixeldp", "expected softmax, pixeldp_softmax"}


def test_any_gaussian_certificate_may_be_of_expected_softmax(workplace: Path, trained: RunFolder) -> None:
    run = robust("certify", f"run={trained}", *WORDS, "certificate=[neyman_pearson,pixeldp_softmax]",
                 "certificate.neyman_pearson.scores=softmax", "certificate.neyman_pearson.bounds=runner_up",
                 "certificate.neyman_pearson.interval=empirical_bernstein").folder
    tight, loose = rows(run, "neyman_pearson"), rows(run, "pixeldp_softmax")
    assert tight["p1_lower"].tolist() == loose["p1_lower"].tolist()
    assert (tight["radius"] > loose["radius"])[tight["predicted"] >= 0].all()


# ---- stopped, split, shared ---------------------------------------------------------------------------------------------------
def cut(whole: RunFolder, to: Path, votes: int, scores: int, torn: str = "") -> RunFolder:
    """The run as a kill would leave it after so many blocks: rows of votes and of scores, and the beginning of one row more."""
    left = RunFolder(shutil.copytree(whole.path, to))
    for path, number in ((left.votes, votes), (left.scores, scores)):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[: 1 + number]) + (torn if path == left.scores else ""))
    for name in RESULTS[2:]:
        if name != "plan.json":
            (left.path / name).unlink()
    left.set_state("running", "certify")
    return left


@pytest.mark.parametrize(("votes", "scores", "torn"), [(0, 0, ""), (0, 1, ""), (17, 17, ""), (17, 18, ""), (17, 17, "280,est"),
                                                       (17, 18, "0,estimation,3,64,0.25"), (100, 100, ""), (108, 108, "")])
def test_a_run_stopped_between_any_two_rows_ends_as_if_it_had_not_been(whole: RunFolder, votes: int, scores: int,
                                                                       torn: str) -> None:
    left = cut(whole, Path("left"), votes, scores, torn)
    answer = robust("certify", "resume=left")
    assert answer.code == 0, answer.err
    same_results(left.path, whole.path)


def test_scores_missing_for_counted_votes_are_said_before_any_draw(whole: RunFolder) -> None:
    cut(whole, Path("left"), 18, 17)
    assert "expected the scores of every block of votes, found none of image" in refused(robust("certify", "resume=left"))


def test_a_kill_in_the_middle_loses_nothing(workplace: Path, trained: RunFolder) -> None:
    words = ("certify", f"run={trained}", WORDS[0], "samples=4000", "subset=every:20", BOTH)
    assert robust(*words, "hydra.run.dir=reference").code == 0
    killed = RunFolder(workplace / "killed")
    killed_when(start(killed.path, *words), killed.scores, 60)
    assert not killed.certificates.exists()
    assert len(killed.votes.read_text().splitlines()) < len(Path("reference/votes.csv").read_text().splitlines())
    assert robust("certify", "resume=killed").code == 0
    same_results(killed.path, Path("reference"))


def test_shards_merge_into_the_very_run_of_one_process(whole: RunFolder, trained: RunFolder) -> None:
    for k in (1, 2, 3):
        assert robust("certify", f"run={trained}", *WORDS, BOTH, f"shard={k}/3", f"hydra.run.dir=part{k}").code == 0
    assert robust("merge", "part3", "part1", "part2", "--output", "merged").code == 0
    same_results(Path("merged"), whole.path)
    Path("part2/scores.csv").unlink()
    answer = robust("merge", "part3", "part1", "part2", "--output", "lacking")
    assert answer.code == 2
    assert "part2/scores.csv: expected the softmax scores of this part" in answer.err


def test_several_processes_are_refused(trained: RunFolder, tmp_path: Path) -> None:
    done = torchrun(tmp_path, 2, "certify", f"run={trained.path.resolve()}", *WORDS, BOTH, "hydra.run.dir=shared")
    assert done.returncode != 0
    assert "certificate.pixeldp_softmax: expected one process, which alone keeps softmax scores, found 2" in done.stderr
    assert not (tmp_path / "shared" / "certificates.csv").exists()


@pytest.mark.parametrize(("words", "said"), [
    (("sampling=anytime",), "scores: expected votes with sampling=anytime, got softmax"),
    (("sampling=sequential", "certificate.pixeldp_softmax.bounds=two_class"), "expected votes with sampling=sequential"),
    (("certificate.pixeldp_softmax.interval=clopper_pearson",), "expected hoeffding or empirical_bernstein with scores=softmax"),
    (("certificate.pixeldp_softmax.multiplicity=classes",), "multiplicity: expected pair with scores=softmax"),
    (("certificate.pixeldp_softmax.scores=votes",), "interval: expected clopper_pearson or sison_glaz")])
def test_what_does_not_go_together_is_one_line(workplace: Path, trained: RunFolder, words: tuple[str, ...], said: str) -> None:
    few = ("subset=first:2", "samples=200", "certificate=pixeldp_softmax")
    assert said in refused(robust("certify", f"run={trained}", *few, *words))


def test_the_scores_of_a_changed_model_are_not_gone_on_with(whole: RunFolder) -> None:
    left = cut(whole, Path("left"), 17, 17)
    plan = json.loads(left.plan.read_text())
    plan["samples"] = 600
    left.plan.write_text(json.dumps(plan))
    assert "expected the sampling plan that this run began with" in refused(robust("certify", "resume=left"))
