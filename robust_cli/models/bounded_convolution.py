"""A convolution whose l2 operator norm stays at most about 1."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.nn.grad import conv2d_input
from torch.nn.utils import parametrize

_AT_FIRST = 50


class NormAtMostOne(nn.Module):
    """Parametrises a convolution's weight as w / max(1, s(w)), s(w) the operator norm of the layer on images of a shape [C,
    H, W], zeros padded and stride included, estimated by power iteration.

    ``direction``, the image that the layer stretches most, is kept with the weights; a training step moves it by ``iterations``
    steps, and evaluation leaves it. The gradient is that of s at the direction reached. Power iteration comes from below, so the
    norm of what it makes is a little above 1: a certificate bounds it anew from the weights made (`models.operator_norm`).
    Images are taken as the layer sees them: normalisation before it is not counted.
    """

    direction: torch.Tensor

    def __init__(self, layer: nn.Conv2d, shape: tuple[int, int, int], iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        assert not isinstance(layer.padding, str), "padding in numbers"
        self._how = layer.stride, layer.padding, layer.dilation, layer.groups
        direction = torch.randn(1, *shape).to(layer.weight)
        self.register_buffer("direction", direction / direction.norm())
        self._turn(layer.weight, _AT_FIRST)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            if self.training and torch.is_grad_enabled():
                self._turn(weight.detach(), self.iterations)
            return weight / self._stretched(self.direction.clone(), weight).norm().clamp_min(1.0)

    def _stretched(self, images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(images, weight, None, *self._how)

    @torch.no_grad()
    def _turn(self, weight: torch.Tensor, iterations: int) -> None:
        """Steps of power iteration with A^T A; a step that ends nowhere (a layer of zeros) is not taken."""
        for _ in range(iterations):
            further = conv2d_input(self.direction.shape, weight, self._stretched(self.direction, weight), *self._how)
            size = further.norm()
            self.direction.copy_(torch.where(size > 0, further / size, self.direction))


def bounded(layer: nn.Conv2d, shape: tuple[int, int, int], iterations: int = 3) -> nn.Conv2d:
    """The layer, which ``layer.weight`` now gives with an operator norm of at most about 1 on images [C, H, W] of a shape."""
    found = parametrize.register_parametrization(layer, "weight", NormAtMostOne(layer, shape, iterations))
    assert isinstance(found, nn.Conv2d)
    return found
