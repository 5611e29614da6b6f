"""The whole job with noise after the first layer: trained so, certified and attacked there, reported and verified."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from invoking import Answer, robust
from safetensors.torch import load_file
from scipy.stats import beta, norm

from robust_cli.runs.folder import RunFolder

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import verify_certificates

SAMPLES, ALPHA, NOISE = 400, 0.001, 0.6
CERTIFY = ("subset=every:24", f"samples={SAMPLES}", "selection_samples=50")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("first_layer")


@pytest.fixture(scope="module")
def trained(place: Path) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return robust("train", "regime=pixeldp", f"regime.noise_std={NOISE}", "model=cnn_pixeldp", "training.epochs=8",
                      "dataset.std=[0.5]", "training.batch_size=64", "training.learning_rate=0.01").folder


@pytest.fixture(scope="module")
def certified(trained: RunFolder, place: Path) -> Answer:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return robust("certify", f"run={trained}", *CERTIFY, "certificate=[neyman_pearson,neyman_pearson_linf,renyi]")


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def true_norm(trained: RunFolder) -> float:
    """From the stored weights alone: the matrix of convolution and normalisation, effective weights by their own norm."""
    weights = load_file(trained.model)
    weight = weights["network.layers.0.parametrizations.weight.original"].double()
    direction = weights["network.layers.0.parametrizations.weight.0.direction"].double()
    weight = weight / torch.nn.functional.conv2d(direction, weight, None, 2, 2).norm().clamp_min(1)
    basis = torch.eye(784, dtype=torch.float64).view(784, 1, 28, 28) / weights["normalisation.std"].double()
    return float(torch.linalg.matrix_norm(torch.nn.functional.conv2d(basis, weight, None, 2, 2).flatten(1), 2))


def test_the_training_run_says_where_its_noise_was(trained: RunFolder) -> None:
    about = trained.read_about()
    assert (about["training_layer"], about["training_noise_std"]) == ("first", NOISE)
    assert about["test_accuracy"] > 0.8


def test_radii_follow_from_votes_noise_and_the_norm_of_the_stored_weights(certified: Answer, trained: RunFolder) -> None:
    folder = certified.folder
    about, truth = folder.read_about(), true_norm(trained)
    assert about["smoothing"]["layer"] == "first"
    assert truth <= about["smoothing"]["operator_norm"] <= truth * (1 + 1e-5)
    assert truth == pytest.approx(2, rel=0.02)  # at most about 1 over the std of 0.5
    assert about["noise_std"] == NOISE
    assert "after the first layer (operator norm at most" in certified.out
    assert folder.read_plan()["noise_std"] == pytest.approx(NOISE / truth, rel=1e-5)
    votes = pd.read_csv(folder.votes)
    columns = [f"votes_{k}" for k in range(10)]
    selection, estimation = (votes[votes["purpose"] == purpose].groupby("index", sort=True)[columns].sum().to_numpy()
                             for purpose in ("selection", "estimation"))
    hits = estimation[np.arange(len(estimation)), selection.argmax(1)]
    lower = beta.ppf(ALPHA, hits, SAMPLES - hits + 1)
    expected = np.where(lower > 0.5, NOISE / truth * norm.ppf(lower), 0)
    table = pd.read_csv(folder.certificates).set_index("index").sort_index()
    radii = {name: table.loc[table["certificate"] == name, "radius"] for name in ("neyman_pearson", "neyman_pearson_linf")}
    np.testing.assert_allclose(radii["neyman_pearson"], expected, rtol=1e-5, atol=1e-9)
    assert (radii["neyman_pearson"] <= expected * (1 + 1e-7)).all()
    np.testing.assert_allclose(radii["neyman_pearson_linf"], expected / 28, rtol=1e-5, atol=1e-9)
    assert (radii["neyman_pearson"] > 0.1).mean() > 0.5  # something is proven at all


def test_the_verifier_derives_the_same_from_the_folder_alone(certified: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_certificates.main([str(certified.folder)]) == 0, capsys.readouterr().out


def test_a_run_cut_off_goes_on_to_the_same_files(certified: Answer, here: Path) -> None:
    folder, cut = certified.folder, RunFolder(here / "cut")
    shutil.copytree(folder.path, cut.path)
    votes = folder.votes.read_bytes()
    cut.votes.write_bytes(votes[: len(votes) // 2])
    cut.certificates.unlink()
    cut.about.unlink()
    cut.set_state("running", "certify")
    assert robust("certify", f"resume={cut}", "workers=2").code == 0
    assert cut.votes.read_bytes() == votes
    assert cut.certificates.read_bytes() == folder.certificates.read_bytes()
    assert cut.first_layer.read_bytes() == folder.first_layer.read_bytes()


def test_shards_merge_to_the_whole(certified: Answer, trained: RunFolder, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("certify", f"run={trained}", *CERTIFY, "certificate=[neyman_pearson,neyman_pearson_linf,renyi]")
    parts = [robust(*words, f"shard={k}/2").folder for k in (1, 2)]
    merged = robust("merge", *map(str, parts)).folder
    assert merged.certificates.read_bytes() == certified.folder.certificates.read_bytes()
    assert merged.read_about()["smoothing"] == certified.folder.read_about()["smoothing"]
    assert verify_certificates.main([str(merged)]) == 0, capsys.readouterr().out
    other = RunFolder(here / "other")
    shutil.copytree(parts[1].path, other.path)
    about = other.read_about()
    about["smoothing"]["operator_norm"] *= 2
    other.write_about(about)
    refused = robust("merge", str(parts[0]), str(other))
    assert refused.code == 2
    assert "smoothing differs" in refused.err


@pytest.mark.parametrize("plan", ["sequential", "anytime"])
def test_other_plans_look_at_radii_of_the_divided_noise(plan: str, trained: RunFolder, here: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("neyman_pearson", "neyman_pearson_linf"):
        run = robust("certify", f"run={trained}", "subset=first:4", "samples=600", f"sampling={plan}",
                     f"certificate=[{name}]").folder
        made = run.read_plan()
        assert made["noise_std"] == pytest.approx(NOISE / 2, rel=0.02)
        if plan == "sequential":
            expected = np.array([0, 0.25, 0.5, 0.75]) / (1 if name == "neyman_pearson" else 28)
            np.testing.assert_allclose(made["radii"], expected, rtol=1e-6)
        assert verify_certificates.main([str(run)]) == 0, capsys.readouterr().out


def test_attacks_are_on_the_same_classifier_and_the_report_holds_both_together(
        certified: Answer, trained: RunFolder, here: Path) -> None:
    answer = robust("attack", f"run={trained}", "subset=every:24", "attack=[pgd_l2,second_order]", "attack.pgd_l2.steps=8",
                    "attack.second_order.steps=4", "gradient_draws=4", "budgets.l2=[0.1,5]", "decision_votes=1000",
                    "measure=[gradient_norms,softmax_path,noise_robustness]")
    about, rows = answer.folder.read_about(), pd.read_csv(answer.folder.outcomes)
    assert about["smoothing"] == certified.folder.read_about()["smoothing"]
    assert "noise_std 0.6 after the first layer" in answer.out
    accuracy = rows.groupby(["attack", "budget"])["robust"].mean()
    assert accuracy["pgd_l2", 0.1] > 0.6 > 0.3 > accuracy["pgd_l2", 5.0]
    assert "robust report" in answer.out.splitlines()[-1]
    assert "_certify_" in answer.out.splitlines()[-1]  # a certify run of the same classifier was found
    report = robust("report", str(certified.folder), str(answer.folder), str(trained))
    assert report.code == 0, report.err
    assert "Holds: 0 of" in report.out


def test_clean_decisions_are_the_certified_classes(certified: Answer, trained: RunFolder, here: Path) -> None:
    """Two sets of votes of one smoothed classifier: the majority is the same where it is not close."""
    answer = robust("attack", f"run={trained}", "subset=every:24", "attack=[gaussian_noise]", "budgets.l2=[0.1]",
                    "decision_votes=500").folder
    rows = pd.read_csv(answer.outcomes)
    clean = rows[rows["attack"] == "none"].set_index("index")
    table = pd.read_csv(certified.folder.certificates).query("certificate == 'neyman_pearson' and radius > 0").set_index("index")
    assert (clean.loc[table.index, "predicted"] == table["predicted"]).all()
    shares = clean.loc[table.index, [f"votes_{k}" for k in range(10)]].max(axis=1) / 500
    votes = pd.read_csv(certified.folder.votes).query("purpose == 'estimation'").groupby("index").sum(numeric_only=True)
    stored = votes.loc[table.index, [f"votes_{k}" for k in range(10)]].max(axis=1) / SAMPLES
    np.testing.assert_allclose(shares, stored, atol=5 * np.sqrt(0.25 * (1 / 500 + 1 / SAMPLES)))


def test_the_base_classifier_is_the_network_without_noise(trained: RunFolder, here: Path) -> None:
    run = robust("attack", f"run={trained}", "subset=first:20", "attack=fgsm", "budgets.linf=[0.05]", "classifier=base").folder
    about = run.read_about()
    assert (about["noise_std"], about["smoothing"]) == (None, None)


def test_noise_on_the_image_of_the_same_run_is_another_classifier(certified: Answer, trained: RunFolder, here: Path) -> None:
    answer = robust("certify", f"run={trained}", "subset=first:3", "samples=100", f"noise_std={NOISE}", "smoothing.layer=input")
    about = answer.folder.read_about()
    assert about["smoothing"] == {"layer": "input", "operator_norm": 1.0}
    assert not answer.folder.first_layer.exists()
    assert answer.out.splitlines()[-1].endswith(f"noise_std={NOISE} smoothing.layer=input subset=first:3")


def test_any_model_that_splits_can_be_smoothed_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = robust("train", "training.epochs=1", "subset=first:200").folder
    assert run.read_about()["training_layer"] == "input"
    certify = robust("certify", f"run={run}", "subset=first:3", "samples=100", "smoothing.layer=first", "noise_std=1.5").folder
    assert verify_certificates.main([str(certify)]) == 0, capsys.readouterr().out
    plain = robust("train", "regime=standard", "training.epochs=1", "subset=first:200").folder
    assert plain.read_about()["training_layer"] is None
    about = json.loads(run.about.read_text())
    del about["training_layer"]  # as an older version wrote it
    run.write_about(about)
    older = robust("certify", f"run={run}", "subset=first:2", "samples=100").folder
    assert older.read_about()["smoothing"]["layer"] == "input"
