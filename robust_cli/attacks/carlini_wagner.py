"""The attack of Carlini and Wagner in l2: Adam on the distance plus a constant times the margin, the constant by search.

Symbols -> words: w -> position (x' = (tanh w + 1) / 2); c -> constant; kappa -> confidence; f -> the lead, at least -confidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.attacks.classifiers import Classifier, Network
from robust_cli.attacks.closest import NEARER, Closest, channels_last, gradient_and_logits, label_lead
from robust_cli.attacks.ddn import cosine
from robust_cli.attacks.geometry import per_image, size
from robust_cli.attacks.losses import fooled
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws

INSIDE = 0.999  # images are drawn toward grey by this factor before the inverse tanh, so that black and white can move
GROWTH = 10.0  # of the constant while only one side of it is known
STARTS = ("image", "last", "best")
_FALL = 0.999  # a tenth of the steps has to bring the objective below this share of what it was, or the image stops
_BETAS, _TINY = (0.9, 0.999), 1e-8  # Adam's


@dataclass(frozen=True)
class CarliniWagner:
    """Least |x' - x|^2 + constant * max(lead + confidence, 0) over x' = (tanh w + 1) / 2, with Adam on w.

    Source: Carlini and Wagner 2017, section V and VI (l2), with the constant searched ``search_steps`` times for each image:
    smaller after a success, larger after none. The nearest adversarial image of all steps is kept.

    Choices that are not the paper's. The first constant, where ``constant`` is null, is 2 lead / |gradient of the lead|^2 at the
    image, with which an affine classifier's boundary is reached exactly, instead of 0.001: no step of the search is spent on
    finding the scale. The search halves on a logarithmic scale, and a success is one of the last tenth of the steps. The step
    falls to a hundredth of ``step_size`` along a cosine (the paper: 0.01 throughout). ``start``: where each search step begins,
    at the image (the paper), at the last position, or at the best adversarial image so far (the last position where there is
    none), which does better at images next to the boundary. An image leaves its
    search step when its objective no longer falls (``abort_early``, a look every tenth of the steps in their second half: before,
    large steps make it rise), and the search after ``patience`` constants in a row that brought its example no nearer.
    ``refine`` halvings of the way back at the end.
    """

    norm: str = Norm.l2
    steps: int = 200
    search_steps: int = 9
    step_size: float = 0.1
    constant: float | None = None
    confidence: float = 0.0
    start: str = "best"
    abort_early: bool = True
    patience: int = 1
    refine: int = 8
    closest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.norm == Norm.l2, "norm", "l2", self.norm)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        check(self.search_steps >= 1, "search_steps", "a whole number >= 1", self.search_steps)
        check(0 < self.step_size < math.inf, "step_size", "a number > 0", self.step_size)
        check(self.constant is None or 0 < self.constant < math.inf, "constant", "a number > 0, or null", self.constant)
        check(0 <= self.confidence < math.inf, "confidence", "a number >= 0", self.confidence)
        check(self.start in STARTS, "start", " or ".join(STARTS), self.start)
        check(self.patience >= 1, "patience", "a whole number >= 1", self.patience)
        check(self.refine >= 0, "refine", "a whole number >= 0", self.refine)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Nearest adversarial images found, float32 [n, C, H, W] in [0, 1]; the image itself where there is none."""
        with channels_last(classifier.network.model):
            best = self._search(classifier.network, images, labels)
            best.refine(classifier.network, labels, self.refine, self.confidence)
        return best.images

    def _search(self, network: Network, images: torch.Tensor, labels: torch.Tensor) -> Closest:
        """The nearest adversarial images over all constants."""
        best = Closest(images, self.norm)
        constant = self._first_constant(network, images, labels, best)
        low, high = torch.zeros_like(constant), torch.full_like(constant, torch.inf)
        position, idle = _position(images), torch.zeros_like(constant)
        for _ in range(self.search_steps):
            rows = ((best.distance > 0) & (idle < self.patience)).nonzero().flatten()  # fooled as it is, an image stays so
            if not len(rows):
                break
            before = best.distance.clone()
            if self.start == "image":
                position = _position(images)
            elif self.start == "best":
                position = torch.where(per_image(best.found), _position(best.images), position)
            success, position = self._minimise(network, images, labels, constant, position, best, rows)
            idle = torch.where(best.found & (best.distance > NEARER * before), idle + 1, 0)
            low, high = torch.where(success, low, constant), torch.where(success, constant, high)
            constant = _next_constant(low, high)
        return best

    def _first_constant(self, network: Network, images: torch.Tensor, labels: torch.Tensor, best: Closest) -> torch.Tensor:
        """Each image's first constant, [n]; images that are fooled already are offered on the way."""
        gradient, logits = gradient_and_logits(network, images, labels, label_lead)
        best.offer(images, fooled(logits, labels))
        if self.constant is not None:
            return torch.full_like(best.distance, self.constant)
        guess = 2 * (label_lead(logits, labels) + self.confidence) / size(gradient, Norm.l2).square()
        return torch.where(guess.isfinite() & (guess > 0), guess, 1.0)

    def _minimise(self, network: Network, images: torch.Tensor, labels: torch.Tensor, constant: torch.Tensor,
                  position: torch.Tensor, best: Closest, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of the search: which images were adversarial in their last tenth of the steps, bool [n], and where each ended.

        Adam's first steps overshoot whatever the constant: counting them as successes would send the search the wrong way.
        """
        position, success = position.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
        first, second = torch.zeros_like(position), torch.zeros_like(position)
        before, look = torch.full_like(constant, torch.inf), max(1, self.steps // 10)
        for k in range(self.steps):
            if not len(rows):
                break
            point = (position[rows].tanh() + 1) / 2
            gradient, objective, adversarial = self._objective(network, images[rows], labels[rows], constant[rows], point)
            best.offer(point, adversarial, rows)
            success[rows] = adversarial | (success[rows] & (k % look > 0))
            gradient = gradient * 2 * point * (1 - point)  # dx'/dw
            first[rows] = _BETAS[0] * first[rows] + (1 - _BETAS[0]) * gradient
            second[rows] = _BETAS[1] * second[rows] + (1 - _BETAS[1]) * gradient.square()
            mean, square = first[rows] / (1 - _BETAS[0] ** (k + 1)), second[rows] / (1 - _BETAS[1] ** (k + 1))
            position[rows] -= cosine(self.step_size, self.step_size / 100, k, self.steps) * mean / (square.sqrt() + _TINY)
            if self.abort_early and k >= self.steps // 2 and k % look == look - 1:
                falling = objective <= _FALL * before[rows]
                before[rows] = objective
                rows = rows[falling]
        return success, position

    def _objective(self, network: Network, images: torch.Tensor, labels: torch.Tensor, constant: torch.Tensor,
                   point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The objective's gradient by the pixels, its value [n], and whether the point is adversarial with the confidence."""
        def excess(logits: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
            return (label_lead(logits, own) + self.confidence).clamp_min(0)

        slope, logits = gradient_and_logits(network, point, labels, excess)
        objective = size(point - images, Norm.l2).square() + constant * excess(logits, labels)
        beyond = label_lead(logits, labels) <= -self.confidence
        return 2 * (point - images) + per_image(constant) * slope, objective, fooled(logits, labels) & beyond


def _position(images: torch.Tensor) -> torch.Tensor:
    """The w of images in [0, 1], drawn a little toward grey."""
    return torch.atanh(INSIDE * (2 * images - 1))


def _next_constant(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Between the largest constant that failed and the smallest that did it, ten times further where one of them is missing."""
    between = (low * high).sqrt()
    return torch.where(high.isinf(), low * GROWTH, torch.where(low == 0, high / GROWTH, between)).clamp(1e-10, 1e10)
