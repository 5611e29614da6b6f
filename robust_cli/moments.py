"""Mean and variance of affine and ReLU layers whose input is Gaussian, in closed form and with gradients.

Symbols -> words: mu -> mean; s -> std; T(mu, s) -> relu_mean; A -> the affine layer's matrix; A . A -> its squared entries;
Phi, phi -> cumulative distribution function and density of the standard normal; rho -> correlation.
Source: AMR (ICLR 2020 submission), Theorem 1 and equation 3, after Bibi et al. (2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from robust_cli.messages import UserError

_DENSITY_AT_ZERO = 1 / math.sqrt(2 * math.pi)
_FAR = 40.0  # standard deviations from which the density is zero in float64
_NEAR = 9.0  # and from which it can do no more to a float32; numbers below its normal range are ten times slower on a CPU
_CACHED = 2**17  # numbers of a tensor, several of which stay in a CPU core's own cache


def relu_mean(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """T(mu, s) = E max(mu + s z, 0) = mu Phi(mu / s) + s phi(mu / s) for z ~ N(0, 1), elementwise; T(mu, 0) = max(mu, 0).

    ``mean`` of any shape and ``std`` >= 0, which broadcasts to it. In float64 accurate in the far tails too (1e-11 relative
    to 30 standard deviations), in float32 to its rounding of the larger of mean and std, never below max(mu, 0); narrower
    input is computed in float32 and comes back in the mean's type. The derivatives are dT/dmu = Phi(mu / s) and
    dT/ds = phi(mu / s), finite everywhere (1/2 and phi(0) where both are 0), and can be differentiated once more.
    """
    wide = torch.promote_types(torch.promote_types(mean.dtype, std.dtype), torch.float32)
    found: torch.Tensor = _ReluMean.apply(mean.to(wide), std.to(wide))
    return found.to(mean.dtype)


def relu_second_moment(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """E max(mu + s z, 0)^2 = (mu^2 + s^2) Phi(mu / s) + mu s phi(mu / s), z ~ N(0, 1), elementwise, std >= 0.

    To the rounding of mean^2 + std^2. Derivatives by autograd; those at std = 0 are right in ``mean`` and 0 in ``std``.
    """
    below, density = _normal(mean, std)
    return (mean**2 + std**2) * below + mean * std * density


def relu_covariance(first_std: torch.Tensor, second_std: torch.Tensor, correlation: torch.Tensor) -> torch.Tensor:
    """Cov(max(u, 0), max(v, 0)) of zero-mean Gaussian u, v with these standard deviations >= 0 and correlation in [-1, 1].

    s_u s_v (rho acos(-rho) + sqrt(1 - rho^2) - 1) / (2 pi), elementwise. Source: the library of AMR's authors.
    """
    angle = correlation * torch.acos(-correlation) + torch.sqrt(1 - correlation**2) - 1
    return first_std * second_std * angle / (2 * math.pi)


def affine_variance(layer: nn.Conv2d | nn.Linear, variance: torch.Tensor | float, shape: Sequence[int]) -> torch.Tensor:
    """Variance of every output of ``layer`` when its inputs are independent with this variance: (A . A) variance.

    ``shape``: that of one input, [C, H, W] or [features]; ``variance`` >= 0 broadcasts to it, with a leading axis where it
    differs from image to image. Returns [1 or n, outputs...]. The convolution has the layer's own stride, padding, dilation and
    groups: zero padding adds no variance, so that it falls at the borders. In float32 also under autocast. Raises UserError
    for another layer and for padding that repeats pixels, whose copies are not independent.
    """
    weight = layer.weight
    given = torch.as_tensor(variance, dtype=weight.dtype, device=weight.device)
    rows = len(given) if given.dim() > len(shape) else 1
    inputs = given.expand(rows, *shape)
    with torch.autocast(weight.device.type, enabled=False):
        if isinstance(layer, nn.Linear):
            return functional.linear(inputs, weight.square())
        if not isinstance(layer, nn.Conv2d) or layer.padding_mode != "zeros":
            raise UserError("moments: expected a dense layer or a convolution with zero padding, whose inputs are independent, "
                            f"found {layer}")
        return functional.conv2d(inputs, weight.square(), None, layer.stride, layer.padding, layer.dilation, layer.groups)


def root(variance: torch.Tensor) -> torch.Tensor:
    """Standard deviation, elementwise, with gradient 0 where the variance is 0 (a filter without weights)."""
    some = variance > 0
    return torch.where(some, torch.where(some, variance, 1).sqrt(), 0)


def _normal(mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Phi and phi at mean / std, differentiable; at std = 0 their limits, whose own derivatives are taken as 0."""
    ratio = (mean / std.clamp_min(torch.finfo(std.dtype).tiny)).clamp(-_FAR, _FAR)
    return torch.special.ndtr(ratio), _DENSITY_AT_ZERO * torch.exp(-0.5 * ratio.square())


class _ReluMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        found, below, density = (_in_double if mean.dtype == torch.float64 else _in_single)(mean, std)
        ctx.save_for_backward(mean, std, below, density)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        mean, std, below, density = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            below, density = _normal(mean, std)
        by_mean, by_std = ctx.needs_input_grad
        return gradients[0] * below if by_mean else None, _summed(gradients[0] * density, std.shape) if by_std else None


def _in_double(mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """T, Phi and phi by T = max(mu, 0) + s phi(a) (1 - a m(a)), a = |mu| / s, m(a) = Phi(-a) / phi(a): nothing large cancels."""
    away = (mean.abs() / std.clamp_min(torch.finfo(std.dtype).tiny)).clamp_max(_FAR)
    density = _DENSITY_AT_ZERO * torch.exp(-0.5 * away.square())
    mills = math.sqrt(math.pi / 2) * torch.special.erfcx(away / math.sqrt(2))
    tail = density * mills
    return mean.clamp_min(0) + std * density * (1 - away * mills), torch.where(mean > 0, 1 - tail, tail), density


def _in_single(mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same from the definition, at a third of the cost: erf and exp are vectorised on a CPU, erfcx is not."""
    inverse = std.clamp_min(torch.finfo(std.dtype).tiny).reciprocal()
    everything = [mean, std.expand_as(mean), inverse.expand_as(mean), *(torch.empty_like(mean) for _ in range(3))]
    if mean.device.type == "cpu" and mean.numel() > _CACHED:
        rows = max(1, _CACHED * len(mean) // mean.numel())
        for part in zip(*(values.split(rows) for values in everything), strict=True):
            _write(*part)
    else:
        _write(*everything)
    return everything[3], everything[4], everything[5]


def _write(mean: torch.Tensor, std: torch.Tensor, inverse: torch.Tensor, found: torch.Tensor, below: torch.Tensor,
           density: torch.Tensor) -> None:
    """T, Phi and phi into the last three."""
    torch.mul(mean, inverse, out=found).clamp_(-_NEAR, _NEAR)
    torch.mul(found, math.sqrt(0.5), out=below).erf_().add_(1).mul_(0.5)
    torch.mul(found, found, out=density).mul_(-0.5).exp_().mul_(_DENSITY_AT_ZERO)
    torch.mul(density, std, out=found).addcmul_(mean, below).clamp_(min=0)
    torch.maximum(found, mean, out=found)


def _summed(values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """``values`` summed to a shape that broadcasts to theirs; over channels_last images torch's own takes ten times longer."""
    over_images = values.dim() == 4 and shape == (1, *values.shape[1:])
    if over_images and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1).flatten(1).sum(0).view(1, *shape[2:], shape[1]).permute(0, 3, 1, 2)
    return values.sum_to_size(shape)
