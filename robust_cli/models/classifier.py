"""A classifier of images in [0, 1]: normalisation, then an architecture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from robust_cli.models.normalisation import Normalisation

_WHERE_CHANNELS_LAST_PAYS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d, nn.BatchNorm2d)


def classifier(architecture: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Sequential:
    """Float32 images [n, C, H, W] in [0, 1] to logits [n, K]. Its two parts are named ``normalisation`` and ``network``."""
    return nn.Sequential(OrderedDict(normalisation=Normalisation(mean, std), network=architecture))


def memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """How images and kernels lie in memory for forward passes: a fixed rule, as the last bits of logits depend on it.

    channels_last, but for networks on a CPU without pooling and batch norm: of those with strided convolutions alone, a pass
    takes a fifth less with contiguous channels, where pooling takes half as much again.
    """
    other = any(isinstance(part, _WHERE_CHANNELS_LAST_PAYS) for part in model.modules())
    return torch.channels_last if other or device.type != "cpu" else torch.contiguous_format


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode with no gradient to its parameters; gradients to its input still flow.

    At the end, also by an exception, every part has its own mode back and every parameter its own requires_grad.
    """
    modes = [(part, part.training) for part in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield model
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter, value in wanted:
            parameter.requires_grad_(value)


def parameters_count(model: nn.Module) -> int:
    """How many numbers training can change (buffers are none of them)."""
    return sum(parameter.numel() for parameter in model.parameters())
