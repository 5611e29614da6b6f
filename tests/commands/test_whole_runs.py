"""The whole job on scanned digits, and what its files must satisfy whoever reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from invoking import robust
from scipy.stats import beta, norm

from robust_cli.runs.folder import RunFolder

SAMPLES, ALPHA, NOISE = 600, 0.001, 0.5
CERTIFY = ("subset=every:12", f"samples={SAMPLES}", "selection_samples=50")


@pytest.fixture(scope="module")
def certified(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("certified"))
        return robust("certify", f"run={trained}", *CERTIFY).folder


@pytest.fixture(scope="module")
def attacked(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("attacked"))
        return robust("attack", f"run={trained}", "subset=every:24", "attack=[pgd_l2,second_order]", "attack.pgd_l2.steps=5",
                      "attack.second_order.steps=5", "gradient_draws=4", "budgets.l2=[0.3,4]", "decision_votes=1000").folder


def sums(folder: RunFolder, purpose: str) -> pd.DataFrame:
    votes = pd.read_csv(folder.votes)
    return votes[votes["purpose"] == purpose].groupby("index", sort=True)[[f"votes_{k}" for k in range(10)]].sum()


def test_radii_follow_from_the_stored_votes_by_another_computation(certified: RunFolder) -> None:
    selection, estimation = sums(certified, "selection").to_numpy(), sums(certified, "estimation").to_numpy()
    assert (selection.sum(1) == 50).all()
    assert (estimation.sum(1) == SAMPLES).all()
    table = pd.read_csv(certified.certificates)
    rows = table[table["certificate"] == "neyman_pearson"].set_index("index").sort_index()
    chosen = selection.argmax(1)
    hits = estimation[np.arange(len(chosen)), chosen]
    lower = beta.ppf(ALPHA, hits, SAMPLES - hits + 1)
    expected = np.where(lower > 0.5, NOISE * norm.ppf(lower), 0)
    np.testing.assert_allclose(rows["radius"], expected, rtol=1e-6, atol=1e-9)
    assert (rows["radius"] <= expected * (1 + 1e-12)).all()
    assert (rows["predicted"] == np.where(lower > 0.5, chosen, -1)).all()
    second, first = np.sort(estimation, axis=1)[:, -2:].T
    assert (rows["majority"] == np.where(first > second, estimation.argmax(1), -1)).all()


def test_no_certificate_beats_neyman_pearson_on_its_own_bounds(certified: RunFolder) -> None:
    table = pd.read_csv(certified.certificates)
    assert set(table["certificate"]) == {"renyi", "pixeldp", "neyman_pearson"}
    bound = np.where(table["predicted"] >= 0, NOISE / 2 * (norm.ppf(table["p1_lower"]) - norm.ppf(table["p2_upper"])), 0)
    assert (table["radius"] <= bound * (1 + 1e-9)).all()
    means = table.groupby("certificate")["radius"].mean()
    assert means["pixeldp"] < means["renyi"] < means["neyman_pearson"]


def test_the_run_says_what_it_could_prove_and_where_it_comes_from(certified: RunFolder, trained: RunFolder) -> None:
    about, provenance = certified.read_about(), json.loads(certified.provenance.read_text())
    cap = NOISE * norm.ppf(ALPHA ** (1 / SAMPLES))
    assert about["certificates"]["neyman_pearson"]["largest_radius"] == pytest.approx(cap, rel=1e-6)
    assert about["noise_std"] == NOISE
    assert about["train_run"] == str(trained)
    assert {"commit", "versions", "processor", "data_sha256", "seed"} <= provenance.keys()
    assert [word.replace("'", "") for word in provenance["command_line"]] == ["robust", "certify", f"run={trained}", *CERTIFY]
    assert certified.figure("certified_accuracy", "png").stat().st_size > 5000
    assert "\x1b" not in certified.log.read_text()


def test_attacks_find_more_at_larger_budgets_and_keep_within_them(attacked: RunFolder) -> None:
    rows = pd.read_csv(attacked.outcomes)
    accuracy = rows.groupby(["attack", "budget"])["robust"].mean()
    for attack in ("pgd_l2", "second_order"):
        assert accuracy["none", 0] >= accuracy[attack, 0.3] > accuracy[attack, 4]
        assert accuracy[attack, 4] < 0.3
    assert (rows["l2"] <= rows["budget"] * (1 + 1e-6)).all()
    images = np.load(attacked.adversarial("pgd_l2", 4.0))
    originals = np.load(attacked.originals).astype(np.float64) / 255
    distances = np.sqrt(((images.astype(np.float64) - originals) ** 2).sum((1, 2, 3)))
    stored = rows[(rows["attack"] == "pgd_l2") & (rows["budget"] == 4)].set_index("index")["l2"]
    np.testing.assert_allclose(distances, stored.loc[np.load(attacked.indices)], atol=1e-6)
    fooled = rows[(rows["attack"] == "pgd_l2") & (rows["robust"] == 0) & (rows["l2"] > 0)]
    votes = fooled[[f"votes_{k}" for k in range(10)]].to_numpy()
    assert (votes.sum(1) == 1000).all()
    assert (votes.max(1) >= votes[np.arange(len(votes)), fooled["label"]]).all()


def test_the_report_cross_checks_what_was_proven_with_what_was_attacked(
        trained: RunFolder, certified: RunFolder, attacked: RunFolder, workplace: Path) -> None:
    answer = robust("report", str(certified), str(attacked), str(trained))
    page = (answer.folder.path / "report.html").read_text()
    assert "<svg" in page
    assert answer.out.count("Holds: 0 of") == 3
    assert (answer.folder.path / "certified_accuracy.csv").exists()


def test_the_report_catches_radii_that_claim_too_much(certified: RunFolder, attacked: RunFolder, workplace: Path) -> None:
    forged = RunFolder(workplace / "forged")
    shutil.copytree(certified.path, forged.path)
    table = pd.read_csv(forged.certificates)
    table["radius"] *= 8  # far beyond what is true, so that the stored attacks lie inside
    table.to_csv(forged.certificates, index=False)
    answer = robust("report", str(forged), str(attacked))
    about = (answer.folder.path / "report.md").read_text()
    assert about.count("BROKEN:") >= 2, about


def test_certify_resumed_after_a_cut_gives_the_same_files(certified: RunFolder, trained: RunFolder, workplace: Path) -> None:
    votes, certificates = certified.votes.read_bytes(), certified.certificates.read_bytes()
    for share in (0.0, 0.37, 0.9):
        cut = RunFolder(workplace / f"cut{share}")
        shutil.copytree(certified.path, cut.path)
        cut.votes.write_bytes(votes[: int(share * len(votes))])
        cut.certificates.unlink()
        cut.about.unlink()
        cut.set_state("running", "certify")
        assert robust("certify", f"resume={cut}").code == 0
        assert cut.votes.read_bytes() == votes
        assert cut.certificates.read_bytes() == certificates
        assert cut.state == "complete"


def test_certificates_do_not_depend_on_the_workers(certified: RunFolder, trained: RunFolder, workplace: Path) -> None:
    again = robust("certify", f"run={trained}", *CERTIFY, "workers=3").folder
    assert again.votes.read_bytes() == certified.votes.read_bytes()
    other = robust("certify", f"run={trained}", *CERTIFY, "seed=1").folder
    assert other.votes.read_bytes() != certified.votes.read_bytes()


def test_a_subset_is_certified_as_it_is_within_the_whole(certified: RunFolder, trained: RunFolder, workplace: Path) -> None:
    fewer = robust("certify", f"run={trained}", "subset=every:36", *CERTIFY[1:]).folder
    whole, part = (pd.read_csv(f.certificates).set_index(["certificate", "index"]) for f in (certified, fewer))
    pd.testing.assert_frame_equal(whole.loc[part.index], part)


def test_more_samples_on_a_finished_run_are_refused(certified: RunFolder, workplace: Path) -> None:
    answer = robust("certify", f"resume={certified}", "samples=6000")
    assert answer.code == 2
    assert "optional stopping" in answer.err


def test_one_sample_for_class_and_bounds_needs_the_runner_up(trained: RunFolder, workplace: Path) -> None:
    refused = robust("certify", f"run={trained}", "selection_samples=0", "samples=100", "subset=first:3")
    assert refused.code == 2
    assert "certificate.neyman_pearson.bounds" in refused.err
    assert refused.folders == []
    fine = robust("certify", f"run={trained}", "selection_samples=0", "samples=100", "subset=first:3",
                  "certificate.neyman_pearson.bounds=runner_up").folder
    assert set(pd.read_csv(fine.votes)["purpose"]) == {"estimation"}
    cap = 0.5 * norm.ppf(0.0005 ** (1 / 100))
    assert fine.read_about()["certificates"]["neyman_pearson"]["largest_radius"] == pytest.approx(cap, rel=1e-6)


def test_training_twice_gives_the_same_weights(trained: RunFolder, workplace: Path) -> None:
    settings = yaml.safe_load(trained.config.read_text())["training"]
    again = robust("train", *(f"training.{key}={settings[key]}" for key in ("epochs", "batch_size", "learning_rate"))).folder
    assert again.model.read_bytes() == trained.model.read_bytes()
    assert again.read_about()["model_fingerprint"] == trained.read_about()["model_fingerprint"]


def test_a_model_trained_without_noise_must_be_told_which(workplace: Path) -> None:
    run = robust("train", "regime=standard", "training.epochs=1", "subset=first:200").folder
    answer = robust("certify", f"run={run}", "subset=first:2")
    assert answer.code == 2
    assert "noise_std" in answer.err
    told = robust("certify", f"run={run}", "subset=first:2", "samples=100", "noise_std=0.25").folder
    assert told.read_about()["noise_std"] == 0.25
    plain = robust("attack", f"run={run}", "subset=first:2", "attack=fgsm", "budgets.linf=[0.1]").folder.read_about()
    assert plain["classifier"] == "base"


def test_a_damaged_checkpoint_is_one_line(trained: RunFolder, workplace: Path) -> None:
    damaged = RunFolder(workplace / "damaged")
    shutil.copytree(trained.path, damaged.path)
    damaged.model.write_bytes(trained.model.read_bytes()[:1000])
    answer = robust("certify", f"run={damaged}", "subset=first:2")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "damaged" in answer.err
    assert answer.folders == []


def test_other_weights_under_the_same_name_are_noticed(trained: RunFolder, workplace: Path) -> None:
    other = robust("train", "training.epochs=1", "subset=first:200").folder
    mixed = RunFolder(workplace / "mixed")
    shutil.copytree(trained.path, mixed.path)
    shutil.copy(other.model, mixed.model)
    answer = robust("certify", f"run={mixed}", "subset=first:2")
    assert answer.code == 2
    assert "fingerprint" in answer.err
