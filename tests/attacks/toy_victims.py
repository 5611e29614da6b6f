"""Small classifiers whose worst case is known in closed form, closest-example attacks, and an attack that does nothing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from robust_cli.attacks.carlini_wagner import CarliniWagner
from robust_cli.attacks.classifiers import BaseClassifier
from robust_cli.attacks.ddn import Ddn
from robust_cli.attacks.deepfool import DeepFool
from robust_cli.attacks.fmn import Fmn
from robust_cli.datasets.digits import Digits
from robust_cli.smoothing.noise import ImageDraws

SHAPE = (1, 4, 4)
PIXELS = 16
FLAT = 50.0  # the margin loss of two classes whose logits are (-q, 0), label 0, is q - 50
CW = CarliniWagner(steps=100, search_steps=5)
CLOSEST: dict[str, Any] = {"deepfool": DeepFool(), "ddn": Ddn(), "fmn_l2": Fmn(), "fmn_linf": Fmn(norm="linf"),
                           "carlini_wagner": CW}
every_attack = pytest.mark.parametrize("name", CLOSEST)


class Halfspace(nn.Module):
    """Logits (0, w.x + b)."""

    def __init__(self, weight: torch.Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.float()), bias

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = images.flatten(1) @ self.weight + self.bias
        return torch.stack([torch.zeros_like(score), score], 1)


class Polynomial(nn.Module):
    """Logits (-q, 0) with q = g.d + d'Hd/2 + c (v.d)^3, d = x - centre: label 0's margin loss is q - 50 exactly."""

    def __init__(self, hessian: torch.Tensor, gradient: torch.Tensor | None = None, cubic: torch.Tensor | None = None) -> None:
        super().__init__()
        self.hessian = nn.Parameter(hessian.float())
        self.gradient = torch.zeros(PIXELS) if gradient is None else gradient.float()
        self.cubic = torch.zeros(PIXELS) if cubic is None else cubic.float()

    def q(self, images: torch.Tensor) -> torch.Tensor:
        d = images.flatten(1) - 0.5
        return d @ self.gradient + ((d @ self.hessian) * d).sum(1) / 2 + (d @ self.cubic) ** 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        q = self.q(images)
        return torch.stack([-q, torch.zeros_like(q)], 1)


class Raw(nn.Module):
    """Pixels as logits, for losses written on pixels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def curved(seed: int = 0, classes: int = 3) -> nn.Module:
    """A smooth random network with dropout and batch normalisation, which evaluation mode has to switch."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Dropout(0.5),
                          nn.Linear(32, classes))
    with torch.no_grad():
        model[1].weight.mul_(4)
        model[5].weight.mul_(4)
    return model


def symmetric(eigenvalues: Sequence[float], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(matrix, eigenvectors as columns) with these eigenvalues first and zeros after, float64."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(PIXELS, PIXELS, generator=generator, dtype=torch.float64)).Q
    values = torch.zeros(PIXELS, dtype=torch.float64)
    values[: len(eigenvalues)] = torch.tensor(list(eigenvalues), dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.T, basis


def uneven_weights(seed: int = 0) -> torch.Tensor:
    """Weights of both signs and unequal sizes."""
    return torch.randn(PIXELS, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.2, 3, PIXELS)


def grey(n: int) -> torch.Tensor:
    """Images in the middle of the box."""
    return torch.full((n, *SHAPE), 0.5)


def random_images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def draws(n: int, purpose: str = "test", first: int = 0) -> ImageDraws:
    return ImageDraws("cpu", 0, purpose, range(first, first + n))


class Relentless(BaseClassifier):
    """A base classifier that never says that an image is fooled, so that attacks take all their steps: how far they get shows.

    Its lead keeps the order of the true one, below 0.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, stops=False)

    def lead(self, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        return -torch.exp(-super().lead(images, labels, draws).clamp(-30, 30))


@dataclass(frozen=True)
class Identity:
    """An attack that returns its input: every test of strength must refuse it."""

    norm: str = "l2"
    budget: float | None = None

    def __call__(self, classifier: object, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        return images


class Affine(nn.Module):
    """Logits Wx + b of several classes."""

    def __init__(self, classes: int = 5, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, PIXELS, generator=generator) * torch.linspace(0.2, 3, PIXELS))
        self.bias = 3 * torch.randn(classes, generator=generator) - self.weight.detach().sum(1) / 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight.T + self.bias


def exact(model: Affine, images: torch.Tensor, labels: torch.Tensor, norm: str) -> torch.Tensor:
    """The distance of the nearest face where the box does not bind: lead over the dual norm of the slope."""
    with torch.no_grad():
        logits = model(images)
    slopes = model.weight.detach()[labels][:, None] - model.weight.detach()[None]
    lengths = slopes.norm(dim=2) if norm == "l2" else slopes.abs().sum(2)
    away = (logits.gather(1, labels[:, None]) - logits) / lengths
    return away.scatter(1, labels[:, None], torch.inf).amin(1)


def attacked(attack: Any, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return attack(BaseClassifier(model), images, labels, draws(len(images)))


def answers(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images).argmax(1)


def problem() -> tuple[Affine, torch.Tensor, torch.Tensor]:
    """Images so near to the boundary, and so far from black and white, that the box does not bind."""
    model = Affine()
    images = 0.5 + 0.1 * (random_images(12) - 0.5)
    return model, images, answers(model, images)


@cache
def trained_on_digits() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small network trained on digits of 14x14 pixels, and its first 60 test images with their labels."""
    train, test = Digits().split("train"), Digits().split("test")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images, labels = nn.functional.avg_pool2d(train.float(), 2), train.labels
        model = nn.Sequential(nn.Flatten(), nn.Linear(196, 32), nn.ReLU(), nn.Linear(32, 10))
        optimiser = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(8):
            for rows in torch.randperm(len(images)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
                optimiser.step()
        optimiser.zero_grad()
    return model, nn.functional.avg_pool2d(test.float()[:60], 2), test.labels[:60]


def victims(count: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A copy of that network, and those of the first ``count`` test images that it gets right."""
    model, images, labels = trained_on_digits()
    model = copy.deepcopy(model)
    with torch.no_grad():
        right = model(images[:count]).argmax(1) == labels[:count]
    return model, images[:count][right], labels[:count][right]
