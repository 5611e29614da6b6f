"""Gradient norm regularisation, the isotropic case of SGR.

Symbols (SGR, Roth et al. 2018) -> words: lambda -> weight; phi_y(x) -> the label's softmax probability; Sigma = I -> no
direction is preferred.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.messages import check
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.input_gradient import log_probability_gradient


@dataclass(frozen=True)
class GradientNorm:
    """L = CE(f(x), y) + weight * 1/2 mean ||grad_x log phi_y(x)||^2, by double backpropagation, x in pixel units.

    Source: SGR (Roth et al. 2018), the baseline GN: eq. 11 with Sigma = I. To second order, and in the mean over labels drawn
    from phi, it is what Gaussian noise of variance ``weight`` (pixel units squared) adds to the cross entropy. The squared
    gradient is that of the cross entropy, ||grad_x CE||^2, image by image. With ``weight_warmup`` the weight grows linearly
    from 0 over that share of the steps.
    """

    weight: float = 0.3
    weight_warmup: float = 0.0
    noise_std: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        check(0 <= self.weight < math.inf, "weight", "a number >= 0", self.weight)
        check(0 <= self.weight_warmup <= 1, "weight_warmup", "a share of the steps in [0, 1]", self.weight_warmup)

    def loss(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: cross_entropy and gradient_norm (half the mean square, before its weight)."""
        log_probability, gradient = log_probability_gradient(model, batch.images, batch.labels)
        cross_entropy = -log_probability.mean()
        term = 0.5 * gradient.square().flatten(1).sum(1).mean()
        return Losses(cross_entropy + self.weight * progress.risen(self.weight_warmup) * term,
                      {"cross_entropy": cross_entropy, "gradient_norm": term})
