"""The second-order attack.

Symbols (SO) -> words: epsilon -> budget; alpha -> step_size (here a fraction of the budget); xi -> probe; d -> direction;
sigma of the attack -> noise_std; r_adv -> the step; H -> the Hessian of the loss at the current point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from robust_cli.attacks.classifiers import Classifier, SmoothedClassifier, strongest
from robust_cli.attacks.geometry import per_image, project, random_direction, settle, size, steepest
from robust_cli.attacks.losses import LOSSES, Loss
from robust_cli.attacks.norms import Norm
from robust_cli.attacks.pgd import ascend, step_length
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws

NOISE_STD = 0.2  # of the averaged form on a base classifier: stability training's noise on MNIST in SO


@dataclass(frozen=True)
class SecondOrder:
    """Ascent along g = the gradient of the loss near, not at, the current point: it moves where the gradient itself is zero.

    Source: SO (Li et al. 2018), which gives no steps, sizes or scales: 20 steps of 2.5 / 20 budgets are STN's. Two forms:

    single (eq. 5): g = grad L(x + probe * d), d a fresh uniform direction of l2 length 1 in every step. Where the gradient at x
    is zero, g is probe * H d. Its sign is arbitrary then, so both steps, along g and against it, are tried and each image
    keeps the one with the larger loss. ``power_iterations`` - 1 times before that, d is replaced by H d of length 1, with
    H d ~ (grad L(x + probe * d) - grad L(x)) / probe (appendix 9.1, whose text drops the second gradient): d turns to the
    eigenvector of the largest absolute eigenvalue. ``subtract_gradient`` takes grad L(x) off g too: a pure Hessian direction.

    averaged (eq. 6): g = mean of grad L(x + noise_std * z) over fresh Gaussian z. Taking the mean over symmetric noise cancels
    H d: this is first-order ascent of the loss smoothed by that noise, apart from what a finite number of draws leaves. On a
    smoothed classifier, the defence's noise takes the place of the attack's own, and its number of draws and objective hold.

    The step is along g over its length (l2) or along its signs (linf), then projected on the ball and clipped to [0, 1].
    """

    norm: str = Norm.l2
    form: str = "single"
    steps: int = 20
    step_size: float | None = None
    loss: str = "cross_entropy"
    probe: float = 0.1
    power_iterations: int = 1
    subtract_gradient: bool = False
    draws: int = 10
    noise_std: float | None = None
    add_noise: bool = False
    budget: float | None = None

    def __post_init__(self) -> None:
        check(self.norm in (Norm.l2, Norm.linf), "norm", "l2 or linf", self.norm)
        check(self.form in ("single", "averaged"), "form", "single or averaged", self.form)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        check(self.step_size is None or 0 < self.step_size < math.inf, "step_size", "a number > 0, or null", self.step_size)
        check(self.loss in LOSSES, "loss", " or ".join(LOSSES), self.loss)
        check(0 < self.probe < math.inf, "probe", "a number > 0", self.probe)
        check(self.power_iterations >= 1, "power_iterations", "a whole number >= 1", self.power_iterations)
        check(self.draws >= 1, "draws", "a whole number >= 1", self.draws)
        check(self.noise_std is None or 0 < self.noise_std < math.inf, "noise_std", "a number > 0, or null", self.noise_std)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)
        if self.form == "averaged":
            check(self.power_iterations == 1, "power_iterations", "1 with form=averaged", self.power_iterations)
            check(not self.subtract_gradient, "subtract_gradient", "false with form=averaged", self.subtract_gradient)
        else:
            check(self.noise_std is None, "noise_std", "null with form=single (its scale is probe)", self.noise_std)
        check(not self.add_noise or self.noise_std is not None, "add_noise", "noise_std to be set with it", self.add_noise)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Adversarial images float32 [n, C, H, W] in the ball and in [0, 1].

        Raises Wrong when a noise_std of the attack's own is set, the classifier has noise already, and add_noise is false.
        """
        assert self.budget is not None, "a budget has to be set"
        loss, length = LOSSES[self.loss], step_length(self.step_size, self.steps, self.budget)
        if self.form == "averaged":
            return ascend(self._noisy(classifier), images, images, labels, loss, draws, steps=self.steps, length=length,
                          budget=self.budget, norm=self.norm)
        end, rows, point, around = images.clone(), torch.arange(len(images), device=images.device), images, images
        for _ in range(self.steps):
            step = length * steepest(self._hessian_direction(classifier, point, labels[rows], loss, draws), self.norm)
            either = [project(point + sign * step, around, self.budget, self.norm) for sign in (1, -1)]
            point = end[rows] = strongest(classifier, torch.stack(either), labels[rows], loss, draws)
            if classifier.stops:  # one forward pass more, so that images that are fooled cost no more
                left = (classifier.lead(point, labels[rows], draws) <= 0).nonzero().flatten()
                rows, point, around, draws = rows[left], point[left], around[left], draws.select(left.tolist())
                if not len(rows):
                    break
        return settle(end, images, self.budget, self.norm)

    def _hessian_direction(self, classifier: Classifier, point: torch.Tensor, labels: torch.Tensor, loss: Loss,
                           draws: ImageDraws) -> torch.Tensor:
        """The g of eq. 5 after the power iterations asked for."""
        direction = random_direction(point, draws)
        here: torch.Tensor | float = 0.0
        if self.power_iterations > 1 or self.subtract_gradient:
            here, *_ = classifier.gradient(point, labels, loss, draws)
        for _ in range(self.power_iterations - 1):
            there, *_ = classifier.gradient(point + self.probe * direction, labels, loss, draws)
            turned = steepest(there - here, Norm.l2)
            direction = torch.where(per_image(size(turned, Norm.l2)) > 0, turned, direction)  # a flat place keeps d
        there, *_ = classifier.gradient(point + self.probe * direction, labels, loss, draws)
        return there - here if self.subtract_gradient else there

    def _noisy(self, classifier: Classifier) -> Classifier:
        """The classifier whose mean gradient is the g of eq. 6."""
        own = NOISE_STD if self.noise_std is None else self.noise_std
        if classifier.noise_std is None:
            return SmoothedClassifier(classifier.network, own, self.draws)
        if self.noise_std is None:
            return classifier
        check(self.add_noise, "noise_std", f"null on a smoothed classifier, whose own noise ({classifier.noise_std:g}) takes its "
              "place (add_noise=true adds both)", self.noise_std)
        both = math.hypot(classifier.noise_std, own)
        check(isinstance(classifier, SmoothedClassifier), "noise_std", "null with gradient_noise, which takes its place",
              self.noise_std)
        assert isinstance(classifier, SmoothedClassifier)  # for the types
        check(classifier.noise.name in ("gaussian", "integer_grid"), "add_noise", "false on a smoothed classifier whose noise is "
              "not Gaussian (the sum of both would be of no kind)", self.add_noise)
        return classifier.like(classifier.objective, noise_std=both)
