"""Certificates that are proofs of the network itself: no noise is asked of them, and nothing of noisy votes goes beside them."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
import yaml

from robust_cli.composing.verifiers import OF_VOTES, verifiers
from robust_cli.messages import UserError

OWN = ("-cd", "my")
TYPED = {"noise_std": "0.5", "noise": "gaussian", "smoothing.layer": "input", "samples": "10000", "selection_samples": "100",
         "sampling": "fixed", "failure_probability": "0.001", "discount": "0.95", "workers": "2"}


@pytest.fixture
def run(robust, good, monkeypatch):
    """A training run with noise, beside a verifier of the user's own, whose module imports no torch."""
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    (robust.home / "my" / "certificate").mkdir(parents=True)
    (robust.home / "my" / "a_proof_of_mine.py").write_text("class Proof:\n    verifies = True\n")
    (robust.home / "my" / "certificate" / "mine.yaml").write_text(
        "# @package certificate.mine\n# Mine. Source: me\n_target_: a_proof_of_mine.Proof\n")
    return pytest.write_run(robust.home / "run", good)


def refused(robust, *words: str) -> str:
    ended = robust("certify", *words, *OWN)
    assert (ended.code, ended.err.count("\n"), robust.folders()) == (2, 1, []), ended.err
    return ended.err


def test_it_needs_no_noise_and_takes_none_from_the_training(robust, run):
    robust.done("certify", f"run={run}", "certificate=mine", *OWN)
    config = robust.seen[-1][0]
    assert (config.noise_std, config.smoothing.layer) == (None, None)
    assert list(config.certificate) == ["mine"]


@pytest.mark.parametrize("certificate", ["lp_dual", "lp_dual_published"])
def test_ours_needs_none_either(robust, run, certificate):
    robust.done("certify", f"run={run}", f"certificate=[{certificate}]", f"certificate.{certificate}.radius=1.58")
    config = robust.seen[-1][0]
    assert (config.noise_std, config.certificate[certificate].radius) == (None, 1.58)


def test_what_is_a_verifier_is_what_its_class_says():
    nodes = {name: {"_target_": f"robust_cli.{target}"} for name, target in (
        ("lp_dual", "verification.lp_dual.LpDual"), ("tight", "certificates.neyman_pearson.NeymanPearson"))}
    assert verifiers(nodes) == ["lp_dual"]
    with pytest.raises(UserError, match=r"certificate.none._target_: cannot import nowhere.Proof"):
        verifiers({"none": {"_target_": "nowhere.Proof"}})


def test_every_setting_of_votes_is_tried_here():
    assert set(TYPED) == set(OF_VOTES)


@pytest.mark.parametrize("key", TYPED)
def test_a_setting_of_noisy_votes_is_refused_though_it_is_the_default(robust, run, key):
    err = refused(robust, f"run={run}", "certificate=mine", f"{key}={TYPED[key]}")
    assert err.startswith(f"robust certify: {key}: certificate=mine proves the network itself, without noise, draws or a failure "
                          f"probability, so that nothing reads it, got {TYPED[key]}; leave it out")


@pytest.mark.parametrize("words", ["sampling=anytime", "sampling.tolerance=0.1"])
def test_another_plan_is_refused(robust, run, words):
    more = ("sampling=anytime",) if "." in words else ()
    err = refused(robust, f"run={run}", "certificate=mine", words, *more)
    assert "sampling: certificate=mine proves the network itself" in err


@pytest.mark.parametrize(("text", "key"), [("noise_std: 0.5", "noise_std"), ("samples: 100", "samples"),
                                           ("smoothing: {layer: first}", "smoothing.layer"), ("precision: bf16", "precision")])
def test_an_experiment_may_not_set_them_either(robust, run, text, key):
    (robust.home / "my" / "experiment").mkdir()
    (robust.home / "my" / "experiment" / "odd.yaml").write_text(f"# @package _global_\n{text}\n")
    assert f"{key}: " in refused(robust, f"run={run}", "certificate=mine", "experiment=odd")


def test_what_does_not_matter_may_be_typed(robust, run):
    robust.done("certify", f"run={run}", "certificate=mine", "noise_std=null", "seed=3", "subset=first:2", "device=cpu",
                "precision=fp32", "shard=1/2", *OWN)


def test_bf16_is_another_network(robust, run):
    assert ("precision: expected fp32 with certificate=mine, which proves the network of the fp32 weights, got bf16"
            in refused(robust, f"run={run}", "certificate=mine", "precision=bf16"))


@pytest.mark.parametrize("words", ["certificate=[mine,renyi]", "certificate=[renyi,mine,pixeldp]"])
def test_beside_certificates_of_the_smoothed_classifier_it_is_refused(robust, run, words):
    err = refused(robust, f"run={run}", words)
    assert "certificate: expected verifiers alone or none, got mine, which prove the network itself, beside renyi" in err
    assert "certify once for each" in err


def test_two_verifiers_go_together(robust, run):
    robust.done("certify", f"run={run}", "certificate=[mine,lp_dual]", *OWN)
    robust.done("certify", f"run={run}", "certificate=lp_dual", "+certificate@certificate.wide=lp_dual",
                "certificate.wide.norm=linf")
    assert robust.seen[-1][0].certificate.wide.norm == "linf"


def test_a_sampled_run_still_needs_its_noise(robust, good):
    path = pytest.write_run(robust.home / "plain", good, about={"training_noise_std": None})
    assert "was trained without noise; say which noise to smooth it with" in robust("certify", f"run={path}").err
    robust.done("certify", f"run={path}", "certificate=lp_dual")


def test_a_model_of_ones_own_needs_no_noise(robust, run):
    (robust.home / "w.pth").write_bytes(b"one")
    robust.done("certify", "model=cnn_small", "model.weights=w.pth", "dataset=digits", "certificate=mine", *OWN)
    config, folder = robust.seen[-1]
    assert (config.run, config.noise_std, config.choices.regime) == (None, None, "own")
    robust.done("certify", f"run={folder}", "certificate=mine", *OWN)
    assert "had a base classifier; say which noise" in robust("certify", f"run={folder}", *OWN).err


def test_resuming_refuses_them_too(robust, run):
    def stop(config: Any, folder: Any) -> None:
        raise KeyboardInterrupt

    robust.fail = stop
    robust("certify", f"run={run}", "certificate=mine", *OWN)
    folder, robust.fail = robust.seen.pop()[1], lambda config, folder: None
    ended = robust("certify", f"resume={folder}", "failure_probability=0.001", *OWN)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "failure_probability: certificate=mine proves the network itself" in ended.err
    robust.done("certify", f"resume={folder}", *OWN)
    assert robust.seen[-1][0].noise_std is None
    assert yaml.safe_load(folder.config.read_text())["noise_std"] is None


def test_resuming_without_ones_own_configs_says_how(robust, run):
    """The class is none of ours, so that a config found on a disk may not import it."""
    def stop(config: Any, folder: Any) -> None:
        raise KeyboardInterrupt

    robust.fail = stop
    robust("certify", f"run={run}", "certificate=mine", *OWN)
    folder = robust.seen.pop()[1]
    assert "'a_proof_of_mine.Proof' is none of the classes that robust ships" in robust("certify", f"resume={folder}").err
