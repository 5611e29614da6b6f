"""Wide residual networks (Zagoruyko and Komodakis 2016), as TRADES and RobustBench have them."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from robust_cli.messages import check
from robust_cli.models.kernels import normal_by_outputs
from robust_cli.models.pre_activation import PreActivationUnit
from robust_cli.models.shapes import check_shape


class Wrn(nn.Module):
    """conv3-16, three groups of (depth - 4) / 6 residual units with 16, 32 and 64 times ``width`` channels, batch norm, ReLU,
    mean of the pixels, dense K. WRN-depth-width.

    [n, C, H, W] to logits [n, K]; sides from 8 pixels; the second and the third group halve them (rounded up). Units are
    `PreActivationUnit`; where a unit changes the channels its shortcut is a 1x1 convolution, without bias, of the activated
    input. No dropout inside the units, as in TRADES. Initial kernels are normal with variance 2 / (side^2 outputs), the dense
    layer's biases 0.

    Parts have the names of the public checkpoints, which load as they are. TRADES's hold a group more, ``sub_block1``, that
    its forward pass never uses (48,262,586 parameters stored, 46,160,474 used): it is left out.
    """

    unused_in_checkpoints = ("sub_block1.",)

    def __init__(self, shape: tuple[int, int, int], classes: int, depth: int = 16, width: int = 4) -> None:
        super().__init__()
        channels, _, _ = check_shape(shape, classes, smallest=8)
        check(depth >= 10 and depth % 6 == 4, "depth", "6 n + 4 layers with n >= 1 (10, 16, 22, 28, 34, ...)", depth)
        check(width >= 1, "width", "a whole number >= 1", width)
        units, wide = (depth - 4) // 6, 16 * width
        last = nn.Linear(4 * wide, classes)
        self.layers = nn.Sequential(OrderedDict(
            conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False),
            block1=_group(units, 16, wide, 1), block2=_group(units, wide, 2 * wide, 2),
            block3=_group(units, 2 * wide, 4 * wide, 2),
            bn1=nn.BatchNorm2d(4 * wide), relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=last))
        normal_by_outputs(self)
        nn.init.zeros_(last.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def _group(units: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """The first unit changes channels and size."""
    made = [_unit(inputs, outputs, stride), *(_unit(outputs, outputs, 1) for _ in range(units - 1))]
    return nn.Sequential(OrderedDict(layer=nn.Sequential(*made)))


def _unit(inputs: int, outputs: int, stride: int) -> PreActivationUnit:
    changes = inputs != outputs
    shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else nn.Identity()
    return PreActivationUnit(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), shortcut, inputs, outputs,
                             activated_shortcut=changes, activation=nn.ReLU())
