"""Adversarial training.

Symbols -> words: epsilon (Madry; S the ball) -> budget; alpha (Goodfellow) -> clean_weight; x_adv -> the adversarial images;
sigma (Salman) -> noise_std; m (Salman) -> draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from robust_cli.attacks.classifiers import OBJECTIVES
from robust_cli.messages import check
from robust_cli.regimes.adversary import adversarial, check_within
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.noise import noisy


@dataclass(frozen=True)
class Adversarial:
    """L = clean_weight CE(f(x), y) + (1 - clean_weight) CE(f(x_adv), y), x_adv what the attack finds around x in this step.

    Source: Madry et al. 2018, eq. 2.1 (min-max): clean_weight 0 and projected gradient ascent; on MNIST linf, budget 0.3, 40
    steps of 1/30 of it from a random start. Goodfellow et al. 2015, section 6: clean_weight 1/2 and FGSM, budget 0.25; SGR (Roth
    et al. 2018) trains such mixtures with FGSM and PGD without saying their ratio. SO (Li et al. 2018) discusses training
    against its second-order attack. By Danskin's theorem the gradient at the inner maximum is that of L with x_adv held fixed,
    and so it is taken here: no gradient flows through the attack, which sees the model in evaluation mode with frozen weights.

    ``budget`` is in the attack's norm, in pixel units; 0 is training on the clean images. With ``budget_warmup`` it grows
    linearly from 0 over that share of the steps. Where both parts have a weight their images go through the model as one batch
    (see `Stability`).

    ``noise_std`` trains a classifier that is to be smoothed (SmoothAdv: Salman et al. 2019): the attack climbs
    -log of the mean probability under ``draws`` draws of Gaussian noise (or, by ``objective: mean_loss``, the mean loss, as
    SO and STN attack), fresh in each of its steps, and the model learns from x_adv (and x, where it has a weight) plus other
    fresh noise, unclipped. There the paper's code keeps one set of draws for all steps and for the loss.
    """

    attack: Any
    budget: float = 0.3
    clean_weight: float = 0.0
    budget_warmup: float = 0.0
    noise_std: float | None = None
    draws: int = 1
    objective: str = "log_mean_probability"

    def __post_init__(self) -> None:
        check_within(self.attack, self.budget, self.noise_std)
        check(0 <= self.clean_weight < 1, "clean_weight", "a number in [0, 1)", self.clean_weight)
        check(0 <= self.budget_warmup <= 1, "budget_warmup", "a share of the steps in [0, 1]", self.budget_warmup)
        check(self.draws >= 1, "draws", "a whole number >= 1", self.draws)
        check(self.noise_std is not None or self.draws == 1, "draws", "1 without noise_std", self.draws)
        check(self.objective in OBJECTIVES, "objective", " or ".join(OBJECTIVES), self.objective)

    def loss(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: cross_entropy_adversarial and, where it has a weight, cross_entropy (with noise: cross_entropy_noisy)."""
        images = adversarial(self.attack, self.budget * progress.risen(self.budget_warmup), model, batch.images, batch.labels,
                             progress, self.noise_std, self.draws, self.objective)
        if self.clean_weight == 0:
            attacked = cross_entropy(model(self._seen(images, progress)).float(), batch.labels)
            return Losses(attacked, {"cross_entropy_adversarial": attacked})
        both = model(self._seen(torch.cat([batch.images, images]), progress)).float()
        clean, attacked = (cross_entropy(logits, batch.labels) for logits in both.chunk(2))
        return Losses(self.clean_weight * clean + (1 - self.clean_weight) * attacked,
                      {"cross_entropy" if self.noise_std is None else "cross_entropy_noisy": clean,
                       "cross_entropy_adversarial": attacked})

    def _seen(self, images: torch.Tensor, progress: Progress) -> torch.Tensor:
        return images if self.noise_std is None else noisy(images, self.noise_std, progress)
