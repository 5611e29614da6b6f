"""Stability training (STN).

Symbols -> words: gamma -> weight; sigma -> noise_std; x' = x + N(0, sigma^2 I) -> the noisy images; P(y_j | x) -> the
softmax probabilities; L_0 -> cross_entropy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from robust_cli.messages import check
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.noise import noisy


def stability_term(clean_logits: torch.Tensor, noisy_logits: torch.Tensor) -> torch.Tensor:
    """Mean over images of -sum_j P(y_j | x) log P(y_j | x'), from logits [n, K]; the gradient flows through both factors.

    It equals H(P(x)) + KL(P(x) || P(x')): equal predictions leave the entropy, so it is not zero without noise.
    """
    return -(clean_logits.softmax(1) * noisy_logits.log_softmax(1)).sum(1).mean()


@dataclass(frozen=True)
class Stability:
    """L = CE(f(x), y) + weight * ( - sum_j P(y_j | x) log P(y_j | x') ), x' = x + N(0, noise_std^2 I), fresh and unclipped.

    Source: STN (Li et al. 2019), stability training, as the paper has it. The published code trained other losses: until
    March 2020 (CE(f(x), y) + CE(f(x'), y)) / 2, which is noise augmentation (`NoiseAugmentation` with clean_weight 1/2);
    afterwards the same formula with raw logits in place of the probabilities P(y_j | x). Neither is mixed in here.

    The entropy in the second term rewards certain predictions, right or wrong: from random weights a weight of about 5
    or more (MNIST, noise 0.5) ends in a model that knows two or three classes. Weights of 1 (the papers') to 3 train well;
    go beyond from trained weights (training.init_from), or let the weight grow. The loop says so when it meets a collapsed
    model. ``weight_warmup`` and ``noise_warmup``: shares of the steps over which weight and noise grow linearly from 0.

    Clean and noisy images go through the model in one pass, as one batch: the formula is the same, it is faster than two
    passes, dropout draws for each copy, and batch normalisation sees in training the mixture that its running statistics
    describe afterwards (two passes would normalise each half by itself and then test with the mixture).
    """

    noise_std: float = 0.5
    weight: float = 1.0
    noise_warmup: float = 0.0
    weight_warmup: float = 0.0

    def __post_init__(self) -> None:
        check(0 <= self.noise_std < math.inf, "noise_std", "a number >= 0", self.noise_std)
        check(0 <= self.weight < math.inf, "weight", "a number >= 0", self.weight)
        for name in ("noise_warmup", "weight_warmup"):
            check(0 <= getattr(self, name) <= 1, name, "a share of the steps in [0, 1]", getattr(self, name))

    def loss(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: cross_entropy (clean) and stability (before its weight)."""
        noise_std, weight = self.noise_std * progress.risen(self.noise_warmup), self.weight * progress.risen(self.weight_warmup)
        both = torch.cat([batch.images, noisy(batch.images, noise_std, progress)])
        clean_logits, noisy_logits = model(both).float().chunk(2)
        cross_entropy = torch.nn.functional.cross_entropy(clean_logits, batch.labels)
        stability = stability_term(clean_logits, noisy_logits)
        return Losses(cross_entropy + weight * stability, {"cross_entropy": cross_entropy, "stability": stability})
