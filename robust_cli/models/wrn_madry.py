"""The wide residual network of SO's CIFAR experiments: Madry et al.'s (2018) "w32-10 wide" (their cifar10_challenge)."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from robust_cli.messages import check
from robust_cli.models.kernels import normal_by_outputs
from robust_cli.models.pre_activation import PreActivationUnit
from robust_cli.models.shapes import check_shape
from robust_cli.models.standardisation import Standardisation

_SLOPE, _EPSILON = 0.1, 1e-3  # of the leaky ReLUs; of batch norm (TensorFlow's; its decay of .9 is torch's momentum of .1)


class WrnMadry(nn.Module):
    """Standardisation of each image, conv3-16, three groups of ``units`` residual units with 16, 32 and 64 times ``width``
    channels, batch norm, leaky ReLU, mean of the pixels, dense K.

    [n, C, H, W] to logits [n, K]; sides are multiples of 4, from 8 pixels; the second and the third group halve them. What
    differs from `Wrn`: images are standardised inside (`Standardisation`: with dataset.mean and dataset.std the same for all
    channels the function is Madry et al.'s, which takes plain pixels); leaky ReLUs of slope 0.1; a shortcut that changes the
    channels has no weights, it averages 2x2 pixels where the unit halves the size and puts channels of zeros before and
    behind; only the first unit of all shares its activated input with its shortcut; convolutions of stride 2 pad one pixel
    after the last and none before the first (TensorFlow's SAME). Initial kernels are normal with variance 2 / (side^2
    outputs), the dense weights uniform with variance 1 / inputs, its biases 0. Madry et al. call it w32-10: 32 layers with
    weights, 10 times 16 channels.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, units: int = 5, width: int = 10) -> None:
        super().__init__()
        channels, height, sideways = check_shape(shape, classes, smallest=8)
        check(height % 4 == 0 and sideways % 4 == 0, "shape", "images with sides that are multiples of 4", list(shape))
        check(units >= 1, "units", "a whole number >= 1", units)
        check(width >= 1, "width", "a whole number >= 1", width)
        wide = 16 * width
        last = nn.Linear(4 * wide, classes)
        self.layers = nn.Sequential(OrderedDict(
            standardisation=Standardisation(), conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False),
            block1=_group(units, 16, wide, 1), block2=_group(units, wide, 2 * wide, 2),
            block3=_group(units, 2 * wide, 4 * wide, 2),
            bn1=nn.BatchNorm2d(4 * wide, eps=_EPSILON), relu=nn.LeakyReLU(_SLOPE), pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(), fc=last))
        normal_by_outputs(self)
        bound = math.sqrt(3 / last.in_features)
        nn.init.uniform_(last.weight, -bound, bound)
        nn.init.zeros_(last.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


class AveragesAndZeros(nn.Module):
    """Means of stride x stride pixels, then channels of zeros, as many before as behind."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.before = stride, (outputs - inputs) // 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = functional.avg_pool2d(images, self.stride) if self.stride > 1 else images
        return functional.pad(means, (0, 0, 0, 0, self.before, self.before))


def _group(units: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """The first unit changes channels and size; the first of all keeps the size."""
    first = _unit(inputs, outputs, stride, activated_shortcut=stride == 1)
    return nn.Sequential(first, *(_unit(outputs, outputs, 1) for _ in range(units - 1)))


def _unit(inputs: int, outputs: int, stride: int, activated_shortcut: bool = False) -> PreActivationUnit:
    conv1: nn.Module = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    if stride > 1:
        conv1 = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(inputs, outputs, 3, stride, bias=False))
    shortcut = AveragesAndZeros(inputs, outputs, stride) if inputs != outputs else nn.Identity()
    return PreActivationUnit(conv1, shortcut, inputs, outputs, activated_shortcut=activated_shortcut,
                             activation=nn.LeakyReLU(_SLOPE), epsilon=_EPSILON)
