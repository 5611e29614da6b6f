"""Training on the mean output under Gaussian noise, in closed form up to the first ReLU (AMR).

Symbols -> words: alpha -> weight; s_x -> noise_std; Phi = Omega(ReLU(A x + c1)) -> the model, in two parts at its first ReLU;
T -> moments.relu_mean; mu2, s2 -> mean and standard deviation before that ReLU; mu3 -> the mean after it; l -> cross entropy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from robust_cli.messages import UserError, check
from robust_cli.models.first_layer import FirstLayer, first_layer
from robust_cli.models.normalisation import Normalisation
from robust_cli.moments import affine_variance, relu_mean, root
from robust_cli.regimes.batch import Batch, Losses, Progress

FITTING = ("lenet", "alexnet", "cnn_mnist", "cnn_small", "cnn_large", "cnn_carlini", "cnn_trades")  # shipped, begin as needed


@dataclass(frozen=True)
class Moment:
    """L = CE(f(x), y) + weight * CE(Omega(T(A x + c1, sqrt((A . A) s^2))), y), f = Omega(ReLU(A x + c1)), s = noise_std.

    Source: AMR (ICLR 2020 submission), equations 2 and 3. The second term is the loss of E f(x + n), n ~ N(0, s^2 I), with
    the mean exact up to the first ReLU and the rest of the network taken at that mean: exact for one hidden layer. By
    Jensen's inequality the loss of the exact mean is at most the mean loss (equation 1), which noise augmentation estimates.
    No noise is drawn. A may be any convolution with zero padding, or dense; gradients flow through A x + c1, the standard
    deviation and Omega. ``weight`` 0 leaves standard training, noise_std 0 (1 + weight) times it. The weight grows linearly from
    0 over the share ``weight_warmup`` of the steps. ``channel_factors``: noise of another size in each channel, noise_std times
    so much.

    Errata. The paper's captions call sigma the noise variance: it is the standard deviation. On standardised CIFAR images the
    published code divides the variance by the squared range of the input where it had to multiply, so that its sigma is in pixel
    units sigma / 16.77 on CIFAR-10 (noise_std=0.00745 for its 0.125) and sigma / 14.7 on CIFAR-100 (0.0085); on MNIST it is
    sigma. Here noise_std is in pixel units always: the normalisation's std is divided by inside.

    Cost: A x is evaluated once; the rest sees ReLU and T of it as one batch of twice the size, so a step costs at most about
    two of standard training. Where the rest has batch normalisation, its statistics are therefore those of clean and mean
    activations together. The parts are taken out of the model, so training.compile does nothing for this regime.
    """

    noise_std: float = 0.5
    weight: float = 1.0
    weight_warmup: float = 0.0
    channel_factors: list[float] | None = None

    def __post_init__(self) -> None:
        check(0 <= self.noise_std < math.inf, "noise_std", "a number >= 0", self.noise_std)
        check(0 <= self.weight < math.inf, "weight", "a number >= 0", self.weight)
        check(0 <= self.weight_warmup <= 1, "weight_warmup", "a share of the steps in [0, 1]", self.weight_warmup)
        check_factors(self.channel_factors)

    def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: cross_entropy (clean) and moment (before its weight). Raises UserError for a model that begins otherwise."""
        parts = affine_then_relu(model, "regime=moment")
        variance = pixel_variance(self.noise_std, self.channel_factors, batch.images)
        both = mean_logits(parts, batch.images, variance)
        cross_entropy, moment = (wide_cross_entropy(logits, batch.labels) for logits in both)
        return Losses(cross_entropy + self.weight * progress.risen(self.weight_warmup) * moment,
                      {"cross_entropy": cross_entropy, "moment": moment})


def wide_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy, computed in float32 at least."""
    return functional.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)


def check_factors(factors: list[float] | None) -> None:
    """Raises Wrong unless ``factors`` is None or numbers >= 0."""
    fine = factors is None or (len(factors) > 0 and all(0 <= factor < math.inf for factor in factors))
    check(fine, "channel_factors", "a number >= 0 for each channel, or null", factors)


def pixel_variance(noise_std: float, factors: list[float] | None, images: torch.Tensor) -> torch.Tensor:
    """(noise_std * factor)^2 for each channel, [C, 1, 1] in the images' type, pixel units. Raises UserError on another number."""
    channels = images.shape[1]
    if factors is not None and len(factors) != channels:
        raise UserError(f"regime.channel_factors: expected {channels} number(s), one for each channel, got {factors}")
    std = noise_std * torch.tensor([1.0] * channels if factors is None else factors, dtype=images.dtype)
    return std.square()[:, None, None].to(images.device)


def affine_then_relu(model: nn.Module, wanted_by: str) -> FirstLayer:
    """The model's parts. Raises UserError unless it begins with a zero-padded convolution or a dense layer, then ReLU."""
    parts = first_layer(model, wanted_by)
    padding = getattr(parts.affine, "padding_mode", "zeros")
    if isinstance(parts.follower, nn.ReLU) and padding == "zeros":
        return parts
    found = type(parts.follower).__name__ if padding == "zeros" else f"{padding} padding"
    raise UserError(f"{wanted_by}: expected a first layer that is affine with zero padding and followed by ReLU, found "
                    f"{type(parts.affine).__name__} with {found}; models that begin so: {', '.join(FITTING)}")


def before_relu(parts: FirstLayer, images: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation before the first ReLU, [n, units...] and [1 or n, units...], of images + independent noise.

    ``variance`` of the noise, pixel units, broadcasts to [C, H, W], or to [n, C, H, W] where it differs between images.
    """
    assert isinstance(parts.normalisation, Normalisation)
    inputs = parts.normalisation(images)
    scaled = (variance / parts.normalisation.std.square()).expand(*variance.shape[:-3], *images.shape[1:])
    if parts.flatten is not None:
        inputs, scaled = inputs.flatten(1), scaled.flatten(-3)
    return parts.affine(inputs), root(affine_variance(parts.affine, scaled, inputs.shape[1:]))


def mean_logits(parts: FirstLayer, images: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the images, and logits at the mean after the first ReLU under noise of this variance: [n, K] both."""
    mean, std = before_relu(parts, images, variance)
    clean, averaged = parts.rest[1:](torch.cat([functional.relu(mean), relu_mean(mean, std)])).chunk(2)
    return clean, averaged
