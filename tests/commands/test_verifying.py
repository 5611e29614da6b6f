"""Certificates that are proofs of the network itself: whole runs with a user's own verifier, whose radii have a closed form."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from invoking import Answer, robust
from safetensors.torch import load_file
from test_killed import WAIT, finish, killed_when, start, until
from test_shards import torchrun

from robust_cli.commands.proofs import answers
from robust_cli.datasets.digits import Digits
from robust_cli.messages import UserError
from robust_cli.models.cnn_small import CnnSmall
from robust_cli.runs.folder import RunFolder

CERTIFICATE = """# @package certificate.{name}
# The exact radius of one linear layer. Source: the distance of a point from a hyperplane
_target_: exact_verifier.{target}
norm: l2  # l2 | linf
radius: null  # to prove; null: the largest
pause: 0.0  # seconds
"""
OWN = ("-cd", "my")
FEW = ("subset=every:12", "certificate=exact")  # 30 images: groups of 8, the last of 6
RESULTS = ("certificates.csv", "about.json", "certified_accuracy.csv", "certificates_exact.tsv.json")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a user's configs, a trained linear network, and what the verifier proves of it."""
    root = tmp_path_factory.mktemp("verifying")
    for group in ("certificate", "model"):
        (root / "my" / group).mkdir(parents=True)
    for name, target, more in (("exact", "Exact", ""), ("nonsense", "Nonsense", "answer: text  # what it answers\n")):
        (root / "my" / "certificate" / f"{name}.yaml").write_text(CERTIFICATE.format(name=name, target=target) + more)
    (root / "my" / "model" / "linear.yaml").write_text("# One layer. Source: none\n_target_: exact_verifier.Linear\n")
    shutil.copy(Path(__file__).parent / "exact_verifier.py", root / "my")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.path", list(sys.path))
        patch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        trained = robust("train", "model=linear", "regime=noise_augmentation", "training.epochs=3", *OWN, "hydra.run.dir=trained")
        assert trained.code == 0, trained.err
        assert robust("certify", "run=trained", *FEW, *OWN, "hydra.run.dir=whole").code == 0
        yield root


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with the user's configs."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "my", tmp_path / "my")
    return tmp_path


def certify(place: Path, *words: str) -> Answer:
    return robust("certify", f"run={place / 'trained'}", *words, *OWN)


def rows(folder: RunFolder | Path, certificate: str = "exact") -> pd.DataFrame:
    table = pd.read_csv(RunFolder(str(folder)).certificates)
    return table[table["certificate"] == certificate].reset_index(drop=True)


def closed_form(place: Path, indices: list[int], norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Class and radius of some test images, from the stored weights: margin over the dual norm of the difference of two rows."""
    weights, dataset = load_file(place / "trained" / "model.safetensors"), Digits()
    matrix, bias = (weights[f"network.layer.{name}"].double().numpy() for name in ("weight", "bias"))
    mean, std = float(dataset.mean[0]), float(dataset.std[0])
    pixels = dataset.split("test").float(torch.tensor(indices)).double().flatten(1).numpy()
    logits, classes, radii = (pixels - mean) / std @ matrix.T + bias, [], []
    for values in logits:
        c = int(values.argmax())
        apart = np.delete(matrix[c] - matrix, c, axis=0) / std
        size = np.linalg.norm(apart, axis=1) if norm == "l2" else np.abs(apart).sum(1)
        classes.append(c)
        radii.append((np.delete(values[c] - values, c) / size).min())
    return np.array(classes), np.array(radii)


def refused(answer: Answer) -> str:
    """The one line of a mistake that left no folder."""
    assert (answer.code, answer.err.count("\n"), answer.folders) == (2, 1, []), answer.err
    return answer.err


# ---- what is proven -----------------------------------------------------------------------------------------------------------
def test_rows_are_the_closed_form_of_the_network_in_pixel_units(place: Path) -> None:
    found = rows(place / "whole")
    assert len(found) == 30
    classes, radii = closed_form(place, found["index"].tolist(), "l2")
    for column in ("predicted", "majority", "prediction"):
        assert found[column].tolist() == classes.tolist()
    np.testing.assert_allclose(found["radius"], radii, rtol=1e-3)
    assert found["radius"].min() > 0
    assert found["radius"].max() > 0.1
    assert found["label"].tolist() == Digits().split("test").labels[found["index"].tolist()].tolist()
    assert (found["label"] != found["predicted"]).any(), "a wrong class has a radius, too"
    assert (set(found["norm"]), set(found["bounds"]), set(found["stopped"]), set(found["draws"])) == \
        ({"l2"}, {"deterministic"}, {"complete"}, {0})
    assert found[["p1_lower", "p2_upper"]].isna().all(axis=None)


def test_a_run_says_that_there_was_no_noise_and_no_chance(place: Path) -> None:
    about = RunFolder(place / "whole").read_about()
    assert about["training_noise_std"] > 0, "its training noise is not its own"
    said = {key: about[key] for key in ("classifier", "noise", "noise_std", "smoothing", "samples", "failure_probability")}
    assert said == {"classifier": "base", "noise": None, "noise_std": None, "smoothing": None, "samples": 0,
                    "failure_probability": 0}
    own = about["certificates"]["exact"]
    assert {key: own[key] for key in ("kind", "norm", "bounds", "radius", "largest_radius", "relaxation", "cascade")} == {
        "kind": "Exact", "norm": "l2", "bounds": "deterministic", "radius": None, "largest_radius": None, "relaxation": None,
        "cascade": None}
    assert "with no failure probability" in own["statement"]
    assert about["comparable"] is True
    assert not RunFolder(place / "whole").votes.exists()


def test_two_verifiers_in_two_norms_with_a_radius_that_is_asked_for(place: Path, here: Path) -> None:
    """The same class twice, under names of one's own; a row of the one that was asked for a radius holds that or 0."""
    run = certify(place, *FEW, "certificate.exact.radius=0.3", "+certificate@certificate.wide=exact",
                  "certificate.wide.norm=linf").folder
    asked, wide = rows(run), rows(run, "wide")
    l2, linf = (closed_form(place, asked["index"].tolist(), norm)[1] for norm in ("l2", "linf"))
    assert asked["radius"].tolist() == np.where(l2 >= 0.3, 0.3, 0.0).tolist()
    assert 0 < (asked["radius"] == 0.3).sum() < len(asked)
    np.testing.assert_allclose(wide["radius"], linf, rtol=1e-3)
    assert (set(asked["norm"]), set(wide["norm"])) == ({"l2"}, {"linf"})
    about = run.read_about()
    assert (about["comparable"], about["certificates"]["exact"]["radius"]) == (False, 0.3)
    assert {run.tsv(name).exists() for name in ("exact", "wide")} == {True}
    assert {run.table(name).exists() for name in ("certified_accuracy", "certified_accuracy_linf")} == {True}
    assert robust("report", str(run)).code == 0


def test_certified_accuracy_and_the_tsv_are_of_these_rows(place: Path) -> None:
    found, whole = rows(place / "whole"), RunFolder(place / "whole")
    right = found["label"] == found["predicted"]
    table = pd.read_csv(whole.table("certified_accuracy"))
    at = table[table["quantity"].str.startswith("certified at")]
    assert len(at) > 3
    for radius, value in zip(at["radius"], at["value"], strict=True):
        assert value == pytest.approx((right & (found["radius"] >= radius)).mean())
    fields = pd.read_csv(whole.tsv("exact"), sep="\t")
    assert fields["idx"].tolist() == found["index"].tolist()
    assert fields["radius"].tolist() == pytest.approx(found["radius"].tolist(), rel=1e-15)
    assert (fields["time"] != "0:00:00").all()


def test_a_class_does_not_depend_on_the_images_beside_it(place: Path, here: Path) -> None:
    few = rows(certify(place, "certificate=exact", "subset=first:13").folder)
    one = rows(certify(place, "certificate=exact", "subset=first:1").folder)
    whole = rows(place / "whole")
    again = whole[whole["index"] < 13].merge(few, on="index")
    assert len(again) == 2
    assert (again["predicted_x"] == again["predicted_y"]).all()
    np.testing.assert_allclose(again["radius_x"], again["radius_y"], rtol=1e-12)
    assert one["predicted"].tolist() == few["predicted"].tolist()[:1]


def test_what_is_said(place: Path, here: Path) -> None:
    out = certify(place, *FEW).out
    for line in ("certified is the network itself, the base classifier: no noise, no draws, no failure probability",
                 "exact: the largest l2 radius", "s an image, timed on a few", "for 30 proofs", "verifying: 30 proofs in"):
        assert line in out
    asked = certify(place, *FEW, "certificate.exact.radius=0.3", "certificate.exact.norm=linf").out
    assert "exact: linf radius 0.3" in asked


def test_a_model_of_ones_own_and_the_run_of_it(place: Path, here: Path) -> None:
    weights = f"model.weights={place / 'trained' / 'model.safetensors'}"
    run = robust("certify", "dataset=digits", "model=linear", weights, *FEW, *OWN).folder
    assert run.certificates.read_bytes() == (place / "whole" / "certificates.csv").read_bytes()
    again = robust("certify", f"run={run}", *FEW, *OWN).folder
    assert again.certificates.read_bytes() == run.certificates.read_bytes()
    noisy = robust("certify", f"run={run}", "subset=first:2", "samples=100", "certificate=neyman_pearson", *OWN)
    assert "had a base classifier; say which noise to smooth it with" in noisy.err


# ---- what comes after ---------------------------------------------------------------------------------------------------------
def hint(answer: Answer) -> list[str]:
    return shlex.split(answer.out.strip().splitlines()[-1].removeprefix("next: "))


def test_the_next_command_attacks_the_network_itself_in_that_norm(place: Path, here: Path) -> None:
    """Trained with noise, it would be attacked as a smoothed classifier; what was proven holds under the attack."""
    wide = certify(place, *FEW, "certificate.exact.norm=linf")
    assert {"classifier=base", "attack=pgd_linf"} <= set(hint(wide))
    assert not [word for word in hint(wide) if word.startswith("budgets.")], "the data set's own"
    answer = certify(place, *FEW, "certificate.exact.radius=0.3")
    following = hint(answer)
    assert following[:2] == ["robust", "attack"]
    assert {"classifier=base", "attack=pgd_l2", "budgets.l2=[0.3,0.6]", "subset=every:12"} <= set(following)
    attacked = robust(*following[1:], "attack.pgd_l2.steps=20")
    about = attacked.folder.read_about()
    assert (about["classifier"], about["model_fingerprint"]) == ("base", answer.folder.read_about()["model_fingerprint"])
    outcomes, proven = pd.read_csv(attacked.folder.outcomes), rows(answer.folder)
    sure = proven.loc[(proven["radius"] > 0) & (proven["label"] == proven["predicted"]), "index"]
    inside = outcomes[(outcomes["budget"] == 0.3) & outcomes["index"].isin(sure)]
    assert len(inside) == len(sure) > 3
    assert (inside["robust"] == 1).all()
    assert (outcomes.loc[outcomes["budget"] == 0.6, "robust"] == 0).any()
    assert hint(attacked)[:2] == ["robust", "report"]
    assert len(hint(attacked)) == 4, "the report of both"
    assert robust(*hint(attacked)[1:]).code == 0


# ---- stopped, split, shared ---------------------------------------------------------------------------------------------------
def cut(place: Path, to: Path, number: int, torn: str = "") -> RunFolder:
    """The run as a kill would leave it after so many rows, and the beginning of one more."""
    left = RunFolder(shutil.copytree(place / "whole", to))
    lines = left.certificates.read_text().splitlines(keepends=True)
    left.certificates.write_text("".join(lines[: 1 + number]) + torn)
    for path in (left.about, left.tsv("exact"), left.table("certified_accuracy")):
        path.unlink()
    left.set_state("running", "certify")
    return left


def same_results(one: Path, other: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize(("number", "torn"), [(0, ""), (8, ""), (11, "exact,l2,determ"), (30, "")])
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(place: Path, here: Path, number: int, torn: str) -> None:
    left = cut(place, here / "left", number, torn)
    answer = robust("certify", f"resume={left}", *OWN)
    assert answer.code == 0, answer.err
    same_results(left.path, place / "whole")
    if number:
        assert f"going on: {number} of 30 proofs are there" in answer.out


def test_what_is_there_is_not_proven_again(place: Path, here: Path) -> None:
    left = cut(place, here / "left", 16)
    lines = left.certificates.read_text().splitlines(keepends=True)
    marked = [lines[0], lines[1].rpartition(",0,")[0].rpartition(",")[0] + ",7.5,0,complete\n", *lines[2:]]
    left.certificates.write_text("".join(marked))
    assert robust("certify", f"resume={left}", *OWN).code == 0
    found = rows(left)
    assert len(found) == 30
    assert found["radius"][0] == 7.5


def test_a_kill_in_the_middle_loses_nothing(place: Path, here: Path) -> None:
    words = ("certify", f"run={place / 'trained'}", *FEW, "certificate.exact.pause=0.3", *OWN)
    killed = RunFolder(here / "killed")
    killed_when(start(killed.path, *words), killed.certificates, 9)
    assert killed.state == "running"
    assert 9 <= len(killed.certificates.read_text().splitlines()) < 31
    finish(killed.path, "certify", f"resume={killed}", *OWN)
    same_results(killed.path, place / "whole")


def test_a_signal_ends_it_with_how_to_go_on(place: Path, here: Path) -> None:
    run = RunFolder(here / "cut")
    process = start(run.path, "certify", f"run={place / 'trained'}", *FEW, "certificate.exact.pause=0.3", *OWN)
    until(process, run.certificates, 9)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=WAIT)
    assert errors.decode() == "robust certify: stopped by SIGTERM; to go on: robust certify resume=cut\n"
    assert process.returncode == 143
    finish(run.path, "certify", f"resume={run}", *OWN)
    same_results(run.path, place / "whole")


def test_going_on_with_other_settings_is_refused(place: Path, here: Path) -> None:
    left = cut(place, here / "left", 8)
    for word, said in (("subset=every:6", "subset is every:12 in that run, got every:6"),
                       ("noise_std=0.5", "noise_std is null in that run, got 0.5"),
                       ("samples=10000", "samples: certificate=exact proves the network itself")):
        answer = robust("certify", f"resume={left}", word, *OWN)
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert said in answer.err
    assert len(left.certificates.read_text().splitlines()) == 9


def test_shards_merge_into_the_very_run_of_one_process(place: Path, here: Path) -> None:
    for k in (1, 2, 3):
        answer = certify(place, *FEW, f"shard={k}/3", f"hydra.run.dir=part{k}")
        assert answer.code == 0, answer.err
        assert len(rows(here / f"part{k}")) == 10
    assert robust("merge", "part3", "part1", "part2", "--output", "merged").code == 0
    found, whole = rows(here / "merged"), rows(place / "whole")
    pd.testing.assert_frame_equal(found, whole, check_exact=False, rtol=1e-12)
    assert RunFolder("merged").read_about() == RunFolder(place / "whole").read_about()
    assert robust("report", "merged").code == 0
    other = certify(place, *FEW, "certificate.exact.norm=linf", "shard=2/3", "hydra.run.dir=other")
    assert other.code == 0
    answer = robust("merge", "part1", "other", "part3", "--output", "none")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "certificate.exact.norm is l2 there, linf now; only parts of one run can be merged" in answer.err


def test_the_shards_of_a_run_name_one_another(place: Path, here: Path) -> None:
    assert "the other shards (2/2 of 2)" in certify(place, *FEW, "shard=1/2").out.splitlines()[-1]
    assert hint(certify(place, *FEW, "shard=2/2"))[:2] == ["robust", "merge"]


def test_a_sweep_has_a_run_each(place: Path, here: Path) -> None:
    answer = certify(place, *FEW, "-m", "certificate.exact.radius=0.2,0.4")
    assert answer.code == 0, answer.err
    radii = [set(rows(path.parent)["radius"]) for path in sorted(here.glob("outputs/*/*/*/certificates.csv"))]
    assert radii == [{0.0, 0.2}, {0.0, 0.4}]


def test_several_processes_are_refused(place: Path, here: Path) -> None:
    done: subprocess.CompletedProcess[str] = torchrun(here, 2, "certify", f"run={place / 'trained'}", *FEW, *OWN,
                                                      "hydra.run.dir=shared")
    assert done.returncode != 0
    assert "certificate.exact: expected one process, found 2; certify without torchrun" in done.stderr
    assert not (here / "shared" / "certificates.csv").exists()


# ---- mistakes -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("words", "said"), [
    (("certificate.exact.norm=l1",), "certificate.exact.norm: expected l2 or linf, got 'l1'"),
    (("certificate.exact.radius=0",), "certificate.exact.radius: expected a number > 0, or null"),
    (("certificate.exact.radius=-1.5",), "certificate.exact.radius: expected a number > 0, or null"),
    (("certificate.exact.radius=inf",), "certificate.exact.radius: expected a number > 0, or null"),
    (("certificate.exact.radios=1",), "certificate.exact.radios: no such setting; did you mean certificate.exact.radius?"),
    (("subset=first:0",), "subset: expected all, first:N"), (("shard=31/31",), "shard: expected at most 30 parts of 30 images"),
    (("certificate=nonsense",), "certificate.nonsense: expected its class to answer 1 images at radius=None by torch.float64 of "
                                "shape [1], found str"),
    (("certificate=nonsense", "certificate.nonsense.answer=float"), "found torch.float32 of shape [1]"),
    (("certificate=nonsense", "certificate.nonsense.answer=short"), "found torch.float64 of shape [2]"),
    (("certificate=nonsense", "certificate.nonsense.answer=no_number"), "expected its class to answer radii >= 0, found nan"),
    (("certificate=nonsense", "certificate.nonsense.answer=negative"), "expected its class to answer radii >= 0, found -1.0"),
    (("certificate=nonsense", "certificate.nonsense.radius=1", "certificate.nonsense.answer=float"), "by torch.bool of shape")])
def test_a_mistake_is_one_line_and_leaves_no_folder(place: Path, here: Path, words: tuple[str, ...], said: str) -> None:
    assert said in refused(certify(place, *FEW, *words))


def test_a_network_that_the_verifier_does_not_know_leaves_no_folder(place: Path, here: Path) -> None:
    torch.save(CnnSmall((1, 28, 28), 10).state_dict(), here / "net.pth")
    words = ("certify", "dataset=digits", "model=cnn_small", "model.weights=net.pth")
    assert "expected a network of one linear layer" in refused(robust(*words, *FEW, *OWN))


def test_a_network_of_nan_is_said() -> None:
    with pytest.raises(UserError, match="expected numbers from the model, found nan"):
        answers(torch.nn.Flatten(), torch.full((1, 1, 1, 3), math.nan), 8)


def test_damaged_rows_are_said(place: Path, here: Path) -> None:
    left = cut(place, here / "left", 8)
    left.certificates.write_text(left.certificates.read_text().replace("deterministic,0,", "deterministic,x,"))
    answer = robust("certify", f"resume={left}", *OWN)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "the file is damaged" in answer.err


def test_the_estimate_is_of_the_verifier_s_own_time(place: Path, here: Path) -> None:
    out = certify(place, "subset=first:8", "certificate=exact", "certificate.exact.pause=0.4").out
    assert float(re.search(r"exact: about (\S+) s an image", out)[1]) >= 0.1, "at least 0.4 s for four images"
