"""A network for noise after its first layer, a small relative of PixelDP's (Lecuyer et al. 2019)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from robust_cli.messages import check
from robust_cli.models.bounded_convolution import bounded
from robust_cli.models.shapes import check_shape

_LEAK = 0.1


class Unit(nn.Module):
    """x + conv3(leaky(bn(conv3(leaky(bn(x)))))); with more channels out than in, stride 2 and x averaged over 2x2, zeros for
    the new channels. [n, inputs, H, W] to [n, outputs, H', W']."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halves = outputs != inputs
        self.added = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.LeakyReLU(_LEAK),
            nn.Conv2d(inputs, outputs, 3, stride=2 if self.halves else 1, padding=1, bias=False),
            nn.BatchNorm2d(outputs), nn.LeakyReLU(_LEAK), nn.Conv2d(outputs, outputs, 3, padding=1, bias=False))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.added(inputs)
        if self.halves:
            inputs = functional.avg_pool2d(inputs, 2, ceil_mode=True)
            inputs = functional.pad(inputs, (0, 0, 0, 0, 0, added.shape[1] - inputs.shape[1]))
        return inputs + added


class CnnPixelDP(nn.Module):
    """conv5-w with stride 2 and operator norm at most about 1; four residual units (w, w, 2w, 2w channels, leaky ReLU of
    slope 0.1, the third with stride 2); batch norm, leaky ReLU, mean over the image, dense K. w is ``width``.

    [n, C, H, W] to logits [n, K]; sides from 4 pixels. PixelDP's code has such a residual network, for CIFAR-10, behind a
    first convolution of sensitivity 1. Here that layer begins with stride 2, which keeps MNIST cheap on a CPU. Its norm is of
    the layer alone, on normalised images: in pixel units it is at most 1 over the smallest dataset.std (`NormAtMostOne`).
    Raises Wrong for a width below 1.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int = 16) -> None:
        super().__init__()
        channels, height, sides = check_shape(shape, classes, smallest=4)
        check(width >= 1, "width", "a whole number >= 1", width)
        self.layers = nn.Sequential(
            bounded(nn.Conv2d(channels, width, 5, stride=2, padding=2), (channels, height, sides)),
            Unit(width, width), Unit(width, width), Unit(width, 2 * width), Unit(2 * width, 2 * width),
            nn.BatchNorm2d(2 * width), nn.LeakyReLU(_LEAK), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(2 * width, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)
