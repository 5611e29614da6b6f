"""The square attack: random search on scores, without gradients.

Symbols (Andriushchenko et al. 2020) -> words: epsilon -> budget; N -> queries; p -> share of the pixels; h -> side of a square;
nu -> delta; eta -> `mound`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.geometry import per_image, project, settle, size
from robust_cli.attacks.losses import lead
from robust_cli.attacks.norms import Norm
from robust_cli.messages import UserError, check
from robust_cli.smoothing.noise import ImageDraws

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries out of 10,000 after which the share halves


def share_at(query: int, queries: int, first: float) -> float:
    """The share of pixels that the square of this query covers."""
    return first / 2 ** sum(query / queries * 10_000 > mark for mark in HALVINGS)


def mound(height: int, width: int) -> torch.Tensor:
    """The paper's eta of a rectangle [height, width]: falling off from its middle, eq. 2, float32, not scaled."""
    half = height // 2
    rows = (torch.arange(height) - half).abs()[:, None]
    columns = (torch.arange(width) - width // 2).abs()[None] * height / width  # a rectangle as a square, stretched
    rings = (half - torch.maximum(rows, columns.round().long())).clamp_min(0)  # how many of the sum's terms a pixel gets
    terms = torch.tensor([1.0 / (half + 1 - k) ** 2 for k in range(half + 1)])
    return terms.cumsum(0)[rings]


def double_mound(side: int, upright: torch.Tensor) -> torch.Tensor:
    """A mound in one half of a square and its negative in the other, l2 length 1, [n, side, side]; halves side by side or,
    where ``upright``, one on the other."""
    first = side // 2
    pair = torch.cat([mound(side, first), -mound(side, side - first)], 1) if first else torch.ones(side, side)
    pair = (pair / pair.norm()).to(upright.device)
    return torch.where(upright[:, None, None], pair.T, pair)


def _signs(draws: ImageDraws, *shape: int) -> torch.Tensor:
    return torch.where(draws.uniform(*shape) < 0.5, -1.0, 1.0)


def _whole(draws: ImageDraws, below: int) -> torch.Tensor:
    """Uniform whole numbers in [0, below), int64 [n]."""
    return (draws.uniform(1).squeeze(1) * below).long().clamp_max(below - 1)


def _window(images: torch.Tensor, side: int, draws: ImageDraws) -> torch.Tensor:
    """One square at a uniform place in each image: bool [n, 1, H, W]."""
    (height, width), device = images.shape[2:], images.device
    row, column = _whole(draws, height - side + 1)[:, None], _whole(draws, width - side + 1)[:, None]
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    down, across = (rows >= row) & (rows < row + side), (columns >= column) & (columns < column + side)
    return (down[:, :, None] & across[:, None])[:, None]


def _filled(window: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Squares of values [n, C, side, side] put into their windows [n, 1, H, W], 0 elsewhere, [n, C, H, W]."""
    places = window.expand(-1, values.shape[1], -1, -1)
    return torch.zeros(places.shape, device=values.device).masked_scatter_(places, values)


def first_linf(images: torch.Tensor, budget: float, draws: ImageDraws) -> torch.Tensor:
    """Stripes of one pixel's width from top to bottom, each channel + or - the budget."""
    _, channels, _, width = images.shape
    return (images + budget * _signs(draws, channels, 1, width)).clamp(0, 1)


def next_linf(point: torch.Tensor, images: torch.Tensor, budget: float, side: int, draws: ImageDraws) -> torch.Tensor:
    """One square set to the original + or - the budget, a sign for each channel."""
    colour = (images + budget * _signs(draws, images.shape[1], 1, 1)).clamp(0, 1)
    return torch.where(_window(images, side, draws), colour, point)


def first_l2(images: torch.Tensor, budget: float, draws: ImageDraws) -> torch.Tensor:
    """Tiles of double mounds, five along the shorter side, a sign for each tile and channel, at full length."""
    channels, height, width = images.shape[1:]
    side = max(min(height, width) // 5, min(3, height, width))
    delta = torch.zeros_like(images)
    tile = double_mound(side, torch.zeros(1, dtype=torch.bool, device=images.device))[:, None]
    for row in range(0, height - side + 1, side):
        for column in range(0, width - side + 1, side):
            delta[:, :, row : row + side, column : column + side] = tile * _signs(draws, channels, 1, 1)
    return (images + budget * delta / per_image(size(delta, Norm.l2))).clamp(0, 1)


def next_l2(point: torch.Tensor, images: torch.Tensor, budget: float, side: int, draws: ImageDraws) -> torch.Tensor:
    """One square emptied, its length and what the budget leaves put into another, onto a double mound (Algorithm 3)."""
    delta, channels = point - images, images.shape[1]
    to, empty = _window(images, side, draws), _window(images, side, draws)
    unused = (budget**2 - size(delta, Norm.l2).square()).clamp_min(0)
    length = ((delta * (to | empty)).square().sum((2, 3), keepdim=True) + per_image(unused) / channels).sqrt()
    there = delta * to
    there = there / there.square().sum((2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    pair = double_mound(side, draws.uniform(1).squeeze(1) < 0.5)[:, None] * _signs(draws, channels, 1, 1)
    there = there + _filled(to, pair)
    there = there / there.square().sum((2, 3), keepdim=True).sqrt().clamp_min(1e-12) * length
    moved = torch.where(to, there, delta.masked_fill(empty, 0))
    return project(images + moved, images, budget, Norm.l2)


@dataclass(frozen=True)
class Square:
    """Random search: change one random square in each query, keep the change where the label's lead fell, stop when it lost.

    Squares shrink on the paper's schedule, stretched to ``queries``. linf: squares at the corners of the ball; l2: budget moved
    from one square to another. Images that are fooled leave the batch, so they cost no more queries. The network's scores are
    compared from query to query: a random classifier, whose scores differ by chance, is refused.

    Source: Andriushchenko, Croce, Flammarion, Hein 2020, Algorithms 1-3; defaults of AutoAttack (5000 queries, share 0.8).
    """

    norm: str = Norm.linf
    queries: int = 5000
    share: float = 0.8
    budget: float | None = None

    def __post_init__(self) -> None:
        check(self.norm in (Norm.l2, Norm.linf), "norm", "l2 or linf", self.norm)
        check(self.queries >= 1, "queries", "a whole number >= 1", self.queries)
        check(0 < self.share <= 1, "share", "a number in (0, 1]", self.share)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    def side(self, query: int, images: torch.Tensor) -> int:
        """The side of this query's square in pixels; odd and at least 3 for l2, where the image allows."""
        height, width = images.shape[2:]
        side = round(math.sqrt(share_at(query, self.queries, self.share) * height * width))
        if self.norm == Norm.l2:
            side = max(side, 3)
            side += 1 - side % 2
        return min(max(side, 1), height, width)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Adversarial images float32 [n, C, H, W] in the ball and in [0, 1]. Raises UserError on a random classifier."""
        assert self.budget is not None, "a budget has to be set"
        if classifier.random:
            raise UserError("attack=square: expected a base classifier, since the scores of a random one differ by chance; take "
                            "classifier=base, or an attack by gradients")
        first, following = (first_linf, next_linf) if self.norm == Norm.linf else (first_l2, next_l2)
        best = settle(first(images, self.budget, draws), images, self.budget, self.norm)
        leads = _lead(classifier, best, labels)
        for query in range(1, self.queries):
            left = (leads <= 0).nonzero().flatten()
            if not len(left):
                break
            mine = draws.select(left.tolist())
            tried = following(best[left], images[left], self.budget, self.side(query, images), mine)
            tried = settle(tried, images[left], self.budget, self.norm)
            found = _lead(classifier, tried, labels[left])
            better = found > leads[left]
            best[left[better]], leads[left[better]] = tried[better], found[better]
        return best


def _lead(classifier: Classifier, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How far another class leads, [n]; what is not a number is no lead."""
    found = lead(classifier.network.logits(images), labels)
    return torch.where(found.isnan(), -torch.inf, found)
