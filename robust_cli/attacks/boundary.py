"""The boundary attack: a random walk along the decision boundary toward the image, by the classifier's answers alone.

Symbols (Brendel et al. 2018) -> words: o -> images; o~ -> point; d(o, o~) -> distance; eta -> direction; delta -> spherical_step;
epsilon -> source_step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.decisions import Answers, first_examples
from robust_cli.attacks.geometry import per_image, size
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws

ROUND = 10  # iterations between two looks at the sphere, at a random classifier's point, and at who has converged
INERTIA = 4  # iterations in which only successes make a step grow by step_adaptation ** (1 - rate)
SPHERE_RATE, SOURCE_RATE = 0.35, 0.175  # successes that hold the steps, in the middle of those that the authors' code allows
NEWEST = 0.02  # weight of an answer in the running rate of successes
RETREAT, FURTHEST = 1.01, 1.5  # of a point that a random classifier no longer takes for another class; times the best distance
SMALLEST, LARGEST = 1e-7, 1.0  # spherical steps


def _inner(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return per_image((first * second).flatten(1).sum(1))


def _unit_across(vectors: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """The part of vectors at right angles to unit vectors, of length 1; zero where nothing is left."""
    across = vectors - _inner(vectors, axis) * axis
    return across / per_image(size(across, Norm.l2)).clamp_min(1e-20)


class _Walk:
    """The images that still walk: where each stands, its steps, and what its answers have taught."""

    def __init__(self, images: torch.Tensor, point: torch.Tensor, rows: torch.Tensor, spherical: float, source: float | None,
                 rate: float) -> None:
        ones = torch.ones(len(rows), device=images.device)
        self.images, self.point, self.rows = images, point, rows
        self.spherical, self.rate, self.learnt = spherical * ones, rate * ones, torch.zeros_like(images)
        self.source = self.coupled() if source is None else source * ones

    def coupled(self) -> torch.Tensor:
        """The source step at which, on a flat boundary, a spherical step is worth most: half its square."""
        return self.spherical.square() / 2

    def select(self, rows: torch.Tensor) -> None:
        for name in ("images", "point", "rows", "spherical", "source", "rate", "learnt"):
            setattr(self, name, getattr(self, name)[rows])

    def distance(self) -> torch.Tensor:
        return size(self.point - self.images, Norm.l2)

    def propose(self, noise: torch.Tensor, pull: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Candidates, the same without the source step, and the random part of their directions."""
        away, distance = self.point - self.images, per_image(self.distance().clamp_min(1e-12))
        axis = away / distance
        fresh, led = _unit_across(noise, axis), _unit_across(self.learnt, axis)
        direction = _unit_across(per_image((1 - pull.square()).sqrt()) * fresh + per_image(pull) * led, axis)
        turned = (away + per_image(self.spherical) * distance * direction) / per_image((1 + self.spherical.square()).sqrt())
        candidates = self.images + per_image(1 - self.source) * turned
        return candidates.clamp(0, 1), (self.images + turned).clamp(0, 1), fresh

    def learn(self, fresh: torch.Tensor, success: torch.Tensor, forget: float) -> None:
        """Random directions of successes count for, those of failures against, each as much as it was not expected."""
        surprise = success.float() - self.rate
        self.rate = self.rate + NEWEST * surprise
        self.learnt = (1 - forget) * self.learnt + per_image(surprise) * fresh


@dataclass(frozen=True)
class Boundary:
    """Turn the point around the image by a random angle, draw it nearer, and stay there if it is still adversarial.

    Source: Brendel, Rauber, Bethge 2018, Algorithm 1. From a blend with uniform noise, brought to the boundary, an iteration
    takes a random direction at right angles to the way to the image, of length ``spherical_step`` times the distance, goes
    back to the sphere and then nearer by the fraction ``source_step``, and asks once. Steps follow each image's successes.

    What differs from the paper. Steps are adapted after each answer, by step_adaptation ** ((success - success_rate) / 4), not by
    windows of answers; the source step is half the square of the spherical one, which is best on a flat boundary. With a
    number as ``source_step`` it has its own: both follow the successes on the sphere, asked for in every tenth iteration,
    the source step also those of the candidates, as in the authors' code. Directions are drawn around a mean that is learnt
    from the answers: successes for, failures against, over about ``memory`` iterations a pixel; ``pull`` is the cosine to it.
    On a LeNet for MNIST it came nearer in as many queries, on a flat boundary it did not. With memory = 0 directions have
    no mean, as in the paper; take success_rate = 0.2 then. Codes that try up to 25 directions in an iteration ask that often.

    An image leaves when the source steps left together cannot shorten its distance by the fraction ``tolerance``. Of a random
    classifier the point itself is asked again in every tenth iteration: confirmed, it may be the example kept; refused, it
    goes back a hundredth of its distance, never further than half as much again as the best. Cost: about 50 queries for the
    start, then one an iteration (1.1 with a source_step, up to 1.2 on random classifiers), each of all the votes of a smoothed
    one.
    """

    norm: str = Norm.l2
    iterations: int = 5000
    spherical_step: float = 0.01
    source_step: float | None = None
    step_adaptation: float = 1.5
    success_rate: float = 0.3
    memory: float = 1.0
    pull: float = 0.5
    starts: int = 10
    tolerance: float = 0.001
    closest: ClassVar[bool] = True
    by_decisions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.norm == Norm.l2, "norm", "l2", self.norm)
        check(self.iterations >= 1, "iterations", "a whole number >= 1", self.iterations)
        check(0 < self.spherical_step <= LARGEST, "spherical_step", "a number in (0, 1]", self.spherical_step)
        check(self.source_step is None or 0 < self.source_step < 1, "source_step", "a number in (0, 1) or null",
              self.source_step)
        check(1 < self.step_adaptation < math.inf, "step_adaptation", "a number > 1", self.step_adaptation)
        check(0 < self.success_rate < 1, "success_rate", "a number in (0, 1)", self.success_rate)
        check(0 <= self.memory < math.inf, "memory", "a number >= 0", self.memory)
        check(0 <= self.pull < 1, "pull", "a number in [0, 1)", self.pull)
        check(self.starts >= 1, "starts", "a whole number >= 1", self.starts)
        check(0 <= self.tolerance < 1, "tolerance", "a number in [0, 1)", self.tolerance)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Nearest adversarial images found, float32 [n, C, H, W] in [0, 1]; the image itself where there is none."""
        answers = Answers(classifier, labels, draws)
        best = first_examples(answers, images, self.norm, self.starts)
        rows = (best.found & (best.distance > 0)).nonzero().flatten()
        walk = _Walk(images[rows], best.images[rows], rows, self.spherical_step, self.source_step,
                     self.success_rate)
        for begin in range(0, self.iterations, ROUND):
            left = self.iterations - begin
            walk.select((walk.source * left > self.tolerance).nonzero().flatten())
            if not len(walk.rows):
                break
            noise = answers.normal(walk.rows, ROUND, *images.shape[1:])
            for k in range(min(ROUND, left)):
                self._step(answers, walk, noise[:, k], sphere=k == 0)
            confirmed = answers.confirmed(walk.point, walk.rows) if answers.random else torch.ones_like(walk.rows).bool()
            best.offer(walk.point, confirmed, walk.rows)
            self._retreat(walk, ~confirmed, best.images[walk.rows])
        return best.images

    def _step(self, answers: Answers, walk: _Walk, noise: torch.Tensor, sphere: bool) -> None:
        """One iteration of all images that still walk."""
        pull = self.pull * (walk.rate / self.success_rate).clamp_max(1) if self.memory else torch.zeros_like(walk.rate)
        candidates, turned, fresh = walk.propose(noise, pull)
        success = answers.adversarial(candidates, walk.rows)
        nearer = success & (size(candidates - walk.images, Norm.l2) < walk.distance())
        walk.point = torch.where(per_image(nearer), candidates, walk.point)
        if self.memory:
            forget = 1 / (1 + self.memory * candidates[0].numel())
            walk.learn(fresh, success, forget)
        if self.source_step is None:
            walk.spherical = self._adapted(walk.spherical, success, self.success_rate, 1 / INERTIA)
            walk.source = walk.coupled()
            return
        walk.source = self._adapted(walk.source, success, SOURCE_RATE, 1 / INERTIA)
        if sphere:
            stayed = answers.adversarial(turned, walk.rows)
            walk.spherical, walk.source = (self._adapted(step, stayed, SPHERE_RATE, 1) for step in (walk.spherical, walk.source))

    def _adapted(self, step: torch.Tensor, success: torch.Tensor, rate: float, weight: float) -> torch.Tensor:
        return (step * self.step_adaptation ** (weight * (success.float() - rate))).clamp(SMALLEST, LARGEST)

    def _retreat(self, walk: _Walk, refused: torch.Tensor, best: torch.Tensor) -> None:
        """Points that are refused go back a little; those that are too far already, to the best image."""
        back = (walk.images + RETREAT * (walk.point - walk.images)).clamp(0, 1)
        too_far = size(back - walk.images, Norm.l2) > FURTHEST * size(best - walk.images, Norm.l2)
        back = torch.where(per_image(too_far), best, back)
        walk.point = torch.where(per_image(refused), back, walk.point)
