"""Models whose input gradients are known: linear softmax, one direction for each image, and a smooth network; in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from robust_cli.regimes.batch import Batch, Progress
from robust_cli.regimes.sgr import StructuredGradient

PROGRESS = Progress(step=0, epoch=0, total=10, seed=11)
W = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.5]], dtype=torch.float64)
B = torch.tensor([0.0, 0.1, -0.2], dtype=torch.float64)
SIGMA = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
X = torch.tensor([0.5, -0.25], dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(images: torch.Tensor, labels: Sequence[int] | torch.Tensor) -> Batch:
    labels = torch.as_tensor(labels)
    return Batch(images, labels, torch.arange(len(images)))


def random_batch(n: int = 6, shape: tuple[int, int, int] = (2, 4, 5), classes: int = 3, seed: int = 0) -> Batch:
    images = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return batch(images, torch.arange(n) % classes)


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(weight.shape[0]) if bias is None else bias)
    return nn.Sequential(nn.Flatten(), layer)


def log_gradients(weight: torch.Tensor, bias: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """w_y - <w> of each image, [n, d]: the closed form of grad log phi_y for a linear softmax."""
    shares = (images.flatten(1) @ weight.T + bias).softmax(1)
    return weight[labels] - shares @ weight


class Directions(nn.Module):
    """Logits (d_i . x_i, 0) of the i-th image of a batch: its gradient of log phi_0 at x_i = 0 is d_i / 2."""

    def __init__(self, directions: torch.Tensor) -> None:
        super().__init__()
        self.directions = nn.Parameter(directions)
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        first = (images * self.directions[: len(images)]).flatten(1).sum(1)
        return torch.stack([first, torch.zeros_like(first)], 1)


def smooth(shape: tuple[int, int, int] = (2, 4, 5), classes: int = 3, seed: int = 0) -> nn.Module:
    """A convolution, tanh and two dense layers, without kinks, so that differences converge; steep."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size = 3 * shape[1] * shape[2]
        model = nn.Sequential(nn.Conv2d(shape[0], 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(size, 7), nn.Softplus(),
                              nn.Linear(7, classes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2
    return model


class Shift:
    """An attack that adds a fixed perturbation, whatever the budget allows: what the covariance is of is then known."""

    norm = "linf"
    closest = True

    def __init__(self, *perturbations: torch.Tensor) -> None:
        self.perturbations = perturbations
        self.calls = 0

    def __call__(self, classifier: Any, images: torch.Tensor, labels: torch.Tensor, draws: Any) -> torch.Tensor:
        self.calls += 1
        return images + self.perturbations[(self.calls - 1) % len(self.perturbations)]


def omega(regime: StructuredGradient, model: torch.nn.Module, images: Batch, progress: Progress = PROGRESS) -> torch.Tensor:
    """The regulariser before its weight."""
    return regime.loss(model, images, progress).terms["structured_gradient"].detach()
