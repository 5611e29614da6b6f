"""From pixels to the first layer's output: one fixed affine map, computed in float64."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from robust_cli.messages import UserError
from robust_cli.models.first_layer import FirstLayer
from robust_cli.models.normalisation import Normalisation


class PixelMap(nn.Module):
    """x -> A x + b: normalisation and the first affine layer of a model, weights as they are now (those that a parametrisation
    makes), its parameters copied, so that nothing that happens to the model afterwards changes it.

    Images float32 [n, C, H, W] to [n, *outputs], outputs [C', H', W'] after a convolution and [features, 1, 1] after a dense
    layer. It is computed in float64 and rounded once to float32, so what an image gives depends on no other image, on no
    number of threads and on no precision of the model. That rounding is the only difference to an affine map: less than 6e-8
    of each output's size, which is harmless as long as the noise is far larger (`smoothing.place.Place.admit`).
    """

    mean: torch.Tensor
    std: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, first: FirstLayer, shape: tuple[int, ...], wanted_by: str) -> None:
        """``shape``: of an image. Raises UserError for a normalisation or a padding that is not ours to bound; ``wanted_by`` is
        the setting that needs it."""
        super().__init__()
        affine = first.affine
        if not isinstance(first.normalisation, Normalisation):
            raise UserError(f"{wanted_by}: expected a model whose normalisation is (image - mean) / std, found "
                            f"{type(first.normalisation).__name__}")
        self.inputs = tuple(int(side) for side in shape)
        self.convolution: dict[str, tuple[int, ...]] | None = None
        if isinstance(affine, nn.Conv2d):
            if affine.padding_mode != "zeros":
                raise UserError(f"{wanted_by}: expected a first layer that pads with zeros, found {affine.padding_mode}")
            self.convolution = {"stride": tuple(affine.stride), "dilation": tuple(affine.dilation), "groups": (affine.groups,),
                                "padding": _padding(affine)}
        for name, values in (("mean", first.normalisation.mean), ("std", first.normalisation.std), ("weight", affine.weight)):
            self.register_buffer(name, values.detach().double().contiguous().clone())
        self.register_buffer("bias", None if affine.bias is None else affine.bias.detach().double().clone())
        self.outputs = tuple(self.linear(torch.zeros(1, *self.inputs, dtype=torch.float64, device=self.weight.device)).shape[1:])

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers that go in and that come out."""
        return math.prod(self.inputs), math.prod(self.outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class; gradients flow through it."""
        with torch.autocast(images.device.type, enabled=False):
            return self._layer((images.double() - self.mean) / self.std, self.bias).float()

    def linear(self, changes: torch.Tensor) -> torch.Tensor:
        """A d of changes d of images, float64 [n, C, H, W] in pixel units, float64 [n, *outputs]."""
        return self._layer(changes / self.std, None)

    def transposed(self, values: torch.Tensor) -> torch.Tensor:
        """A^T v, float64 [n, *outputs] to [n, C, H, W]."""
        with torch.enable_grad():
            point = torch.zeros(len(values), *self.inputs, dtype=torch.float64, device=values.device, requires_grad=True)
            (found,) = torch.autograd.grad(self.linear(point), point, values)
        return found

    def _layer(self, inputs: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self.convolution is None:
            return functional.linear(inputs.flatten(1), self.weight, bias)[:, :, None, None]
        made = self.convolution
        (groups,), (left, right, top, bottom) = made["groups"], made["padding"]
        padded = functional.pad(inputs, (left, right, top, bottom))
        return functional.conv2d(padded, self.weight, bias, made["stride"], 0, made["dilation"], groups)


def _padding(layer: nn.Conv2d) -> tuple[int, int, int, int]:
    """Zeros left, right, above and below an image."""
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return 0, 0, 0, 0
        below, beside = (step * (side - 1) for step, side in zip(layer.dilation, layer.kernel_size, strict=True))
        return beside // 2, beside - beside // 2, below // 2, below - below // 2
    rows, columns = layer.padding
    return int(columns), int(columns), int(rows), int(rows)
