"""STN's network for MNIST (Li et al. 2019), the first of Tramer et al.'s (2018) ensemble adversarial training."""

from __future__ import annotations

import torch
from torch import nn

from robust_cli.messages import check
from robust_cli.models.shapes import check_shape


class CnnMnist(nn.Module):
    """conv5-64, ReLU, conv5-64, ReLU, dropout, dense 128, ReLU, dropout, dense K; convolutions without padding.

    [n, C, H, W] to logits [n, K]; sides from 9 pixels. ``convolution_dropout`` and ``dense_dropout``: probabilities in [0, 1)
    that a unit is dropped in training. Initial weights are torch's own.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, convolution_dropout: float = 0.25,
                 dense_dropout: float = 0.5) -> None:
        super().__init__()
        channels, height, width = check_shape(shape, classes, smallest=9)
        for name, share in (("convolution_dropout", convolution_dropout), ("dense_dropout", dense_dropout)):
            check(0 <= share < 1, name, "a probability in [0, 1)", share)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, 5), nn.ReLU(),
            nn.Conv2d(64, 64, 5), nn.ReLU(), nn.Dropout(convolution_dropout),
            nn.Flatten(),
            nn.Linear(64 * (height - 8) * (width - 8), 128), nn.ReLU(), nn.Dropout(dense_dropout),
            nn.Linear(128, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)
