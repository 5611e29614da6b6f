"""AlexNet for 32x32 images as AMR trains it (ICLR 2020 submission)."""

from __future__ import annotations

import torch
from torch import nn

from robust_cli.models.shapes import check_shape

_SMALLEST = 29  # three poolings leave a pixel from here on


class AlexNet(nn.Module):
    """conv11-64 (stride 4, padding 5), ReLU, pool2, conv5-192, pool2, ReLU, conv3-384, ReLU, conv3-256, ReLU, conv3-256,
    pool2, ReLU, dense 4096, ReLU, dense 4096, ReLU, dense K.

    [n, C, H, W] to logits [n, K]; sides from 29 pixels (AMR has none for MNIST's 28). Sides of 32 pixels become 8, 4, 2 and
    1; the convolutions after the first keep the size. AMR's text calls 256 the width of the first dense layer: these are its
    inputs, its width is 4096. AMR's code has no dropout. The first block is convolution then ReLU, as AMR's regulariser
    needs; in the later ones it pools before the ReLU, which is the same function. Initial weights are torch's own.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = check_shape(shape, classes, smallest=_SMALLEST)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, 11, stride=4, padding=5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 192, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256 * _left(height) * _left(width), 4096), nn.ReLU(),
            nn.Linear(4096, 4096), nn.ReLU(),
            nn.Linear(4096, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def _left(side: int) -> int:
    """What the stride of 4 and three poolings leave of a side."""
    return ((side - 1) // 4 + 1) // 8
