"""The square attack: random search on scores, without gradients.

Symbols (Andriushchenko et al. 2020) -> words: epsilon -> budget; N -> queries; p -> share of the pixels; h -> side of a square;
nu -> delta; eta -> `mound`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.geometry import per_image, project, settle, size
from robust_cli.attacks.norms import Norm
from robust_cli.messages import UserError, check
from robust_cli.smoothing.noise import ImageDraws

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries out of 10,000 after which the share halves

BLOCK = 64  # queries whose random numbers are drawn at once, since a call for each image's stream costs more than the numbers
INSIDE = 1 - 1e-5  # share of an l2 budget that is searched, so that float32 sums stay within the whole


def share_at(query: int, queries: int, first: float) -> float:
    """The share of pixels that the square of this query covers."""
    return first / 2 ** sum(query / queries * 10_000 > mark for mark in HALVINGS)


def mound(height: int, width: int) -> torch.Tensor:
    """The paper's eta of a rectangle [height, width], falling off in square rings from its middle, float32, not scaled.

    Eq. 2, row r and column s counted from 0: sum over k = 0 .. M(r, s) of 1 / (n + 1 - k)^2, n half of the longer side,
    M(r, s) = n - max(|r - height // 2|, |s - width // 2|).
    """
    rows, columns = (torch.arange(height) - height // 2).abs(), (torch.arange(width) - width // 2).abs()
    half = max(height, width) // 2
    terms = 1 / (half + 1 - torch.arange(half + 1.0)).square()
    return terms.cumsum(0)[half - torch.maximum(rows[:, None], columns[None])]


@lru_cache(maxsize=64)
def double_mound(side: int, device: torch.device) -> torch.Tensor:
    """A mound in one half of a square and its negative in the other, l2 length 1, [2, side, side]: the halves side by side, then
    one on the other."""
    first = side // 2
    pair = torch.cat([mound(side, first), -mound(side, side - first)], 1) if first else torch.ones(side, side)
    pair = pair / pair.norm()
    return torch.stack([pair, pair.T]).to(device)


def _signs(uniform: torch.Tensor) -> torch.Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0)


def _window(uniform: torch.Tensor, images: torch.Tensor, side: int) -> torch.Tensor:
    """One square in each image at the place that two uniform numbers [n, 2] say: bool [n, 1, H, W]."""
    sides = torch.tensor(images.shape[2:], device=images.device)
    row, column = ((uniform * (sides - side + 1)).long().minimum(sides - side)).T[:, :, None]
    rows, columns = (torch.arange(length, device=images.device) for length in images.shape[2:])
    down, across = (rows >= row) & (rows < row + side), (columns >= column) & (columns < column + side)
    return (down[:, :, None] & across[:, None])[:, None]


def _filled(window: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Squares of values [n, C, side, side] put into their windows [n, 1, H, W], 0 elsewhere, [n, C, H, W]."""
    places = window.expand(-1, values.shape[1], -1, -1)
    return torch.zeros(places.shape, device=values.device).masked_scatter_(places, values)


class CornerSearch:
    """Points at the corners of the ball."""

    def __init__(self, images: torch.Tensor, budget: float) -> None:
        self.images = images
        self.low, self.high = (settle(images + sign * budget, images, budget, Norm.linf) for sign in (-1, 1))
        self.numbers = images.shape[1] + 2  # that a query takes for each image

    def first(self, draws: ImageDraws) -> torch.Tensor:
        """Stripes of one pixel's width from top to bottom, each channel + or - the budget."""
        _, channels, _, width = self.images.shape
        return torch.where(draws.uniform(channels, 1, width) < 0.5, self.low, self.high)

    def following(self, rows: torch.Tensor, point: torch.Tensor, side: int, numbers: torch.Tensor) -> torch.Tensor:
        """One square set to the original + or - the budget, a sign for each channel (Algorithm 2)."""
        colour = torch.where(numbers[:, 2:, None, None] < 0.5, self.low[rows], self.high[rows])
        return torch.where(_window(numbers[:, :2], point, side), colour, point)


class LengthSearch:
    """Points that use the ball up to `INSIDE`, but where they are clipped."""

    def __init__(self, images: torch.Tensor, budget: float) -> None:
        self.images, self.budget = images, budget * INSIDE
        self.numbers = images.shape[1] + 5

    def first(self, draws: ImageDraws) -> torch.Tensor:
        """Tiles of double mounds in the middle of the image, five along its shorter side; each lies or stands by chance and has a
        sign for each channel."""
        channels, height, width = self.images.shape[1:]
        side = max(min(height, width) // 5, min(3, height, width))
        delta, pairs = torch.zeros_like(self.images), double_mound(side, self.images.device)
        for row in range(height % side // 2, height - side + 1, side):
            for column in range(width % side // 2, width - side + 1, side):
                tile = pairs[(draws.uniform(1).squeeze(1) < 0.5).long()][:, None] * _signs(draws.uniform(channels, 1, 1))
                delta[:, :, row : row + side, column : column + side] = tile
        return (self.images + self.budget * delta / per_image(size(delta, Norm.l2))).clamp(0, 1)

    def following(self, rows: torch.Tensor, point: torch.Tensor, side: int, numbers: torch.Tensor) -> torch.Tensor:
        """One square emptied, its length and what the budget leaves put into another, onto a double mound (Algorithm 3)."""
        images = self.images[rows]
        delta, channels = point - images, images.shape[1]
        to, empty = _window(numbers[:, :2], images, side), _window(numbers[:, 2:4], images, side)
        unused = (self.budget**2 - size(delta, Norm.l2).square()).clamp_min(0)
        length = ((delta * (to | empty)).square().sum((2, 3), keepdim=True) + per_image(unused) / channels).sqrt()
        pair = double_mound(side, images.device)[(numbers[:, 4] < 0.5).long()][:, None] * _signs(numbers[:, 5:, None, None])
        there = _unit(_unit(delta * to) + _filled(to, pair)) * length
        return project(images + torch.where(to, there, delta.masked_fill(empty, 0)), images, self.budget, Norm.l2)


def _unit(delta: torch.Tensor) -> torch.Tensor:
    """Each channel over its l2 length, [n, C, H, W]."""
    return delta / delta.square().sum((2, 3), keepdim=True).sqrt().clamp_min(1e-12)


@dataclass(frozen=True)
class Square:
    """Random search: change one random square in each query, keep the change where the label's lead fell, stop when it lost.

    Squares shrink on the paper's schedule, stretched to ``queries``. linf: squares at the corners of the ball; l2: budget moved
    from one square to another. Images that are fooled leave the batch, and a square that changes nothing (a small one may have
    its colour already) is not asked about, so neither costs a forward pass. The network's scores are compared from query to
    query: a random classifier, whose scores differ by chance, is refused.

    Source: Andriushchenko, Croce, Flammarion, Hein 2020, Algorithms 1-3; defaults of AutoAttack (5000 queries, share 0.8; the
    paper's share is 0.05 in linf and 0.1 in l2). It differs from the paper in that each image has squares of its own where its
    code draws one place for the whole batch, and in that the l2 search keeps 1e-5 of the budget back for rounding.
    """

    norm: str = Norm.linf
    queries: int = 5000
    share: float = 0.8
    budget: float | None = None
    by_scores: ClassVar[bool] = True  # compares scores from query to query, which only a base classifier allows

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
        search = CornerSearch(images, self.budget) if self.norm == Norm.linf else LengthSearch(images, self.budget)
        best = search.first(draws)
        leads = classifier.lead(best, labels, draws)
        numbers = torch.empty(len(images), BLOCK, search.numbers, device=images.device)
        for query in range(1, self.queries):
            left = (leads <= 0).nonzero().flatten()
            if not len(left):
                break
            if (turn := (query - 1) % BLOCK) == 0:
                numbers[left] = draws.select(left.tolist()).uniform(BLOCK, search.numbers)
            here = best[left]
            tried = search.following(left, here, self.side(query, images), numbers[left, turn])
            new = (tried != here).flatten(1).any(1).nonzero().flatten()  # the answer to the others is known
            if not len(new):
                continue
            left, tried = left[new], tried[new]
            found = classifier.lead(tried, labels[left], draws)
            better = found > leads[left]
            best[left[better]], leads[left[better]] = tried[better], found[better]
        return settle(best, images, self.budget, self.norm)
