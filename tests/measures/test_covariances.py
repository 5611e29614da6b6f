"""The measure of covariances: known perturbations give their known functions, and every number says what it is of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from robust_cli.attacks.classifiers import BaseClassifier
from robust_cli.composing.build import build
from robust_cli.covariance import correlation, covariance_function, decay_length, root
from robust_cli.datasets.images import Images
from robust_cli.measures.covariances import COLUMNS, Covariances
from robust_cli.measures.measure import Material
from robust_cli.messages import UserError

N, SHAPE = 500, (2, 8, 8)


def noise(length: float, seed: int, n: int = N) -> torch.Tensor:
    """Correlation exp(-r / length) within a channel and half of it between the two, variance 1."""
    channels = torch.tensor([[1, 0.5], [0.5, 1]], dtype=torch.float64)
    z = torch.randn(n, 128, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (z @ root(torch.kron(channels, correlation(8, 8, length))).T).view(n, *SHAPE)


def images_of(pixels: torch.Tensor) -> Images:
    return Images(pixels, torch.zeros(len(pixels)).long(), torch.arange(len(pixels)), ("a", "b"))


TRAINING = images_of((90 + torch.arange(128).view(SHAPE) / 2 + 10 * noise(4.0, 9)).round().clamp(0, 255).to(torch.uint8))


def material(adversarial: Mapping[tuple[str, float], torch.Tensor], originals: torch.Tensor,
             training: Images = TRAINING) -> Material:
    attacks: dict[str, list[tuple[float, Any]]] = {}
    for name, budget in adversarial:
        attacks.setdefault(name, []).append((budget, None))
    return Material(classifier=BaseClassifier(nn.Flatten()), images=images_of(originals), attacks=attacks, seed=0, batch_size=7,
                    outcomes=pd.DataFrame(), adversarial=lambda name, budget: adversarial[name, budget].numpy(),
                    training_images=lambda: training, device=torch.device("cpu"))


def function(table: pd.DataFrame, attack: str, budget: float, channels: str = "intra") -> pd.DataFrame:
    chosen = table[(table["attack"] == attack) & (table["budget"] == budget) & (table["channels"] == channels)]
    assert chosen["displacement"].tolist() == list(range(11))  # 7 sqrt(2) pixels at most
    return chosen


@pytest.fixture(scope="module")
def measured() -> tuple[pd.DataFrame, dict[tuple[str, float], torch.Tensor]]:
    originals = torch.full((N, *SHAPE), 0.5)
    moved = {("near", 0.1): 0.01 * noise(1.0, 0), ("near", 0.2): 0.02 * noise(1.0, 1), ("far", math.inf): 1e-4 * noise(4.0, 2)}
    moved["far", math.inf][::2] = 0
    found = {key: (originals + delta).float() for key, delta in moved.items()}
    return Covariances()(material(found, originals)), {key: image - originals for key, image in found.items()}


def test_functions_of_the_stored_perturbations(measured: tuple[pd.DataFrame, dict[tuple[str, float], torch.Tensor]]) -> None:
    table, moved = measured
    assert tuple(table.columns) == COLUMNS
    assert list(dict.fromkeys(zip(table["attack"], table["budget"], strict=True))) == [*moved, ("data", 0.0)]
    for (name, budget), delta in moved.items():
        expected = covariance_function(delta[delta.flatten(1).any(1)]).rescaled()
        assert expected.inter is not None
        for channels, values in (("intra", expected.intra), ("inter", expected.inter)):
            rows = function(table, name, budget, channels)
            np.testing.assert_allclose(rows["value"], values.numpy(), rtol=0, atol=1e-12)
            assert rows["decay_length"].tolist() == [decay_length(values)] * 11
            assert set(rows["images"]) == {N // 2 if name == "far" else N}  # those that were moved


def test_known_noise_has_its_known_function(measured: tuple[pd.DataFrame, dict[tuple[str, float], torch.Tensor]]) -> None:
    table, _ = measured
    for name, budget, length in (("near", 0.2, 1.0), ("far", math.inf, 4.0), ("data", 0.0, 4.0)):
        intra, inter = function(table, name, budget), function(table, name, budget, "inter")
        assert intra["value"].iloc[0] == 1.0
        assert inter["value"].iloc[0] == pytest.approx(0.5, abs=0.03)
        assert intra["decay_length"].iloc[0] == pytest.approx(length, rel=0.2)
        assert intra["value"].iloc[4] == pytest.approx(math.exp(-4 / length), abs=0.05)


def test_the_data_is_centred(measured: tuple[pd.DataFrame, dict[tuple[str, float], torch.Tensor]]) -> None:
    """Its mean image, here a steep ramp, would make far pixels look alike."""
    rows = function(measured[0], "data", 0.0)
    assert set(rows["images"]) == {len(TRAINING)}
    raw = covariance_function(TRAINING.pixels).rescaled().intra
    assert float(raw[10]) > 0.9 > 0.3 > rows["value"].iloc[10]


def test_an_attack_that_moved_nothing_has_no_rows_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    originals = torch.rand(3, 1, 4, 4)
    grey = images_of(torch.rand(20, 1, 4, 4))
    table = Covariances()(material({("idle", 0.5): originals, ("one", 0.5): 1 - originals}, originals, grey))
    assert list(dict.fromkeys(table["attack"])) == ["one", "data"]
    assert set(table["channels"]) == {"intra"}  # there is one channel
    assert "idle at 0.5 moved no image" in capsys.readouterr().out


def test_images_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(UserError, match="training images that differ, found 5 alike"):
        Covariances()(material({}, torch.zeros(2, 1, 4, 4), images_of(torch.full((5, 1, 4, 4), 0.1))))


def test_the_config_builds_it() -> None:
    text = (Path(__file__).resolve().parents[2] / "conf" / "measure" / "covariances.yaml").read_text()
    assert " Source: SGR (Roth et al. 2018)" in text
    assert build(yaml.safe_load(text), "measure.covariances") == Covariances()
