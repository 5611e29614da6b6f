"""Logit pairing: predictions of two images are drawn together, in logits.

Symbols (Kannan) -> words: lambda -> weight; f -> the logits; x~ -> the adversarial images; m -> the images of a batch, n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy, mse_loss

from robust_cli.messages import check
from robust_cli.regimes.adversary import adversarial, check_within
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.noise import noisy
from robust_cli.smoothing.noise import keyed_generator
from robust_cli.smoothing.noises import make_noise

PAIRS = ("adversarial", "clean")
_PAIRS_BLOCK = 2  # of a step's stream: see `regimes.adversary`


def random_pairs(logits: torch.Tensor, progress: Progress) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, K] in a random order, and each row's partner: the row before it, so that each image is in two pairs."""
    generator = keyed_generator(logits.device, progress.seed, "regime", progress.step, _PAIRS_BLOCK)
    shuffled = logits[torch.randperm(len(logits), generator=generator, device=logits.device)]
    return shuffled, shuffled.roll(1, 0)


@dataclass(frozen=True)
class LogitPairing:
    """L = clean_weight CE(f(x), y) + (1 - clean_weight) CE(f(x_adv), y) + weight * mean (f(x) - f(x'))^2.

    Source: Kannan, Kurakin and Goodfellow 2018. ``pairs: adversarial`` (their ALP): x' = x_adv; clean_weight 1/2 is
    their mixed minibatch, and weight 0.5 what they train ImageNet with. ``pairs: clean`` (CLP): x' is
    another image of the batch at random, whatever its class; with clean_weight 1, as there, no image is attacked at all, and
    ``attack`` and ``budget`` are null. They add Gaussian noise to the images first: ``noise_std``.

    The mean is over images and classes, as in the published code (the paper's formula leaves open whether classes are summed);
    the gradient flows through both logits. All images go through the model as one batch (see `Stability`). With
    ``noise_std`` the attack climbs through one fresh draw of noise in each step, and everything that is learnt from has noise
    of its own. That robustness against the attack trained with may be a matter of masked gradients alone is known of this method
    (Engstrom et al. 2018, Mosbach et al. 2018): attack its models with many steps and restarts, and without gradients.
    """

    attack: Any = None
    budget: float | None = None
    weight: float = 0.5
    pairs: str = "adversarial"
    clean_weight: float = 0.5
    budget_warmup: float = 0.0
    noise_std: float | None = None

    def __post_init__(self) -> None:
        check(self.pairs in PAIRS, "pairs", " or ".join(PAIRS), self.pairs)
        check(0 <= self.clean_weight <= 1, "clean_weight", "a number in [0, 1]", self.clean_weight)
        check(0 <= self.weight < math.inf, "weight", "a number >= 0", self.weight)
        check(0 <= self.budget_warmup <= 1, "budget_warmup", "a share of the steps in [0, 1]", self.budget_warmup)
        if self.noise_std is not None:
            make_noise("gaussian", self.noise_std)  # which checks the size
        if self._attacks:
            check_within(self.attack, self.budget, self.noise_std)
            return
        alone = "with pairs=clean and clean_weight=1, which attack no image"
        check(self.attack is None, "attack", f"null {alone}", type(self.attack).__name__)
        check(self.budget is None, "budget", f"null {alone}", self.budget)
        check(self.budget_warmup == 0, "budget_warmup", f"0 {alone}", self.budget_warmup)

    @property
    def _attacks(self) -> bool:
        return self.pairs == "adversarial" or self.clean_weight < 1

    def loss(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: cross_entropy, cross_entropy_adversarial (where images are attacked), and logit_pairing before its weight."""
        images = torch.cat([batch.images, self._adversarial(model, batch, progress)]) if self._attacks else batch.images
        logits = model(images if self.noise_std is None else noisy(images, self.noise_std, progress)).float()
        clean_logits, *others = logits.split(len(batch.images))
        clean = cross_entropy(clean_logits, batch.labels)
        total, terms = self.clean_weight * clean, {"cross_entropy": clean}
        for adversarial_logits in others:
            attacked = terms["cross_entropy_adversarial"] = cross_entropy(adversarial_logits, batch.labels)
            total = total + (1 - self.clean_weight) * attacked
        pair = (clean_logits, *others) if self.pairs == "adversarial" else random_pairs(clean_logits, progress)
        apart = terms["logit_pairing"] = mse_loss(*pair)
        return Losses(total + self.weight * apart, terms)

    def _adversarial(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> torch.Tensor:
        assert self.budget is not None
        return adversarial(self.attack, self.budget * progress.risen(self.budget_warmup), model, batch.images, batch.labels,
                           progress, self.noise_std)
