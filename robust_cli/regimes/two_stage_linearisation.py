"""Training on the mean output under Gaussian noise by two linearisations, before and after one ReLU layer.

Symbols -> words: Phi = Omega(ReLU(Upsilon(x))) -> the model, cut at one of its ReLU layers into before and after; A, B -> the
Jacobians of before at x and of after at r = ReLU(Upsilon(x)); mu2, s2 -> mean and standard deviation before the ReLU; T ->
moments.relu_mean; Sigma -> the noise's covariance, diagonal.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import jvp, vmap
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from robust_cli.messages import UserError, check
from robust_cli.models.first_layer import FirstLayer, first_layer
from robust_cli.moments import relu_mean, root
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.moment import before_relu, check_factors, pixel_variance, wide_cross_entropy

_NAME = "regime=two_stage_linearisation"
_AT_ONCE = 1024  # basis images of all images of a batch that are pushed together
_JOINING = (nn.modules.batchnorm._BatchNorm,)
_RANDOM = (nn.modules.dropout._DropoutNd,)

Part = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class TwoStageLinearisation:
    """L = CE(f(x), y) + weight * CE(Omega(r) + B (T(mu2, s2) - r), y), r = max(mu2, 0), mu2 = Upsilon(x), s2^2 = diag A Sigma A'.

    Source: Bibi et al. (2018), the mean of a piecewise linear network under Gaussian input by linearising it before a ReLU (A,
    at x) and after it (B, at r), as a regulariser in AMR (ICLR 2020 submission), which replaces it by `Moment`. Both agree where
    Omega is affine, and are exact there if Upsilon is affine too. Sigma = noise_std^2 I in pixel units; ``channel_factors``,
    ``weight`` and ``weight_warmup`` as in `Moment`. Gradients flow through A, B, T and r.

    ``split``: which ReLU of the model's layers it is cut at, from 1. Batch normalisation is refused, as A and B would join
    the images of a batch, and so is dropout before the ReLU.

    Cost. B is never formed: B (T - r) is one pass in forward mode, about the price of another forward pass, and f(x) comes
    with it. At the first ReLU A is the first layer, and s2 costs one image's convolution: together about three steps of
    standard training. At a later ReLU the row norms of A, which differ from image to image, need all its columns: as many passes
    through Upsilon as an image has numbers (784 on MNIST, 3072 on CIFAR), and as many again, twice the price, for the gradient;
    they are made anew there, so that memory stays that of some 1000 images. That is hundreds to thousands of steps of standard
    training in one.
    """

    noise_std: float = 0.5
    weight: float = 1.0
    weight_warmup: float = 0.0
    channel_factors: list[float] | None = None
    split: int = 1

    def __post_init__(self) -> None:
        check(0 <= self.noise_std < math.inf, "noise_std", "a number >= 0", self.noise_std)
        check(0 <= self.weight < math.inf, "weight", "a number >= 0", self.weight)
        check(0 <= self.weight_warmup <= 1, "weight_warmup", "a share of the steps in [0, 1]", self.weight_warmup)
        check(self.split >= 1, "split", "a whole number >= 1", self.split)
        check_factors(self.channel_factors)

    def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: cross_entropy (clean) and linearised (before its weight). Raises UserError for a model that cannot be cut so."""
        variance = pixel_variance(self.noise_std, self.channel_factors, batch.images)
        both = linearised_logits(first_layer(model, _NAME), self.split, batch.images, variance)
        cross_entropy, linearised = (wide_cross_entropy(logits, batch.labels) for logits in both)
        return Losses(cross_entropy + self.weight * progress.risen(self.weight_warmup) * linearised,
                      {"cross_entropy": cross_entropy, "linearised": linearised})


def linearised_logits(parts: FirstLayer, split: int, images: torch.Tensor,
                      variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the images and their approximate mean under noise of this variance (broadcasts to [C, H, W]): [n, K] both."""
    position = _cut(parts, split)
    if position == 0 and getattr(parts.affine, "padding_mode", "zeros") == "zeros":
        mean, std = before_relu(parts, images, variance)
    else:
        before = nn.Sequential(parts.before, *parts.rest[:position])
        mean, std = before(images), root(row_variance(before, images, variance))
    rectified = functional.relu(mean)
    clean, change = _pushed(parts.rest[position + 1 :], rectified, relu_mean(mean, std) - rectified)
    return clean, clean + change


def row_variance(before: Part, images: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """diag(A Sigma A') for each image, [n, units...]: A the Jacobian of ``before`` at the image, Sigma = diag(variance).

    Exact: the sum over pixels of (A e s)^2, e a basis image and s its standard deviation; chunk by chunk, with gradients to the
    weights. ``before`` must treat the images of a batch one by one, and alike at every call.
    """
    std = variance.expand(images.shape[1:]).sqrt().flatten()
    size = max(1, _AT_ONCE // len(images))

    def chunk(begin: int) -> torch.Tensor:
        pixels = torch.arange(begin, min(begin + size, len(std)), device=images.device)
        basis = torch.zeros(len(pixels), len(std), dtype=images.dtype, device=images.device)
        basis[torch.arange(len(pixels), device=images.device), pixels] = std[pixels]
        directions = basis.view(-1, 1, *images.shape[1:]).expand(-1, *images.shape)
        return vmap(lambda direction: _pushed(before, images, direction)[1])(directions).square().sum(0)

    total: torch.Tensor | None = None
    for begin in range(0, len(std), size):
        found = checkpoint(chunk, begin, use_reentrant=False) if torch.is_grad_enabled() else chunk(begin)
        total = found if total is None else total + found
    assert total is not None
    return total


def _pushed(part: Part, point: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``part`` at ``point``, and its Jacobian there times ``direction``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own about itself, where it loads its forward mode
        pushed: tuple[torch.Tensor, torch.Tensor] = jvp(part, (point,), (direction,))  # type: ignore[assignment]
    return pushed


def _cut(parts: FirstLayer, split: int) -> int:
    """The position in ``parts.rest`` of the ReLU number ``split``. Raises UserError where the model cannot be cut there."""
    found = [position for position, layer in enumerate(parts.rest) if isinstance(layer, nn.ReLU)]
    if split > len(found):
        raise UserError(f"regime.split: expected at most {len(found)}, the number of ReLU layers in the model's sequence, "
                        f"got {split}")
    position = found[split - 1]
    if any(isinstance(layer, _JOINING) for layer in parts.rest.modules()):
        raise UserError(f"{_NAME}: expected a model without batch normalisation, which joins the images of a batch")
    if any(isinstance(layer, _RANDOM) and layer.p > 0 for layer in parts.rest[:position].modules()):
        raise UserError(f"{_NAME}: expected no dropout before the ReLU that the model is cut at; lower regime.split, got {split}")
    return position
