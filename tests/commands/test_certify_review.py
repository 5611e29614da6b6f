"""What certify writes of its votes: each column from the votes that its statement names, by its config's noise and plan."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.commands import proving
from robust_cli.commands.proving import Procedure
from robust_cli.composing.schema import Noise
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder
from robust_cli.smoothing import noises
from robust_cli.smoothing.collection import Collection
from robust_cli.smoothing.noises import make_noise
from robust_cli.smoothing.plans.anytime import Anytime
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import Sampling
from robust_cli.smoothing.plans.sequential import Sequential

SHAPE = (1, 2, 2)
PLAN = "robust_cli.smoothing.plans"


def procedure(plan: Sampling) -> Procedure:
    return Procedure(certificates={"np": NeymanPearson()}, plan=plan, name="plan", noise=make_noise("gaussian", 0.5),
                     failure_probability=0.001)


def results(folder: RunFolder, plan: Sampling, selection: list[int], estimation: list[float], label: int) -> pd.Series:
    """The row of one image whose votes are ``selection``, and as near to the shares ``estimation`` as whole numbers go."""
    made = procedure(plan)
    course = made.course(SHAPE, len(selection))
    collection = Collection(course, [5], [label], len(selection))
    while (block := collection.wanted(5)) is not None:
        shares = [int(share * block.draws) for share in estimation]
        shares[int(np.argmax(estimation))] += block.draws - sum(shares)
        collection.take(5, block.purpose, block.block, selection if block.purpose == "selection" else shares)
    config = OmegaConf.create({"samples": plan.samples, "failure_probability": 0.001, "discount": None,
                               "sampling": {"_target_": "x"}})
    proving.write_results(folder, config, made, course, collection, {"classes": len(selection)}, None)
    table = pd.read_csv(folder.certificates)
    assert len(table) == 1
    return table.iloc[0]


def test_a_fixed_plan_answers_from_its_estimation_and_certifies_the_selected_class(tmp_path: Path) -> None:
    row = results(RunFolder(tmp_path), Fixed(1000, 100), [60, 40, 0], [0.1, 0.8, 0.1], label=1)
    assert (row["majority"], row["prediction"]) == (1, 1)  # of the estimation votes
    assert (row["predicted"], row["radius"]) == (-1, 0)  # the selected class has too few of them
    row = results(RunFolder(tmp_path), Fixed(1000, 100), [60, 40, 0], [0.8, 0.1, 0.1], label=1)
    assert (row["majority"], row["prediction"], row["predicted"]) == (0, 0, 0)
    assert row["radius"] > 0


@pytest.mark.parametrize("plan", [Anytime(20_000, 64), Sequential(20_000, 64)], ids=["anytime", "sequential"])
def test_a_plan_that_stops_early_predicts_from_votes_that_did_not_stop(tmp_path: Path, plan: Sampling) -> None:
    """The binomial test of Algorithm 1 does not hold for votes that were stopped on their own evidence."""
    row = results(RunFolder(tmp_path), plan, [34, 30, 0], [0.95, 0.05, 0.0], label=0)
    assert row["predicted"] == 0
    assert row["majority"] == 0
    assert row["prediction"] == -1  # 34 of 64 prove nothing
    row = results(RunFolder(tmp_path), plan, [60, 4, 0], [0.5, 0.45, 0.05], label=0)
    assert row["prediction"] == 0


@pytest.mark.parametrize("plan", [Anytime(20_000, 64, label_aware=True), Sequential(20_000, 64, label_aware=True)],
                         ids=["anytime", "sequential"])
def test_a_skipped_image_has_no_answer_of_any_kind(tmp_path: Path, plan: Sampling) -> None:
    row = results(RunFolder(tmp_path), plan, [60, 4, 0], [0.9, 0.1, 0.0], label=1)
    assert row["stopped"] == "skipped"
    assert (row["predicted"], row["majority"], row["prediction"], row["radius"], row["draws"]) == (-1, -1, -1, 0, 64)


@pytest.mark.parametrize("change", [("samples", 999), ("failure_probability", 0.01), ("noise_std", 0.25),
                                    ("selection_samples", 9)])
def test_a_run_does_not_go_on_under_another_plan(tmp_path: Path, change: tuple[str, float]) -> None:
    folder, course = RunFolder(tmp_path), procedure(Fixed(1000, 100)).course(SHAPE, 3)
    proving.keep_plan(folder, course)
    before = folder.plan.read_bytes()
    proving.keep_plan(folder, course)
    assert folder.plan.read_bytes() == before
    said = json.loads(before)
    assert change[0] in said
    folder.plan.write_text(json.dumps(said | dict([change])))
    with pytest.raises(UserError, match=change[0]):
        proving.keep_plan(folder, course)


def config(noise: str, certificate: str) -> DictConfig:
    return OmegaConf.create({
        "noise": Noise[noise], "noise_std": 0.5, "samples": 100, "selection_samples": None, "failure_probability": 0.001,
        "sampling": {"_target_": f"{PLAN}.fixed.Fixed"},
        "certificate": {"it": {"_target_": f"robust_cli.certificates.{certificate}"}}})


CERTIFICATES = {"gaussian": "neyman_pearson.NeymanPearson", "integer_grid": "neyman_pearson.NeymanPearson",
                "laplace": "laplace.Laplace", "uniform": "uniform.Uniform"}


@pytest.mark.parametrize("noise", noises.KINDS)
def test_the_noise_drawn_is_the_kind_that_is_asked_for_and_certified(noise: str) -> None:
    made = proving.procedure(config(noise, CERTIFICATES[noise]))
    drawn, expected = torch.zeros(64, *SHAPE), torch.zeros(64, *SHAPE)
    made.noise.write(drawn, torch.zeros(SHAPE), 0, "a", 0, 0)
    make_noise(noise, 0.5).write(expected, torch.zeros(SHAPE), 0, "a", 0, 0)
    assert torch.equal(drawn, expected)
    for other, certificate in CERTIFICATES.items():
        if certificate != CERTIFICATES[noise]:
            with pytest.raises(UserError, match="holds for noise="):
                proving.procedure(config(noise, CERTIFICATES[other]))
