"""Cascades of networks of two pixels, whose balls can be searched point by point; and stages whose bounds are known on paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from robust_cli.verification.cascade import Cascade

Rule = Callable[[Cascade, torch.Tensor, torch.Tensor], torch.Tensor]  # (cascade, images, classes) -> radii claimed, float64 [n]


def pixels(n: int, seed: int = 0) -> torch.Tensor:
    """Random images of two pixels, [n, 1, 1, 2]."""
    return torch.rand(n, 1, 1, 2, generator=torch.Generator().manual_seed(seed))


def at(*first: float, second: float = 0.5) -> torch.Tensor:
    """Images whose first pixel has these values."""
    return torch.tensor([[first_, second] for first_ in first]).view(-1, 1, 1, 2)


def dense(seed: int, classes: int = 2, steep: float = 6.0) -> nn.Module:
    """2-8-K with kinks and changes of class all over the box."""
    generator = torch.Generator().manual_seed(seed)
    first, last = nn.Linear(2, 8), nn.Linear(8, classes)
    with torch.no_grad():
        rows = torch.randn(8, 2, generator=generator)
        first.weight.copy_(steep * rows / rows.norm(dim=1, keepdim=True))
        first.bias.copy_(-(first.weight * torch.rand(8, 2, generator=generator)).sum(1))
        last.weight.copy_(torch.randn(classes, 8, generator=generator))
        last.bias.copy_(-(first(torch.rand(500, 2, generator=generator)).relu() @ last.weight.T).median(0).values)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)


def random_cascade(seed: int, stages: int = 3, norm: str = "l2", radius: float = 0.05, classes: int = 2) -> Cascade:
    """Stages that know nothing of one another and disagree in many places."""
    return Cascade([dense(100 * seed + k, classes) for k in range(stages)], norm, radius).eval()


def threshold(where: float, steep: float = 3.0) -> nn.Module:
    """Class 1 where the first pixel is above a value, else 0: in either norm what it certifies is the distance from there."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0], [steep, 0.0]]))
        layer.bias.copy_(torch.tensor([0.0, -steep * where]))
    return nn.Sequential(nn.Flatten(), layer)


def thresholds(*where: float, norm: str = "l2", radius: float = 0.1) -> Cascade:
    return Cascade([threshold(each) for each in where], norm, radius).eval()


@torch.no_grad()
def answers(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model(images).argmax(1)


def ball(image: torch.Tensor, radius: float, norm: str, side: int = 25) -> torch.Tensor:
    """A grid of the ball around one image, as far as it lies in [0, 1], [m, 1, 1, 2]."""
    line = torch.linspace(-1, 1, side)
    shifts = radius * (1 - 1e-6) * torch.cartesian_prod(line, line)
    if norm == "l2":
        shifts = shifts[shifts.norm(dim=1) <= radius * (1 - 1e-6)]
    points = image.view(1, 2) + shifts
    return points[((points >= 0) & (points <= 1)).all(1)].view(-1, 1, 1, 2)


def broken(model: nn.Module, images: torch.Tensor, classes: torch.Tensor, radii: Sequence[float] | torch.Tensor,
           norm: str, side: int = 25) -> torch.Tensor:
    """Whether the grid of each image's ball has a point of another class, bool [n]: an exhaustive search."""
    found = [ball(image, float(radius), norm, side) for image, radius in zip(images, radii, strict=True)]
    if not found:
        return torch.zeros(0, dtype=torch.bool)
    parts = answers(model, torch.cat(found)).split([len(points) for points in found])
    return torch.stack([(part != label).any() for part, label in zip(parts, classes, strict=True)])
