"""The large network of the LP defence (Wong et al. 2018)."""

from __future__ import annotations

import torch
from torch import nn

from robust_cli.models.shapes import check_shape


class CnnLarge(nn.Module):
    """conv3-32, ReLU, conv4-32, ReLU, conv3-64, ReLU, conv4-64, ReLU, dense 512, ReLU, dense 512, ReLU, dense K; padding 1, the
    4x4 convolutions have stride 2 and halve the sides.

    [n, C, H, W] to logits [n, K]; sides from 4 pixels. Initial weights are torch's own. Training it on its dual bounds
    (regime=lp_dual) wants random projections (regime.projections=50), as in the paper.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = check_shape(shape, classes, smallest=4)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 4, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 512), nn.ReLU(),
            nn.Linear(512, 512), nn.ReLU(),
            nn.Linear(512, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)
