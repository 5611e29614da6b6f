"""SGR in training: a killed run goes on bit for bit, bf16 keeps the covariance exact, every perturbation trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robust_cli.attacks.deepfool import DeepFool
from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.attacks.pgd import Pgd
from robust_cli.datasets.images import Images
from robust_cli.regimes.batch import Batch, Losses, Progress, Regime
from robust_cli.regimes.gradient_norm import GradientNorm
from robust_cli.regimes.input_gradient import log_probability_gradient
from robust_cli.regimes.lrc_augmentation import CorrelatedAugmentation
from robust_cli.regimes.sgr import StructuredGradient
from robust_cli.runs.folder import RunFolder
from robust_cli.training.loop import FitResult, fit
from robust_cli.training.settings import Precision, Training


class Killed(BaseException):
    """Stands for a kill: nothing in the loop may catch it."""


class Killing(StructuredGradient):
    """Dies in its sixth step, the second of the second epoch: one epoch is in the checkpoint."""

    def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
        if progress.step == 5 and model.training:
            raise Killed
        return super().loss(model, batch, progress)


def stripes(n: int, channels: int = 1, seed: int = 0) -> Images:
    """uint8 [n, C, 8, 8]: class k has its bright column at 2k + 1, over noise."""
    labels = torch.arange(n) % 3
    pixels = torch.randint(0, 100, (n, channels, 8, 8), generator=torch.Generator().manual_seed(seed))
    pixels[torch.arange(n), :, :, 2 * labels + 1] += 120
    return Images(pixels.to(torch.uint8), labels, torch.arange(n), ("a", "b", "c"))


def network(channels: int = 1, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                             nn.Dropout(0.2), nn.Linear(64, 3))


def train(folder: Path, regime: Regime, channels: int = 1, model_seed: int = 0,
          settings: Training = Training(epochs=2, batch_size=16, learning_rate=5e-3)) -> tuple[nn.Module, FitResult]:
    folder.mkdir(exist_ok=True)
    model = network(channels, model_seed)
    found = fit(model, regime, stripes(50, channels), stripes(21, channels, seed=1), settings, seed=3, device=torch.device("cpu"),
                precision=Precision.auto, augment="none", folder=RunFolder(folder))
    return model, found


PGD: dict[str, Any] = {"perturbations": "attack", "attack": Pgd(norm="linf", steps=2), "budget": 0.1}


@pytest.mark.parametrize(("settings", "channels"), [
    ({"update_every": 3}, 1), ({"perturbations": "sign", "mean_term": True}, 1), ({"form": "function", "normalise": "unit"}, 3),
    ({**PGD, "update_every": 2}, 1), ({"normalise": "none", "bias_correction": False}, 3)])
def test_a_killed_run_ends_as_the_uninterrupted_one(tmp_path: Path, settings: dict[str, Any], channels: int) -> None:
    """The running covariance and the images' variance go on; validation between has not touched them."""
    expected, whole = train(tmp_path / "whole", StructuredGradient(**settings), channels)
    with pytest.raises(Killed):
        train(tmp_path / "cut", Killing(**settings), channels)
    found, again = train(tmp_path / "cut", StructuredGradient(**settings), channels, model_seed=9)
    for (name, a), b in zip(expected.state_dict().items(), found.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert (whole.validation_loss, whole.steps) == (again.validation_loss, again.steps)


@pytest.mark.parametrize("regime", [
    GradientNorm(), StructuredGradient(), StructuredGradient(perturbations="attack", attack=FastGradient(), budget=0.1),
    StructuredGradient(perturbations="attack", attack=DeepFool(steps=3), update_every=10), CorrelatedAugmentation(scale=0.1)])
def test_it_learns_with_all_of_them(tmp_path: Path, regime: Regime) -> None:
    settings = Training(epochs=12, batch_size=25, learning_rate=0.05)
    assert train(tmp_path / "a", regime, settings=settings)[1].train_accuracy > 0.9


@pytest.mark.parametrize("form", ["matrix", "function"])
def test_in_bf16_the_form_is_taken_in_float32(form: str) -> None:
    """The gradient has bfloat16's rounding; g' Sigma g of it has not, nor has Sigma itself."""
    model, images = network().train(), stripes(16)
    given = Batch(images.float(torch.arange(16)), images.labels, images.indices)
    regime = StructuredGradient(form=form, normalise="none")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.autocast("cpu", torch.bfloat16):
        gradient = log_probability_gradient(model, given.images, given.labels)[1].detach().double()
        found = regime.loss(model, given, Progress(0, 0, 10, 0))
    assert found.total.dtype == torch.float32
    found.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    if form == "matrix":
        rows = gradient.flatten(1)
        exact = 0.5 * ((rows @ rows.T) ** 2).mean()
        torch.testing.assert_close(found.terms["structured_gradient"].detach().double(), exact, rtol=1e-5, atol=0)
    assert all(value.dtype in (torch.float32, torch.float64) for value in regime.state_dict()["covariance"]["averages"].values())
