"""Residual networks for small images (He et al. 2016, section 4.2), the smoothing literature's for CIFAR-10."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from robust_cli.messages import check
from robust_cli.models.kernels import normal_by_outputs
from robust_cli.models.shapes import check_shape

SHORTCUTS = ("projection", "zeros")


class ResNet(nn.Module):
    """conv3-16, batch norm, ReLU, three groups of (depth - 2) / 6 basic blocks with 16, 32 and 64 channels, mean of the
    pixels, dense K. ResNet-20, -110.

    [n, C, H, W] to logits [n, K]; sides from 8 pixels; the second and the third group halve them (rounded up). ``shortcut``
    of the two blocks that change the channels: ``projection`` is a 1x1 convolution and batch norm, as in Cohen et al. 2019
    and what followed; ``zeros`` takes every second pixel and puts channels of zeros before and behind, without weights, He et
    al.'s option A for CIFAR-10. Initial kernels are normal with variance 2 / (side^2 outputs). Parts have the names of Cohen
    et al.'s checkpoints, which load as they are.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, depth: int = 20, shortcut: str = "projection") -> None:
        super().__init__()
        channels, _, _ = check_shape(shape, classes, smallest=8)
        check(depth >= 8 and depth % 6 == 2, "depth", "6 n + 2 layers with n >= 1 (8, 14, 20, ..., 56, 110)", depth)
        check(shortcut in SHORTCUTS, "shortcut", " or ".join(SHORTCUTS), shortcut)
        blocks = (depth - 2) // 6
        self.layers = nn.Sequential(OrderedDict(
            conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False), bn1=nn.BatchNorm2d(16), relu=nn.ReLU(),
            layer1=_group(blocks, 16, 16, shortcut), layer2=_group(blocks, 16, 32, shortcut),
            layer3=_group(blocks, 32, 64, shortcut),
            pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(64, classes)))
        normal_by_outputs(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x)))))): [n, inputs, H, W] to [n, outputs, H / stride, W / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        branch = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(images)))))
        return self.relu(self.downsample(images) + branch)


class EverySecondAndZeros(nn.Module):
    """Every second pixel, then channels of zeros, as many before as behind."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return functional.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.before))


def _group(blocks: int, inputs: int, outputs: int, shortcut: str) -> nn.Sequential:
    """The first block changes channels and size, where the group does."""
    first = BasicBlock(inputs, outputs, 1 if inputs == outputs else 2, _shortcut(inputs, outputs, shortcut))
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, nn.Identity()) for _ in range(blocks - 1)))


def _shortcut(inputs: int, outputs: int, kind: str) -> nn.Module:
    if inputs == outputs:
        return nn.Identity()
    if kind == "zeros":
        return EverySecondAndZeros(inputs, outputs)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))
