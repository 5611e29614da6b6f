"""DeepFool: steps to the nearest face of the linearised classifier.

Symbols -> words: f -> logits; k(x) -> label; w'_k -> slopes (of f_k - f_y); f'_k -> -leads; |f'_k| / |w'_k| -> away;
eta -> overshoot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.attacks.classifiers import Classifier, Network
from robust_cli.attacks.closest import Closest, channels_last, inward, label_lead
from robust_cli.attacks.geometry import per_image, size
from robust_cli.attacks.losses import fooled
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.models.classifier import frozen
from robust_cli.smoothing.noise import ImageDraws

NEAR = 0.2  # whole steps once the label leads by no more than this share of what it led by at the image
LEAST = 0.05  # of the perturbation: the smallest way on which the overshoot is taken, or the last steps would end in rounding
FINEST = 1e-4  # pixel units: nearer than this, steps are whole and the overshoot is taken on no less, or they would round away
_ROUNDS = 8  # of Newton's method in `boxed`, which is exact once no further pixel meets the edge


@dataclass(frozen=True)
class DeepFool:
    """To the face l with the least |f'_k| / |w'_k| and 1 + overshoot times as far, over and over, until x is fooled.

    Source: Moosavi-Dezfooli, Fawzi, Frossard 2016, Algorithm 2. With ``stride: 1`` one step on an affine classifier gives the
    exact distance times 1 + overshoot. Classes tried: the ``candidates`` others with the largest logits at the image, all of
    them where that is null. The label that is left is the true one.

    Choices that are not the paper's. Steps go to the nearest point of the face within [0, 1], instead of being clipped: what
    clipping undoes would keep them from crossing. While far from the boundary a step goes ``stride`` of the way only: it
    follows the bend of the classifier and ends nearer. After the first step, faces more than ``reach`` times as far as the
    nearest, by the slopes last seen of each, are not looked at again while they stay so (null: all candidates in every step);
    that saves most backward passes. ``refine`` halvings of the way back at the end.
    """

    norm: str = Norm.l2
    steps: int = 50
    overshoot: float = 0.02
    candidates: int | None = 9
    stride: float = 0.5
    reach: float | None = 1.5
    refine: int = 0
    closest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.norm == Norm.l2, "norm", "l2", self.norm)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        check(0 < self.overshoot < math.inf, "overshoot", "a number > 0", self.overshoot)
        check(self.candidates is None or self.candidates >= 1, "candidates", "a whole number >= 1, or null", self.candidates)
        check(0 < self.stride <= 1, "stride", "a number in (0, 1]", self.stride)
        check(self.reach is None or 1 <= self.reach < math.inf, "reach", "a number >= 1, or null", self.reach)
        check(self.refine >= 0, "refine", "a whole number >= 0", self.refine)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Nearest adversarial images found, float32 [n, C, H, W] in [0, 1]; the image itself where there is none."""
        network = classifier.network
        with channels_last(network.model):
            search = _Search(self, network, images, labels)
            groups = [torch.arange(len(images), device=images.device)] if len(images) else []
            for _ in range(self.steps):
                if not groups:
                    break
                groups = search.groups(torch.cat([search.step(rows) for rows in groups]))
            for rows in groups:  # those that the last step moved
                search.best.offer(search.point[rows], fooled(network.logits(search.point[rows]), labels[rows]), rows)
            search.best.refine(network, labels, self.refine)
        return search.best.images


class _Search:
    """Where each image of a batch has come to, and which faces it looks at."""

    def __init__(self, settings: DeepFool, network: Network, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.settings, self.network, self.images, self.labels = settings, network, images, labels
        self.best, self.point = Closest(images, settings.norm), images.clone()
        self.first: torch.Tensor | None = None  # the label's lead at the image [n]
        self.lengths = torch.empty(0)  # of the slopes last seen [n, K]; 0 for a class that is no candidate
        self.classes = torch.empty(0)  # candidates, the nearest first, and
        self.count = torch.empty(0)  # how many of them to look at [n]

    def groups(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """The rows apart by how many faces they look at: a group takes as many backward passes."""
        count = self.count[rows]
        return [rows[count == each].sort().values for each in count.unique().tolist()]

    def step(self, rows: torch.Tensor) -> torch.Tensor:
        """A step of images that look at equally many faces; those that go on: they moved, or have other faces left."""
        point, labels = self.point[rows], self.labels[rows]
        logits, classes, slopes = faces(self.network, point, labels, lambda logits: self._candidates(rows, logits))
        beaten = fooled(logits, labels)
        self.best.offer(point, beaten, rows)
        lengths = inward(slopes, point[:, None]).flatten(2).norm(dim=2)
        away = _away(logits.gather(1, labels[:, None]) - logits.gather(1, classes), lengths)
        nearest, each = away.argmin(1), torch.arange(len(rows), device=rows.device)
        hope = self._learn(rows, logits, classes, lengths) & ~beaten
        stays, going = rows[hope & away[each, nearest].isinf()], (~beaten & away[each, nearest].isfinite()).nonzero().flatten()
        each, nearest, rows = each[going], nearest[going], rows[going]
        slope = slopes[each, nearest] / per_image(lengths[each, nearest])
        self.point[rows] = boxed(point[going], slope, self._way(rows, logits[going], away[each, nearest]))
        return torch.cat([rows, stays])

    def _candidates(self, rows: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The classes to look at, int64 [n, k]: at first those with the largest logits."""
        if self.first is not None:
            return self.classes[rows, : int(self.count[rows[0]])]
        most = logits.shape[1] - 1
        count = most if self.settings.candidates is None else min(self.settings.candidates, most)
        self.first, self.lengths = label_lead(logits, self.labels), torch.zeros_like(logits)
        self.classes = logits.scatter(1, self.labels[:, None], -torch.inf).topk(count, dim=1).indices
        self.count = torch.full_like(self.labels, count)
        return self.classes

    def _learn(self, rows: torch.Tensor, logits: torch.Tensor, classes: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Which faces to look at in the next step; whether one of them can be reached by its slope last seen, bool [n]."""
        if self.settings.reach is None:
            return torch.zeros_like(rows, dtype=torch.bool)
        self.lengths[rows[:, None], classes] = lengths
        away = _away(logits.gather(1, self.labels[rows][:, None]) - logits, self.lengths[rows])
        away, order = away.topk(self.classes.shape[1], dim=1, largest=False)
        self.classes[rows] = order
        self.count[rows] = (away <= self.settings.reach * away[:, :1]).sum(1).clamp_min(1)
        return away[:, 0].isfinite()

    def _way(self, rows: torch.Tensor, logits: torch.Tensor, away: torch.Tensor) -> torch.Tensor:
        """How far to go [n]: a share of the way to the face, near the boundary (or with a share of 1) all of it and more."""
        assert self.first is not None
        near = (label_lead(logits, self.labels[rows]) <= NEAR * self.first[rows]) | (away < FINEST) | (self.settings.stride == 1)
        beyond = torch.maximum(away, LEAST * size(self.point[rows] - self.images[rows], Norm.l2)).clamp_min(FINEST)
        return torch.where(near, away + self.settings.overshoot * beyond, self.settings.stride * away)


def _away(leads: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Distances of faces in the box's free pixels, infinite where no slope leads there."""
    away = torch.where((lengths > 0) & lengths.isfinite(), leads.clamp_min(0) / lengths, torch.inf)
    return away.nan_to_num(torch.inf, torch.inf)


def faces(network: Network, images: torch.Tensor, labels: torch.Tensor,
          choose: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits [n, K], the classes that ``choose`` names from them [n, k], and the gradients of f_k - f_y there [n, k, C, H, W].

    One forward pass, k backward; none, and slopes of 0, where all images are fooled.
    """
    with frozen(network.model), torch.enable_grad():
        inputs = images.detach().requires_grad_()
        logits = network(inputs)
        classes = choose(logits.detach())
        gaps = logits.gather(1, classes) - logits.gather(1, labels[:, None])
        slopes = torch.zeros(*classes.shape, *images.shape[1:], device=images.device)
        if not gaps.requires_grad or bool(fooled(logits.detach(), labels).all()):
            return logits.detach(), classes, slopes
        for k in range(classes.shape[1]):
            (slopes[:, k],) = torch.autograd.grad(gaps[:, k].sum(), inputs, retain_graph=True, materialize_grads=True)
    network.backward_passes += len(images) * classes.shape[1]
    return logits.detach(), classes, slopes


def boxed(point: torch.Tensor, slope: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """The nearest point within [0, 1] where slope.x has grown by ``gain`` [n], or as far as it goes: clip(point + t slope).

    t by Newton's method: the gain grows with t, ever slower as pixels meet the edge, in straight pieces.
    """
    slopes, square = slope.flatten(1), slope.flatten(1).square()
    room = torch.where(slopes > 0, 1 - point.flatten(1), -point.flatten(1)) / slopes
    room = torch.where(slopes == 0, 0, room)  # the t at which each pixel meets the edge; one without a slope does not move
    length = torch.zeros_like(gain)
    for _ in range(_ROUNDS):
        rate = torch.where(room > length[:, None], square, 0).sum(1)
        missing = gain - (square * torch.minimum(room, length[:, None])).sum(1)
        length = torch.where(rate > 0, length + missing / rate, length)
    return (point + (slopes * torch.minimum(room, length[:, None])).view_as(slope)).clamp(0, 1)
