"""Training with noise after the first layer (PixelDP; Lecuyer, Atlidakis, Geambasu, Hsu, Jana 2019).

Symbols -> words: g, h -> the model up to the first layer's output, and the rest; sigma -> noise_std; Delta_(2,2) -> the
operator norm of g in l2; L -> the construction attack's size; (epsilon, delta) -> those of the Gaussian mechanism.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.messages import check
from robust_cli.models.first_layer import first_layer
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.noise import noisy


@dataclass(frozen=True)
class PixelDP:
    """L = CE(h(g(x) + N(0, noise_std^2 I)), y), g everything up to the output of the first convolution or dense layer, fresh
    noise.

    ``noise_std`` is the standard deviation of what is added, in units of the first layer's output. Source: Lecuyer et al.
    2019, section III: for a construction attack of l2 size L in pixel units they take noise_std = Delta L sqrt(2 ln(1.25 /
    delta)) / epsilon, that is 2.537272 Delta L at their epsilon = 1, delta = 0.05. Delta = 1 in their networks; of
    ``cnn_pixeldp`` it is at most 1 over the smallest dataset.std, so noise_std = 0.25 is L = 0.1 where that is 1. Any model
    will do whose first layer is a convolution or dense, but nothing keeps the first layer's weights of another one small: it
    learns to outgrow the noise, and its radii, divided by its operator norm, stay small. With ``noise_warmup`` the noise
    grows linearly from 0 over that share of the steps. certify and attack take smoothing.layer=first from such a run.
    """

    noise_std: float = 0.5
    noise_warmup: float = 0.0
    layer: ClassVar[str] = "first"

    def __post_init__(self) -> None:
        check(0 < self.noise_std < math.inf, "noise_std", "a number > 0", self.noise_std)
        check(0 <= self.noise_warmup <= 1, "noise_warmup", "a share of the steps in [0, 1]", self.noise_warmup)

    def loss(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Term: cross_entropy_noisy. Raises UserError for a model without such a first layer."""
        parts = first_layer(model, "regime=pixeldp")
        outputs = parts.before(batch.images).float()  # float32 under autocast too: noise of bf16 would be coarse
        logits = parts.rest(noisy(outputs, self.noise_std * progress.risen(self.noise_warmup), progress))
        loss = torch.nn.functional.cross_entropy(logits.float(), batch.labels)
        return Losses(loss, {"cross_entropy_noisy": loss})
