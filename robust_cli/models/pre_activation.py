"""The residual unit of wide residual networks: batch norm and activation come before each convolution (He et al. 2016)."""

from __future__ import annotations

import torch
from torch import nn


class PreActivationUnit(nn.Module):
    """s + conv2(act(bn2(conv1(a)))) with a = act(bn1(x)): [n, inputs, H, W] to [n, outputs, H', W'].

    ``conv1`` decides the stride; the shortcut s is ``shortcut`` of a where ``activated_shortcut`` holds, else of x. Its parts
    have the names of TRADES's and RobustBench's checkpoints.
    """

    def __init__(self, conv1: nn.Module, shortcut: nn.Module, inputs: int, outputs: int, *, activated_shortcut: bool,
                 activation: nn.Module, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.activated_shortcut, self.activation = activated_shortcut, activation
        self.bn1 = nn.BatchNorm2d(inputs, eps=epsilon)
        self.conv1 = conv1
        self.bn2 = nn.BatchNorm2d(outputs, eps=epsilon)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = shortcut

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        activated = self.activation(self.bn1(images))
        shortcut = self.convShortcut(activated if self.activated_shortcut else images)
        return shortcut + self.conv2(self.activation(self.bn2(self.conv1(activated))))
