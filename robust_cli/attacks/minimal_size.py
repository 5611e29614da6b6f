"""The smallest size at which an attack with a budget fools each image: the fast gradient by a scan, PGD by bisection.

Symbols -> words: epsilon -> size (of a step, of a ball); epsilons -> sizes; stepsize -> step_size (here a fraction of the size).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.attacks.classifiers import Classifier, Network
from robust_cli.attacks.closest import Closest, gradient_and_logits
from robust_cli.attacks.geometry import per_image, steepest
from robust_cli.attacks.losses import LOSSES, fooled
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws

_COPIES = 256  # images a pass may hold when few are left that still need one
_AHEAD = 8  # sizes of an image that a pass may try at first, and later as many as were tried before


def scan(network: Network, labels: torch.Tensor, best: Closest, rows: torch.Tensor, sizes: int,
         candidates: Callable[[torch.Tensor, range], torch.Tensor]) -> torch.Tensor:
    """The position, among ``sizes`` in order, of the first that fools each of the images ``rows``; -1 for all others, int64 [n].

    ``candidates(rows, positions)``: images [len(rows), len(positions), C, H, W]. What is found is offered to ``best``. An image
    leaves when it is fooled; as the batch empties, a pass takes several sizes of each image, in order, so that the first is the
    same as that of a plain loop, whatever the batch. At most as many copies go to waste as had to be tried before, or 7.
    """
    first, start = torch.full_like(labels, -1), 0
    while len(rows) and start < sizes:
        several = max(1, min(_COPIES // len(rows), max(_AHEAD, start), sizes - start))
        tried = candidates(rows, range(start, start + several))
        adversarial = fooled(network.logits(tried.flatten(0, 1)), labels[rows].repeat_interleave(several)).view(-1, several)
        found, at = adversarial.any(1), adversarial.int().argmax(1)  # the first of equals
        best.offer(tried[torch.arange(len(rows), device=at.device), at], found, rows)
        first[rows[found]] = start + at[found]
        rows, start = rows[~found], start + several
    return first


@dataclass(frozen=True)
class MinimalFgsm:
    """clip(x + size * u) at the first of ``sizes`` equal steps up to ``largest`` that fools, u the steepest direction at x.

    Source: AMR (ICLR 2020 submission), Table 3 ("GSM"), as foolbox ran it: the gradient of the cross entropy is taken once, 1000
    sizes in (0, 1] are scanned from below, and where one of the first ``finer`` (20) fools, the way to it is scanned again in
    as many equal steps. u are the signs (linf), or the gradient over its length (l2, foolbox's gradient attack, whose sizes
    were root mean squares: hence ``largest``, where it is null, is 1 in linf and the square root of the number of pixels in l2).
    """

    norm: str = Norm.linf
    sizes: int = 1000
    largest: float | None = None
    finer: int = 20
    closest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.norm in (Norm.linf, Norm.l2), "norm", "linf or l2", self.norm)
        check(self.sizes >= 1, "sizes", "a whole number >= 1", self.sizes)
        check(self.largest is None or 0 < self.largest < math.inf, "largest", "a number > 0, or null", self.largest)
        check(self.finer >= 0, "finer", "a whole number >= 0", self.finer)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Nearest adversarial images found, float32 [n, C, H, W] in [0, 1]; the image itself where there is none."""
        network, best = classifier.network, Closest(images, self.norm)
        gradient, logits = gradient_and_logits(network, images, labels, LOSSES["cross_entropy"])
        best.offer(images, fooled(logits, labels))
        direction = steepest(gradient, self.norm)
        rows = (~best.found & (direction != 0).flatten(1).any(1)).nonzero().flatten()
        spacing = torch.full_like(best.distance, self._largest(images) / self.sizes)

        def candidates(rows: torch.Tensor, positions: range) -> torch.Tensor:
            size = spacing[rows][:, None] * (torch.tensor(positions, device=images.device) + 1)
            return (images[rows][:, None] + size[..., None, None, None] * direction[rows][:, None]).clamp(0, 1)

        first = scan(network, labels, best, rows, self.sizes, candidates)
        again = ((first >= 0) & (first < self.finer)).nonzero().flatten()
        if len(again):
            spacing[again] *= (first[again] + 1) / self.finer
            scan(network, labels, best, again, self.finer, candidates)
        return best.images

    def _largest(self, images: torch.Tensor) -> float:
        """The last size of the scan."""
        if self.largest is not None:
            return self.largest
        return 1.0 if self.norm == Norm.linf else math.sqrt(images[0].numel())


@dataclass(frozen=True)
class MinimalPgd:
    """PGD in the linf ball of the smallest radius at which it fools, each image's own, by enlarging and then bisecting it.

    Source: AMR (ICLR 2020 submission), Table 3 ("PGD"), as foolbox ran it: 40 steps of 1/30 of the size along the signs of the
    gradient of the cross entropy, from the image itself, leaving early when it is fooled. The size is 0.3 at first and 1.5
    times larger each time that PGD fails, up to ``tries`` sizes; then ``bisections`` halve the way between the largest that
    failed (0 at first) and the smallest that fooled. The nearest adversarial image of all is kept: it may be nearer than the
    smallest size, since PGD that succeeds in its first steps has not reached the edge of its ball.

    Every image goes on with its own next size as soon as one is decided, so that no image waits for another; a pass decides the
    point it stands on and gives the next step.
    """

    norm: str = Norm.linf
    size: float = 0.3
    steps: int = 40
    step_size: float = 1 / 30
    tries: int = 20
    bisections: int = 20
    closest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.norm == Norm.linf, "norm", "linf", self.norm)
        check(0 < self.size < math.inf, "size", "a number > 0", self.size)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        check(0 < self.step_size < math.inf, "step_size", "a number > 0", self.step_size)
        check(self.tries >= 1, "tries", "a whole number >= 1", self.tries)
        check(self.bisections >= 0, "bisections", "a whole number >= 0", self.bisections)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Nearest adversarial images found, float32 [n, C, H, W] in [0, 1]; the image itself where there is none."""
        network, best = classifier.network, Closest(images, self.norm)
        gradient, logits = gradient_and_logits(network, images, labels, LOSSES["cross_entropy"])
        best.offer(images, fooled(logits, labels))
        first = steepest(gradient, self.norm)
        rows = (~best.found & (first != 0).flatten(1).any(1)).nonzero().flatten()
        search = _Sizes(self, best.distance)
        point, done = self._step(images, first, images, search.size), torch.ones_like(labels)
        while len(rows):
            gradient, logits = gradient_and_logits(network, point[rows], labels[rows], LOSSES["cross_entropy"])
            adversarial = fooled(logits, labels[rows])
            best.offer(point[rows], adversarial, rows)
            ended = adversarial | (done[rows] == self.steps)
            search.settle(rows[ended], adversarial[ended])
            origin = torch.where(per_image(ended), images[rows], point[rows])
            direction = torch.where(per_image(ended), first[rows], steepest(gradient, self.norm))
            point[rows] = self._step(origin, direction, images[rows], search.size[rows])
            done[rows] = torch.where(ended, 1, done[rows] + 1)
            rows = rows[~search.over[rows]]
        return best.images

    def _step(self, point: torch.Tensor, direction: torch.Tensor, images: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        """One step of each image in the ball of its own size [n] and in the box."""
        radius = per_image(size)
        change = point + self.step_size * radius * direction - images
        return (images + torch.maximum(torch.minimum(change, radius), -radius)).clamp(0, 1)


class _Sizes:
    """Where each image's search for the smallest size stands: ``size`` to try next [n], ``over`` bool [n]."""

    def __init__(self, attack: MinimalPgd, like: torch.Tensor) -> None:
        self.attack, self.size = attack, torch.full_like(like, attack.size)
        self.bad, self.good = torch.zeros_like(like), torch.full_like(like, torch.inf)
        self.over = torch.zeros_like(like, dtype=torch.bool)
        self.tried, self.halved = self.over.long(), self.over.long()

    def settle(self, rows: torch.Tensor, success: torch.Tensor) -> None:
        """Take note of how the sizes of the images ``rows`` did, and choose their next ones."""
        bisecting, size = self.good[rows].isfinite(), self.size[rows]
        self.tried[rows] += (~bisecting).long()
        self.halved[rows] += bisecting.long()
        self.good[rows] = good = torch.where(success, size, self.good[rows])
        self.bad[rows] = bad = torch.where(bisecting & ~success, size, self.bad[rows])
        self.size[rows] = torch.where(good.isfinite(), (good + bad) / 2, size * 1.5)
        self.over[rows] = torch.where(good.isfinite(), self.halved[rows] >= self.attack.bisections,
                                      self.tried[rows] >= self.attack.tries)
