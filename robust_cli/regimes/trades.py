"""TRADES.

Symbols -> words: epsilon -> budget; eta -> step_size (here a fraction of the budget); K -> steps; beta = 1 / lambda (Zhang),
gamma (STN) -> weight; p = softmax f(x), q = softmax f(x_adv) -> the clean and the adversarial prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import cross_entropy

from robust_cli.attacks.norms import Norm
from robust_cli.attacks.pgd import ascend, step_length
from robust_cli.messages import check
from robust_cli.regimes.adversary import check_budget, check_reach, step_draws, victim
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.stability import stability_term

_START_STD = 0.001  # of the noise that the walk starts from, since KL has no slope at the image itself


def divergences(clean_logits: torch.Tensor, other_logits: torch.Tensor) -> torch.Tensor:
    """KL(p || q) = sum_j p_j (log p_j - log q_j) of each image, [n], from logits [n, K]; the gradient flows through both."""
    log_p = clean_logits.log_softmax(1)
    return (log_p.exp() * (log_p - other_logits.log_softmax(1))).sum(1)


def _mean_divergence(clean_logits: torch.Tensor, other_logits: torch.Tensor) -> torch.Tensor:
    return divergences(clean_logits, other_logits).mean()


# Of each distance its name in the record, and its mean over a batch.
DISTANCES: dict[str, tuple[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    "kl": ("kl", _mean_divergence), "cross_entropy": ("cross_entropy_soft", stability_term)}


@dataclass(frozen=True)
class Trades:
    """L = CE(f(x), y) + weight * mean KL(p || q), p = softmax f(x), q = softmax f(x_adv), x_adv = argmax over the ball of KL.

    Source: Zhang et al. 2019, Algorithm 1, and their published code. x_adv starts at x + 0.001 N(0, I) and takes
    ``steps`` ascent steps of KL(p || q), p held fixed, along signs (linf) or the unit gradient (l2), each projected on the ball
    and then on [0, 1], with the model in evaluation mode. MNIST: budget 0.3, 40 steps of 0.01, weight 1; CIFAR-10: budget 0.031,
    10 steps of 0.007, weight 6. Their l2 form takes steps of 2 / steps budgets, and a random one where the gradient is zero;
    here such a step is zero. In the loss the gradient flows through both arguments of KL, p and q, as in the published code.

    ``distance: cross_entropy`` is how STN (Li et al. 2019) writes it: -sum_j p_j log q_j = KL(p || q) + H(p) in place of KL. The
    x_adv are the same ones, for p is fixed in the maximisation, but the entropy is minimised too: like the term of
    `Stability` it rewards certain predictions, and is not zero where p = q.

    Clean and adversarial images go through the model as one batch (see `Stability`; the published code has two passes).
    """

    norm: str = Norm.linf
    budget: float = 0.3
    steps: int = 40
    step_size: float | None = 1 / 30
    weight: float = 1.0
    distance: str = "kl"
    budget_warmup: float = 0.0
    noise_std: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        check(self.norm in (Norm.linf, Norm.l2), "norm", "linf or l2", self.norm)
        check_budget(self.budget, self.norm)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        if self.step_size is not None:
            check(0 < self.step_size < math.inf, "step_size", "a number > 0, or null", self.step_size)
            check_reach(self.steps, self.step_size)
        check(0 <= self.weight < math.inf, "weight", "a number >= 0", self.weight)
        check(self.distance in DISTANCES, "distance", " or ".join(DISTANCES), self.distance)
        check(0 <= self.budget_warmup <= 1, "budget_warmup", "a share of the steps in [0, 1]", self.budget_warmup)

    def loss(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: cross_entropy (clean) and the distance before its weight, kl or cross_entropy_soft."""
        found = self.adversarial(model, batch, progress)
        clean_logits, logits = model(torch.cat([batch.images, found])).float().chunk(2)
        clean = cross_entropy(clean_logits, batch.labels)
        name, distance = DISTANCES[self.distance]
        apart = distance(clean_logits, logits)
        return Losses(clean + self.weight * apart, {"cross_entropy": clean, name: apart})

    def adversarial(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> torch.Tensor:
        """The x_adv of this step, [n, C, H, W], detached; the images themselves with a budget of 0."""
        budget, images = self.budget * progress.risen(self.budget_warmup), batch.images
        if budget == 0:
            return images
        classifier, draws = victim(model, images), step_draws(images, progress)
        clean_logits = classifier.network.logits(images)
        start = images + _START_STD * draws.normal(*images.shape[1:])
        return ascend(classifier, start, images, batch.labels, lambda logits, _: divergences(clean_logits, logits), draws,
                      steps=self.steps, length=step_length(self.step_size, self.steps, budget), budget=budget, norm=self.norm)
