"""An attack on a cascade of networks that answer by their own certificates: it picks the stage that shall answer.

Legend (Mangal et al. 2023) -> words: F^(j) -> stages; epsilon -> the cascade's ``radius`` and the attack's ``budget``, which
need not be the same here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from robust_cli.attacks.classifiers import Classifier, Network
from robust_cli.attacks.geometry import per_image, project, project_ball, random_start, settle, size, steepest
from robust_cli.attacks.losses import fooled
from robust_cli.attacks.norms import Norm
from robust_cli.attacks.pgd import step_length
from robust_cli.messages import check
from robust_cli.models.classifier import frozen
from robust_cli.smoothing.noise import ImageDraws
from robust_cli.verification.bounds import Ball, margins
from robust_cli.verification.cascade import Cascade
from robust_cli.verification.reading import read

BEYOND = 0.05  # of a step: how far inside the region where a condition is met it counts as met for good
Condition = tuple[torch.Tensor, torch.Tensor]  # values [n], met where > 0, and gradients to climb [n, C, H, W]; or several
_DUAL = {Norm.l2: Norm.l2, Norm.linf: Norm.l1}


@dataclass(frozen=True)
class CascadeAttack:
    """Looks for an image of the ball at which a `verification.cascade.Cascade` gives another class than the label's.

    A cascade is wrong at x' in two ways: some stage certifies itself there with another class, and none before it with the
    label; or no stage certifies the label, and the last one's class is wrong. So for each stage as the one that answers, one
    after the other until one succeeds, it seeks an x' that meets

        of the stages before:  the least dual margin of the label <= 0  (they do not certify the label)
        of this stage:         the least dual margin of another class > 0;  of the last stage: that class leads in logits

    where the dual margins are the bounds over the ball of the cascade's radius around x', differentiable in x'. Each step adds
    up the steepest directions of the conditions that are not met and shortens the sum to the length of a step (``step_size``
    budgets, by default 2.5 / steps); then the ball and the box. Whether x' succeeds is answered by the cascade itself.

    A least margin is the one to the nearest class, which need not be the class that can be reached. The first of the
    ``restarts`` therefore climbs softly, all classes by their softmax (the cross entropy of the margins), the second the nearest
    class alone, and so on in turn; after these two they begin at a uniform point of the ball, not at the image.

    What can be told from the clean image spares most of it: while the budget's ball lies within the cascade's radius, a stage
    certifies no other class at x' than the one it gives the clean image, for that lies in the ball that it proves. A stage
    whose class there is the label is then no target, and one whose class is not needs not be kept from certifying.

    Source: Mangal, Wang, Zhang, Leino, Pasareanu and Fredrikson 2023 (On the perils of cascading robust classifiers), whose
    attack CasA has these targets and this saving. Theirs is projected gradient ascent of one sum of cross entropies, in which
    the stages before are pushed toward equal logits however far they are from certifying; the conditions, of no weight
    where they are met and of equal weight where not, the check of every candidate, the second way to climb, restarts, and
    budgets beyond the radius are ours.

    Costs: a forward pass for each image and stage whose bounds or logits are computed, though bounds take as long as some
    hundred, and a backward pass for each of their gradients; an answer of the cascade is one forward pass.
    """

    norm: str = Norm.l2
    steps: int = 20
    step_size: float | None = None
    restarts: int = 2
    budget: float | None = None

    def __post_init__(self) -> None:
        check(self.norm in (Norm.l2, Norm.linf), "norm", "l2 or linf", self.norm)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        check(self.step_size is None or 0 < self.step_size < math.inf, "step_size", "a number > 0, or null", self.step_size)
        check(self.restarts >= 1, "restarts", "a whole number >= 1", self.restarts)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    def check_victim(self, classifier: Classifier) -> None:
        """Raises Wrong for anything but a cascade that answers for itself, without noise in answers or gradients."""
        noisy, model = classifier.random or classifier.noisy_gradients, classifier.network.model
        check(isinstance(model, Cascade) and not noisy, "classifier", "a cascade of networks (robust train regime=lp_dual "
              "regime.stages=2) with classifier=base and no gradient_noise (for others take pgd_l2 or pgd_linf)",
              f"{type(model).__name__}{' under noise' if noisy else ''}")

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Adversarial images float32 [n, C, H, W] in the ball and in [0, 1]."""
        assert self.budget is not None, "a budget has to be set"
        self.check_victim(classifier)
        cascade = classifier.network.model
        assert isinstance(cascade, Cascade)
        found, left = images.clone(), torch.ones(len(images), dtype=torch.bool, device=images.device)
        with frozen(cascade):
            victim = _Victim(classifier.network, images, labels, self.covered(cascade, images[0].numel()))
            for target in range(victim.stages):
                for restart in range(self.restarts):
                    rows = (left & victim.possible(target)).nonzero()[:, 0]
                    if not len(rows):
                        break
                    found[rows], beaten = self._pursue(victim, target, rows, restart, draws.select(rows.tolist()))
                    left[rows[beaten]] = False
        return found

    def covered(self, cascade: Cascade, pixels: int) -> bool:
        """Whether the budget's ball lies within that of the cascade's radius."""
        assert self.budget is not None
        largest = self.budget * math.sqrt(pixels) if (self.norm, cascade.norm) == (Norm.linf, Norm.l2) else self.budget
        return largest <= cascade.radius

    def _pursue(self, victim: _Victim, target: int, rows: torch.Tensor, restart: int,
                draws: ImageDraws) -> tuple[torch.Tensor, torch.Tensor]:
        """The last point for each of some images, and which of them the cascade gets wrong, bool [n]."""
        budget = self.budget
        assert budget is not None
        length = step_length(self.step_size, self.steps, budget)
        images = victim.images[rows]
        point = random_start(images, budget, self.norm, draws) if restart > 1 else images
        beaten, todo = torch.zeros(len(rows), dtype=torch.bool, device=rows.device), torch.arange(len(rows), device=rows.device)
        for step in range(self.steps + 1):
            values, gradients = victim.conditions(target, point[todo], rows[todo], softly=restart % 2 == 0)
            met = todo if step == self.steps else todo[(values > 0).all(0)]
            if len(met):
                point = point.index_copy(0, met, settle(point[met], images[met], budget, self.norm))
                beaten[met] = victim.fooled(point[met], rows[met])
            going = ~beaten[todo]
            todo = todo[going]
            if step == self.steps or not len(todo):
                break
            moved = point[todo] + self._move(values[:, going], gradients[:, going], length)
            point = point.index_copy(0, todo, project(moved, images[todo], budget, self.norm))
        return point, beaten

    def _move(self, values: torch.Tensor, gradients: torch.Tensor, length: float) -> torch.Tensor:
        """A step [n, C, H, W] of at most ``length`` up the conditions [m, n] that are not met, or hardly, by their slopes."""
        step = torch.zeros_like(gradients[0])
        for value, gradient in zip(values, gradients, strict=True):
            wanted = value < BEYOND * length * size(gradient, _DUAL[Norm(self.norm)])
            step = step + per_image(wanted * length) * steepest(gradient, self.norm)
        return project_ball(step, length, self.norm)


class _Victim:
    """A cascade around some images: what each stage says at the clean image, and the conditions of its targets at others."""

    def __init__(self, network: Network, images: torch.Tensor, labels: torch.Tensor, covered: bool) -> None:
        cascade = network.model
        assert isinstance(cascade, Cascade)
        self.network, self.images, self.labels, self.covered = network, images, labels, covered
        self.networks, self.stages, self.ball = cascade.asked, cascade.in_use, Ball(cascade.norm, cascade.radius)
        self.programs = [read(stage, tuple(images.shape[1:])) for stage in self.networks[:-1]]
        with torch.no_grad():
            self.named = torch.stack([stage(images).argmax(1) for stage in self.networks])  # at the clean image, [stages, n]
        network.forward_passes += self.named.numel()

    def possible(self, target: int) -> torch.Tensor:
        """For which images a stage may answer wrongly, bool [n]."""
        if target == self.stages - 1 or not self.covered:
            return torch.ones_like(self.labels, dtype=torch.bool)
        return self.named[target] != self.labels

    def fooled(self, points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """What the cascade itself says, bool [n]."""
        return fooled(self.network.logits(points), self.labels[rows])

    def conditions(self, target: int, points: torch.Tensor, rows: torch.Tensor, softly: bool) -> Condition:
        """Values [m, n], met where > 0 (infinite where a condition is none), and gradients [m, n, C, H, W] to climb."""
        found = [self._not_certified(stage, points, rows, softly) for stage in range(target)]
        own = self._certified_wrong if target < self.stages - 1 else self._wrong
        found.append(own(target, points, rows, softly))
        values, gradients = zip(*found, strict=True)
        return torch.stack(values), torch.stack(gradients)

    def _not_certified(self, stage: int, points: torch.Tensor, rows: torch.Tensor, softly: bool) -> Condition:
        values, gradients, labels = points.new_full((len(rows),), torch.inf), torch.zeros_like(points), self.labels[rows]
        able = ((self.named[stage, rows] == labels) | (not self.covered)).nonzero()[:, 0]
        if len(able):
            values[able], gradients[able] = self._sloped(points[able], lambda x: self._lacking(stage, x, labels[able]), softly)
        return values, gradients

    def _certified_wrong(self, stage: int, points: torch.Tensor, rows: torch.Tensor, softly: bool) -> Condition:
        classes = self.named[stage, rows]
        if not self.covered:
            with torch.no_grad():
                logits = self.networks[stage](points)
            self.network.forward_passes += len(points)
            classes = logits.scatter(1, self.labels[rows, None], -torch.inf).argmax(1)
        values, gradients = self._sloped(points, lambda x: self._lacking(stage, x, classes), softly)
        return -values, -gradients

    def _wrong(self, stage: int, points: torch.Tensor, rows: torch.Tensor, softly: bool) -> Condition:
        labels = self.labels[rows, None]

        def leads(x: torch.Tensor) -> torch.Tensor:
            logits = self.networks[stage](x)
            return (logits - logits.gather(1, labels)).scatter(1, labels, -torch.inf)

        return self._sloped(points, leads, softly)

    def _lacking(self, stage: int, points: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """What a class's bounds lack of being certified against each other class in the ball around each point, [n, K]."""
        return (-margins(self.programs[stage], points, classes, self.ball)).scatter(1, classes[:, None], -torch.inf)

    def _sloped(self, points: torch.Tensor, each: Callable[[torch.Tensor], torch.Tensor], softly: bool) -> Condition:
        """The largest of numbers [n, K], and its gradient, or that of the soft one."""
        with torch.enable_grad():
            inputs = points.detach().requires_grad_()
            numbers = each(inputs)
            climbed = numbers.logsumexp(1) if softly else numbers.amax(1)
            (gradients,) = torch.autograd.grad(climbed.sum(), inputs, materialize_grads=True)
        self.network.forward_passes += len(points)
        self.network.backward_passes += len(points)
        return numbers.detach().amax(1), gradients
