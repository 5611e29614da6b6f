"""The small network of the LP defence (Wong et al. 2018), also the smoothing literature's network for MNIST."""

from __future__ import annotations

import torch
from torch import nn

from robust_cli.models.shapes import check_shape


class CnnSmall(nn.Module):
    """conv4-16, ReLU, conv4-32, ReLU, dense 100, ReLU, dense K; convolutions with stride 2 and padding 1 halve the sides.

    [n, C, H, W] to logits [n, K]; sides from 4 pixels. Initial weights are torch's own.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = check_shape(shape, classes, smallest=4)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), 100), nn.ReLU(),
            nn.Linear(100, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)
