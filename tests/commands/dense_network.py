"""A network as a user would write one, whose dual bounds take no time: two layers."""

from __future__ import annotations

import torch
from torch import nn


class Dense(nn.Module):
    """Flatten, dense, ReLU, dense."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], width), nn.ReLU(),
                                    nn.Linear(width, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)
