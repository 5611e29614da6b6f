"""Runs of certify and attack: their votes are of the model, noise, precision and seed that they say, and of no other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from invoking import robust
from omegaconf import OmegaConf

from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.commands.proving import Procedure, majority
from robust_cli.composing import subject as subject_module
from robust_cli.composing.subject import load_subject, record
from robust_cli.datasets.images import Images
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder
from robust_cli.smoothing.noises import make_noise
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import Bounds
from robust_cli.smoothing.plans.sequential import Sequential
from robust_cli.smoothing.votes import NoisyVotes
from robust_cli.training.settings import Device, Precision

COLUMNS = [f"votes_{k}" for k in range(10)]
SETTINGS = ("subset=first:3", "precision=bf16", "noise_std=0.3", "seed=4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        return robust("train", "training.epochs=1", "subset=first:300").folder


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def by_hand(trained: RunFolder, purpose: str, draws: int, precision: str = "bf16") -> tuple[np.ndarray, list[int]]:
    """Votes of the clean images from the saved model, and the images' indices."""
    config = OmegaConf.create({**trained.read_config(), "run": str(trained), "subset": "first:3", "seed": 4})
    config.device, config.precision = Device.cpu, Precision(precision)
    subject = load_subject(config, "certify")
    indices = subject.images.indices.tolist()
    counter = NoisyVotes(subject.model, 10, make_noise("gaussian", 0.3), 4, "cpu", precision, 1)
    return counter.decide(subject.images.float(), indices, purpose, draws).numpy(), indices


def test_certifys_votes_are_what_its_settings_say(trained: RunFolder, workplace: Path) -> None:
    run = robust("certify", f"run={trained}", *SETTINGS, "samples=1200", "selection_samples=30").folder
    table = pd.read_csv(run.votes)
    for purpose, draws in (("selection", 30), ("estimation", 1200)):
        expected, indices = by_hand(trained, purpose, draws)
        sums = table[table["purpose"] == purpose].groupby("index")[COLUMNS].sum()
        assert np.array_equal(sums.loc[indices].to_numpy(), expected)
    assert not torch.backends.cudnn.allow_tf32  # fp32 on a GPU is fp32


def test_attacks_are_decided_by_votes_of_the_same_classifier(trained: RunFolder, workplace: Path) -> None:
    run = robust("attack", f"run={trained}", *SETTINGS, "attack=fgsm", "budgets.linf=[0.1]", "decision_votes=6000").folder
    clean = pd.read_csv(run.outcomes).query("attack == 'none'").set_index("index")
    expected, indices = by_hand(trained, "decision/none", 6000)
    assert np.array_equal(clean.loc[indices, COLUMNS].to_numpy(), expected)
    assert not np.array_equal(by_hand(trained, "decision/none", 6000, "fp32")[0], expected)  # so many votes tell them apart


def test_a_run_does_not_go_on_with_another_model_of_the_same_name(trained: RunFolder, workplace: Path) -> None:
    """Trained anew into the same folder between the kill and the resumption: weights and about.json agree, the votes are old."""
    mine = workplace / "mine"
    shutil.copytree(trained.path, mine)
    words = {"certify": ("samples=50", "selection_samples=10"),
             "attack": ("attack=fgsm", "budgets.linf=[0.1]", "decision_votes=20")}
    begun = {command: robust(command, f"run={mine}", "subset=first:3", *more).folder for command, more in words.items()}
    other = robust("train", "training.epochs=1", "subset=first:300", "seed=1").folder
    for path in (other.model, other.about):
        shutil.copy(path, mine)
    for command, run in begun.items():
        run.set_state("running", command)
        rows = run.votes if command == "certify" else run.outcomes
        lines = rows.read_text().splitlines(keepends=True)
        rows.write_text("".join(lines[:-2]))
        answer = robust(command, f"resume={run}")
        assert answer.code == 2
        assert "with the model that it began with" in answer.err
        assert rows.read_text() == "".join(lines[:-2])


def images(pixel: float = 0.5) -> Images:
    return Images(torch.full((2, 1, 2, 2), pixel), torch.zeros(2).long(), torch.arange(2), ("a", "b"))


@pytest.mark.parametrize(("change", "what"), [
    ({"images": images(0.25)}, "images"), ({"fingerprint": "f1"}, "model"), ({"device": torch.device("cuda")}, "device"),
    ({"torch": "1.0"}, "torch"), ({"gpu": "another GPU", "device": torch.device("cuda")}, "device")])
def test_what_a_run_began_with_has_to_be_there_when_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                               change: dict[str, object], what: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    folder, config = RunFolder(tmp_path), OmegaConf.create({"seed": 0})
    device = torch.device("cuda" if "gpu" in change else "cpu")
    first = {"folder": folder, "config": config, "device": device, "images": images(), "fingerprint": "f0"}
    record(**first)
    before = folder.provenance.read_bytes()
    assert json.loads(before)["model_fingerprint"] == "f0"
    record(**first)
    if "torch" in change:
        monkeypatch.setattr(subject_module, "version", lambda name: change["torch"])
    if "gpu" in change:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: change["gpu"])
    with pytest.raises(UserError, match=f"with the {what} that it began with") as caught:
        record(**{**first, **{key: value for key, value in change.items() if key in first}})
    assert "\n" not in str(caught.value)
    assert folder.provenance.read_bytes() == before
    folder.provenance.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        record(**first)


def test_the_usual_table_of_linf_radii_is_the_usual_one_of_l2() -> None:
    plan, noise = Sequential(20_000), make_noise("gaussian", 0.5)
    in_linf, in_l2 = (Procedure({"one": NeymanPearson(norm=norm)}, plan, "sequential", noise, 1e-3).course((1, 10, 10), 2)
                      for norm in ("linf", "l2"))
    assert in_linf.radii == pytest.approx([radius / 10 for radius in in_l2.radii], rel=1e-12)
    assert in_linf.table.levels == pytest.approx(in_l2.table.levels, rel=1e-7)
    assert in_linf.largest_radius("one") == pytest.approx(0.15, rel=1e-9)


def test_tables_of_two_norms_are_refused(trained: RunFolder, workplace: Path) -> None:
    answer = robust("certify", f"run={trained}", "noise_std=0.5", "sampling=sequential",
                    "certificate=[neyman_pearson,neyman_pearson_linf]")
    assert answer.code == 2
    assert "expected certificates of one norm" in answer.err


def test_the_default_certificates_say_what_sequential_needs(trained: RunFolder, workplace: Path) -> None:
    answer = robust("certify", f"run={trained}", "noise_std=0.5", "sampling=sequential", "subset=first:2")
    assert answer.code == 2
    assert "set certificate=[neyman_pearson]" in answer.err


@pytest.mark.parametrize(("words", "following"), [
    (("noise=laplace", "certificate=laplace_l1"), "noise=laplace subset=first:2 attack=pgd_l1 'budgets.l1=["),
    (("certificate=neyman_pearson_linf",), "attack=pgd_linf 'budgets.linf=["),
    (("shard=1/2",), "the other shards (2/2 of 2), then robust merge")])
def test_the_next_command_fits_what_was_certified(trained: RunFolder, workplace: Path, words: tuple[str, ...],
                                                  following: str) -> None:
    answer = robust("certify", f"run={trained}", "noise_std=0.5", "samples=100", "subset=first:2", *words)
    assert following in answer.out.rpartition("next: ")[2], answer.out
    if "shard=1/2" in words:
        other = robust("certify", f"run={trained}", "noise_std=0.5", "samples=100", "subset=first:2", "shard=2/2")
        last = other.out.rpartition("next: ")[2].split()
        assert last[:2] == ["robust", "merge"]
        merged = robust(*last[1:])
        assert merged.code == 0, merged.err
        assert "next: robust report" in merged.out


@pytest.mark.parametrize("noise_std", [0.7, 0.1, 0.5])
def test_radii_are_of_the_noise_that_was_drawn(noise_std: float) -> None:
    """Noise is scaled by the float32 next to noise_std, which for 0.7 is smaller by 2e-8 of it."""
    made = Procedure({"neyman_pearson": NeymanPearson()}, Fixed(100, 10), "fixed", make_noise("gaussian", noise_std), 0.001)
    course = made.course((1, 2, 2), 2)
    found = course.radius("neyman_pearson", Bounds(np.array([1, -1]), np.array([0.9, 0.4]), np.array([0.1, 0.6]), ""))
    drawn = float(torch.tensor(noise_std))
    assert found[0] <= NeymanPearson()(0.9, 0.1, drawn)
    assert found[0] <= NeymanPearson()(0.9, 0.1, noise_std)
    assert found[0] == pytest.approx(NeymanPearson()(0.9, 0.1, noise_std), rel=1e-7)
    assert found[1] == 0


def test_what_the_noise_may_lack_is_charged_to_the_failure_probability() -> None:
    made = Procedure({"neyman_pearson": NeymanPearson()}, Fixed(1000, 100), "fixed", make_noise("integer_grid", 0.5), 1e-3)
    charged = made.noise.residual(4, 1100)
    assert 0 < charged < 1e-6
    assert made.course((1, 2, 2), 2).failure_probability == 1e-3 - charged
    with pytest.raises(UserError, match="failure_probability: expected more than"):
        replace(made, failure_probability=charged / 2).course((1, 2, 2), 2)


def test_a_linf_certificate_knows_the_size_of_the_images() -> None:
    made = Procedure({"linf": NeymanPearson(norm="linf")}, Fixed(1000, 100), "fixed", make_noise("gaussian", 0.5), 1e-3)
    bounds = Bounds(np.array([1]), np.array([0.9]), np.array([0.1]), "")
    found = made.course((3, 10, 10), 2).radius("linf", bounds)[0]
    assert found == pytest.approx(NeymanPearson()(0.9, 0.1, 0.5) / 300**0.5, rel=1e-9)
    assert found <= NeymanPearson()(0.9, 0.1, 0.5) / 300**0.5


def test_a_tie_of_votes_is_no_majority() -> None:
    votes = np.array([[5, 5, 0], [4, 5, 1], [0, 5, 5], [10, 0, 0], [4, 4, 2]])
    assert majority(votes).tolist() == [-1, 1, -1, 0, -1]
