"""STN's network for CIFAR (Li et al. 2019): seven convolutions, no dense layer."""

from __future__ import annotations

import math

import torch
from torch import nn

from robust_cli.messages import check
from robust_cli.models.shapes import check_shape

# The standard deviation of a standard normal cut off at -2 and 2, by which he_normal makes up for the cut.
_CUT_NORMAL_STD = 0.8796256610342398


class Cnn7(nn.Module):
    """conv5-96, conv1-96, pool, dropout, conv5-192, conv1-192, pool, dropout, conv3-256, conv1-256, conv1-K, mean of pixels.

    [n, C, H, W] to logits [n, K]; sides from 4 pixels; ELU after every convolution but the last; convolutions keep the size.
    Pooling takes windows of 3 at steps of 2 and half the (even) side, the last window reaching one pixel past the edge.
    ``dropout``: probability in [0, 1) that a unit is dropped in training. Initial kernels are he_normal (He et al. 2015),
    biases 0. The authors' l2 penalty, 1e-4 times the kernels' squared norm, is no part of the network but of the training:
    its gradient is that of training.weight_decay=2e-4 (which decays the biases too).
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        channels, _, _ = check_shape(shape, classes, smallest=4)
        check(0 <= dropout < 1, "dropout", "a probability in [0, 1)", dropout)
        self.layers = nn.Sequential(
            *_convolution(channels, 96, 5), *_convolution(96, 96, 1), *_pool(dropout),
            *_convolution(96, 192, 5), *_convolution(192, 192, 1), *_pool(dropout),
            *_convolution(192, 256, 3), *_convolution(256, 256, 1), nn.Conv2d(256, classes, 1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                _he_normal(layer)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def _convolution(inputs: int, outputs: int, side: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, side, padding=side // 2), nn.ELU()]


def _pool(dropout: float) -> list[nn.Module]:
    return [nn.MaxPool2d(3, stride=2, ceil_mode=True), nn.Dropout(dropout)]


def _he_normal(layer: nn.Conv2d) -> None:
    """Kernels normal with variance 2 / inputs, cut at two standard deviations of the uncut normal; biases zero."""
    std = math.sqrt(2 / layer.weight[0].numel()) / _CUT_NORMAL_STD
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
