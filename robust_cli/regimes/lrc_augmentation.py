"""Training on images with long-range correlated noise, with their true labels.

Symbols (SGR, Roth et al. 2018) -> words: epsilon -> scale; zeta -> decay_length; CovFun f -> correlation by distance;
Sigma -> covariance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.attacks.lrc import correlated_noise
from robust_cli.messages import check
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.noise import mixed_loss
from robust_cli.smoothing.noise import StepDraws

_BLOCK = 2  # of a step's stream: 0 is white noise, 1 an attack's


@dataclass(frozen=True)
class CorrelatedAugmentation:
    """L = (1 - clean_weight) CE(f(x'), y) + clean_weight CE(f(x), y), x' = clip(x + scale * z), z ~ N(0, Sigma), fresh.

    Source: SGR (Roth et al. 2018), section 4.6, "LRC augmented", the noise of `LongRangeCorrelated` (attack=lrc) in
    training: pixels of variance 1, those of one channel at distance r with correlation exp(-r / decay_length), those of two
    channels with ``between_channels`` times that. Distances are exact: rounded to whole pixels, as in eq. 16, Sigma is
    indefinite and no noise has it. For decay_length -> 0 the noise becomes white in space but not between channels, contrary
    to the paper. The paper does not say whether it is clipped to [0, 1]; here it is, as that of the attack, unless ``clip`` is
    false. Both parts go through the model in one pass (see `Stability`).

    The scale is not called noise_std and ``noise_std`` is None: a certificate's noise is isotropic, and this, though Gaussian
    (until clipped), is not, so that whoever certifies has to say which noise to smooth with.
    """

    scale: float = 0.3
    decay_length: float = 8.0
    between_channels: float = 0.5
    clean_weight: float = 0.0
    clip: bool = True
    noise_warmup: float = 0.0
    noise_std: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        check(0 <= self.scale < math.inf, "scale", "a number >= 0", self.scale)
        check(0 < self.decay_length < math.inf, "decay_length", "a number > 0", self.decay_length)
        check(0 <= self.between_channels < 1, "between_channels", "a number in [0, 1)", self.between_channels)
        check(0 <= self.clean_weight < 1, "clean_weight", "a number in [0, 1)", self.clean_weight)
        check(0 <= self.noise_warmup <= 1, "noise_warmup", "a share of the steps in [0, 1]", self.noise_warmup)

    def loss(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: cross_entropy_noisy and, where it has a weight, cross_entropy (of the clean images)."""
        images = self.noisy(batch.images, progress)
        return mixed_loss(model, batch, images, self.clean_weight)

    def noisy(self, images: torch.Tensor, progress: Progress) -> torch.Tensor:
        """x' of images [n, C, H, W]: the same again for the same seed and step."""
        channels, height, width = images.shape[1:]
        draws = StepDraws(images.device, progress.seed, "regime", progress.step, len(images), _BLOCK)
        with torch.autocast(images.device.type, enabled=False):
            z = correlated_noise((channels, height, width), self.decay_length, self.between_channels, draws)
        found = images + self.scale * progress.risen(self.noise_warmup) * z
        return found.clamp(0, 1) if self.clip else found
