"""A verifier as a user would write one: the exact radius of a network that is one linear layer, which has a closed form."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from robust_cli.messages import UserError


class Linear(nn.Module):
    """One layer, whose weights are asked for in tests."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))


@dataclass(frozen=True)
class Exact:
    """min_k (f_c - f_k) / |w_c - w_k|, of the dual norm of ``norm``; ``pause``: seconds that it takes at least."""

    norm: str = "l2"
    radius: float | None = None
    pause: float = 0.0
    verifies: ClassVar[bool] = True

    def __call__(self, model: nn.Module, images: torch.Tensor, classes: torch.Tensor, norm: str,
                 radius: float | None) -> torch.Tensor:
        time.sleep(self.pause)
        if not any(isinstance(part, Linear) for part in model.modules()):
            raise UserError("certificate: expected a network of one linear layer")
        assert not model.training
        exact, points, at = copy.deepcopy(model).double(), images.double(), torch.arange(len(images))
        units = torch.eye(points[0].numel(), dtype=torch.float64).view(-1, *images.shape[1:])
        weights = (exact(units) - exact(torch.zeros_like(units[:1]))).T
        logits = exact(points)
        margins = logits[at, classes][:, None] - logits
        sizes = torch.linalg.vector_norm(weights[classes][:, None] - weights, ord=2 if norm == "l2" else 1, dim=2)
        found = torch.where(sizes > 0, margins / sizes, torch.inf).amin(1).clamp(min=0.0)
        return found if radius is None else found >= radius


@dataclass(frozen=True)
class Nonsense(Exact):
    """Answers what is none: ``answer`` says what."""

    answer: str = "text"

    def __call__(self, model: nn.Module, images: torch.Tensor, classes: torch.Tensor, norm: str, radius: float | None) -> object:
        return {"text": "all", "float": torch.ones(len(images)), "short": torch.ones(len(images) + 1, dtype=torch.float64),
                "no_number": torch.full((len(images),), torch.nan, dtype=torch.float64),
                "negative": torch.full((len(images),), -1.0, dtype=torch.float64)}[self.answer]
