"""SGR's network (Roth et al. 2018), which is Carlini and Wagner's (2017)."""

from __future__ import annotations

import torch
from torch import nn

from robust_cli.messages import check
from robust_cli.models.shapes import check_shape
from robust_cli.models.standardisation import Standardisation

GREY, COLOUR = [32, 64, 200], [64, 128, 256]


class CnnCarlini(nn.Module):
    """conv3, ReLU, conv3, ReLU, pool2 with widths[0] channels, the same again with widths[1], dense widths[2], ReLU, dropout,
    dense widths[2], ReLU, dense K; convolutions without padding.

    [n, C, H, W] to logits [n, K]; sides from 16 pixels. ``widths``: None is Carlini and Wagner's choice, 32, 64, 200 for images
    of one channel (theirs for MNIST) and 64, 128, 256 for others (theirs for CIFAR-10). ``dropout``: probability in [0, 1) that a
    unit of the first dense layer is dropped in training; theirs is 0.5, SGR's table names none. ``standardise``: each image is
    brought to mean 0 and variance 1 first, as SGR does. SGR's text counts nine hidden layers (four convolutions, two poolings,
    three dense), its later version seven: it is the same network. Neither says the padding, nor the ReLUs between the dense
    layers: both are taken from Carlini and Wagner. Initial weights are torch's own. See also `CnnTrades`.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, widths: list[int] | None = None, dropout: float = 0.0,
                 standardise: bool = False) -> None:
        super().__init__()
        channels, height, width = check_shape(shape, classes, smallest=16)
        whole = widths is None or (len(widths) == 3 and all(number >= 1 for number in widths))
        check(whole, "widths", "three whole numbers >= 1, or null", widths)
        check(0 <= dropout < 1, "dropout", "a probability in [0, 1)", dropout)
        first, second, dense = widths or (GREY if channels == 1 else COLOUR)
        self.layers = nn.Sequential(
            *([Standardisation()] if standardise else []),
            nn.Conv2d(channels, first, 3), nn.ReLU(), nn.Conv2d(first, first, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3), nn.ReLU(), nn.Conv2d(second, second, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * left(height) * left(width), dense), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(dense, dense), nn.ReLU(),
            nn.Linear(dense, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def left(side: int) -> int:
    """What two blocks of two unpadded 3x3 convolutions and a pooling leave of a side."""
    return ((side - 4) // 2 - 4) // 2
