"""The attack of Szegedy et al.: L-BFGS in the box on the distance plus a constant times a loss, the constant by search.

Symbols -> words: c -> constant; x + r -> point; l -> target; loss_f -> loss, its gradient slope; m -> memory; s_k -> moves;
y_k -> 2 s_k + c q_k, q_k -> turns, of the slope alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch

from robust_cli.attacks.classifiers import Classifier, Network
from robust_cli.attacks.closest import Closest, label_lead
from robust_cli.attacks.losses import cross_entropy, fooled
from robust_cli.attacks.minimal_size import MinimalFgsm
from robust_cli.attacks.norms import Norm
from robust_cli.attacks.quasi_newton import direction
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws

TARGETS = ("any", "likeliest", "gradient", "random")
STARTS = ("last", "image")
_LEAD = 10.0  # of the label at the image, to which the logits are scaled for the loss with any target
_CURVATURE = 2.0  # of |x' - x|^2 in every direction: what the pairs do not speak of
_DESCENT = 1e-4  # share of the fall promised by the slope that a step has to keep (Armijo)
_SHORTEST = 2.0**-10  # a step halved to less ends the minimisation


@dataclass(frozen=True)
class Lbfgs:
    """Least |x' - x|^2 + constant * loss(x') over x' in [0, 1], the smallest constant whose minimum fools, for each image.

    Source: Szegedy et al. 2014, section 4.1; Tabacof and Valle 2016, Algorithm 1, which foolbox ran up to 1.8 and AMR (ICLR 2020
    submission) with it. The constant doubles until the minimum fools and is then bisected, ``bisections`` times; the nearest
    adversarial image of all points passed is kept. The loss with a target t is the cross entropy -log p_t: t is
    the ``likeliest`` other class at the image, the class that a ``gradient`` attack of growing size meets (foolbox's choice),
    or a ``random`` one (the first two papers'; also where the gradient attack meets none). With ``any``, the default and the
    strongest, it is -log(1 - p_y): some class other than the label, whichever comes nearest on the way. There the logits are
    scaled to a lead of 10 at the image, for if they are nearly equal, all other classes count alike, near or far.

    Choices that are not the papers'. All images are minimised at once, each with its own pairs, step length and constant, so
    that none waits for another: a pass decides a trial point of each, and a new constant costs no pass. The curvature 2 of the
    distance is known; the pairs are kept for the loss alone, and thus serve every constant. Pixels at the edge of the box whose
    gradient leads out of it stand still (Bertsekas 1982), the others are clipped; steps are halved until they descend enough.
    ``start``: each constant begins where the one before ended, or at the image (the papers), which on a convolutional network
    found nothing nearer with three times the passes.
    The first constant, where ``constant`` is null, is 4 lead / |slope of the lead|^2, with which an affine classifier of two
    classes is at its boundary (foolbox: 2e-5 for each pixel). ``refine`` halvings of the way back at the end.
    """

    norm: str = Norm.l2
    target: str = "any"
    memory: int = 15
    steps: int = 150
    tolerance: float = 1e-3
    constant: float | None = None
    doublings: int = 30
    bisections: int = 10
    start: str = "last"
    refine: int = 8
    closest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.norm == Norm.l2, "norm", "l2", self.norm)
        check(self.target in TARGETS, "target", " or ".join(TARGETS), self.target)
        check(self.memory >= 1, "memory", "a whole number >= 1", self.memory)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        check(0 <= self.tolerance < 1, "tolerance", "a number in [0, 1)", self.tolerance)
        check(self.constant is None or 0 < self.constant < math.inf, "constant", "a number > 0, or null", self.constant)
        check(self.doublings >= 1, "doublings", "a whole number >= 1", self.doublings)
        check(self.bisections >= 0, "bisections", "a whole number >= 0", self.bisections)
        check(self.start in STARTS, "start", " or ".join(STARTS), self.start)
        check(self.refine >= 0, "refine", "a whole number >= 0", self.refine)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Nearest adversarial images found, float32 [n, C, H, W] in [0, 1]; the image itself where there is none."""
        network, best = classifier.network, Closest(images, self.norm)
        targets = self._targets(classifier, images, labels, draws)
        lead = label_lead(network.logits(images), labels)
        scale = torch.where(lead > 0, _LEAD / lead, 1.0) if targets is None else torch.ones_like(lead)
        problem = _Problem(network, images, labels, targets, scale, best)
        begin = self._begin(problem, scale * lead)
        search = replace(begin)
        while len(search.rows):
            ended = self._minimise(problem, search)
            if ended.any():
                self._next_constant(search, ended)
                if self.start == "image":
                    search.restart(begin, ended)
                search = search.select(search.tried < torch.where(search.high.isfinite(), self.bisections, self.doublings))
        best.refine(network, labels, self.refine)
        return best.images

    def _targets(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor,
                 draws: ImageDraws) -> torch.Tensor | None:
        """The class that each image is to be taken for, int64 [n]; None for any."""
        if self.target == "any":
            return None
        logits = classifier.network.logits(images)
        if self.target == "likeliest":
            return logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
        others = logits.shape[1] - 1
        random = (labels + 1 + (draws.uniform(1).squeeze(1) * others).long().clamp_max(others - 1)) % (others + 1)
        if self.target == "random":
            return random
        logits = classifier.network.logits(MinimalFgsm(norm=Norm.l2)(classifier, images, labels, draws))
        return torch.where(fooled(logits, labels), logits.argmax(1), random)

    def _begin(self, problem: _Problem, lead: torch.Tensor) -> _Search:
        """The search at the images themselves; without those that are fooled already, or whose loss has no slope."""
        point = problem.images.flatten(1)
        rows = torch.arange(len(point), device=point.device)
        slope, loss, adversarial = problem.evaluate(point, rows)
        guess = 4 * lead * (1 - (-loss).exp()).square() / slope.norm(dim=1).square()
        constant = torch.where(guess.isfinite() & (guess > 0), guess, 1.0) if self.constant is None else torch.full_like(
            loss, self.constant)
        pairs = point.new_zeros(len(point), self.memory, point.shape[1])
        none, one = torch.zeros_like(rows), torch.ones_like(loss)
        search = _Search(rows, point, slope, loss, adversarial, one, none, pairs, pairs, constant, 0 * one, torch.inf * one, none)
        return search.select(~adversarial & (slope != 0).any(1) & slope.isfinite().all(1) & loss.isfinite())

    def _minimise(self, problem: _Problem, search: _Search) -> torch.Tensor:
        """One pass: a trial point of each image, taken where it descends enough. Whose minimisation has ended, bool [n]."""
        origin, constant = problem.images.flatten(1)[search.rows], search.constant[:, None]
        gradient = 2 * (search.point - origin) + constant * search.slope
        free = ~(((search.point <= 0) & (gradient > 0)) | ((search.point >= 1) & (gradient < 0)))
        turns = 2 * search.moves + constant[..., None] * search.turns
        way = direction(gradient, free, search.moves, turns, _CURVATURE)
        trial = (search.point + search.length[:, None] * way).clamp(0, 1)
        slope, loss, adversarial = problem.evaluate(trial, search.rows)
        before = (search.point - origin).square().sum(1) + search.constant * search.loss
        after = (trial - origin).square().sum(1) + search.constant * loss
        taken = after <= before + _DESCENT * (gradient * (trial - search.point)).sum(1)
        search.remember(trial - search.point, slope - search.slope)
        search.move(taken, trial, slope, loss, adversarial)
        settled = taken & (before - after <= self.tolerance * after)
        return settled | (search.length < _SHORTEST) | (search.steps >= self.steps)

    def _next_constant(self, search: _Search, ended: torch.Tensor) -> None:
        """A new constant for the images that are done with theirs: twice the last until one fooled, then between the bounds."""
        success, first = ended & search.adversarial, search.high.isinf()
        search.high = torch.where(success, search.constant, search.high)
        search.low = torch.where(ended & ~search.adversarial, search.constant, search.low)
        constant = torch.where(search.high.isinf(), 2 * search.constant, (search.low + search.high) / 2)
        search.constant = torch.where(ended, constant, search.constant)
        search.tried = torch.where(first & success, 0, search.tried + ended.long())
        search.length, search.steps = torch.where(ended, 1, search.length), torch.where(ended, 0, search.steps)


@dataclass(frozen=True)
class _Problem:
    """What is minimised, for which images; what fools on the way goes to ``best``."""

    network: Network
    images: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor | None
    scale: torch.Tensor  # of the logits, [n]
    best: Closest

    def evaluate(self, points: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Slope of the loss [k, d] at points [k, d] of the images ``rows``, the loss [k], and whether they fool, bool [k]."""
        points, labels, scale = points.view(-1, *self.images.shape[1:]), self.labels[rows], self.scale[rows][:, None]
        targets, loss_of = (labels, _any_other) if self.targets is None else (self.targets[rows], cross_entropy)
        slope, loss, logits = self.network.gradient(points, lambda logits: loss_of(scale * logits, targets))
        adversarial = fooled(logits, labels)
        self.best.offer(points, adversarial, rows)
        return slope.flatten(1), loss, adversarial


def _any_other(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log(1 - softmax(z)_y), [n]."""
    own = labels[:, None]
    return torch.nn.functional.softplus(logits.gather(1, own).squeeze(1) - logits.scatter(1, own, -torch.inf).logsumexp(1))


@dataclass
class _Search:
    """Where each image that is still searched stands: every field has a row for each."""

    rows: torch.Tensor  # which image, int64
    point: torch.Tensor  # [n, d], with the slope of the loss there [n, d], the loss [n], and whether it fools, bool [n]
    slope: torch.Tensor
    loss: torch.Tensor
    adversarial: torch.Tensor
    length: torch.Tensor  # of the step to try next, 1 where none was refused
    steps: torch.Tensor  # passes since the constant was chosen
    moves: torch.Tensor  # [n, m, d], the newest last, over their length; zero where there are none yet
    turns: torch.Tensor
    constant: torch.Tensor
    low: torch.Tensor  # the largest constant that failed
    high: torch.Tensor  # the smallest that did it, infinity at first
    tried: torch.Tensor  # constants since high was found, or since the beginning

    def select(self, keep: torch.Tensor) -> _Search:
        """The images of a mask; the search itself where that is all of them."""
        return self if bool(keep.all()) else _Search(*(getattr(self, field.name)[keep] for field in fields(self)))

    def remember(self, move: torch.Tensor, turn: torch.Tensor) -> None:
        """Add a pair for each image, also one whose trial is refused: it tells of a curvature that was not known."""
        length = move.norm(dim=1, keepdim=True)
        known = ((length > 0) & turn.isfinite().all(1, keepdim=True))[..., None]
        for name, new in (("moves", move / length), ("turns", turn / length)):
            old = getattr(self, name)
            setattr(self, name, torch.where(known, torch.cat([old[:, 1:], new[:, None]], 1), old))

    def move(self, taken: torch.Tensor, trial: torch.Tensor, slope: torch.Tensor, loss: torch.Tensor,
             adversarial: torch.Tensor) -> None:
        """Go where a trial was taken; where not, halve the step."""
        self.point, self.slope = torch.where(taken[:, None], trial, self.point), torch.where(taken[:, None], slope, self.slope)
        self.loss, self.adversarial = torch.where(taken, loss, self.loss), torch.where(taken, adversarial, self.adversarial)
        self.length, self.steps = torch.where(taken, 1, self.length / 2), self.steps + 1

    def restart(self, begin: _Search, ended: torch.Tensor) -> None:
        """Put the images whose minimisation has ended back to where they began, without pairs."""
        at = torch.searchsorted(begin.rows, self.rows[ended])
        for name in ("point", "slope", "loss", "adversarial", "moves", "turns"):
            setattr(self, name, getattr(self, name).index_put((ended,), getattr(begin, name)[at]))
