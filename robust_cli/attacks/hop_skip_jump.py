"""HopSkipJump: the direction of the boundary from answers around a point on it, a step along it, and back to the boundary.

Symbols (Chen et al. 2020) -> words: x* -> images; x~_t -> point; B_t -> queries; delta_t -> probe; theta -> precision; S -> the
direction in `_direction`; xi_t -> step; gamma -> gamma; d -> pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.decisions import Answers, first_examples, halve
from robust_cli.attacks.geometry import per_image, size, steepest
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws

PIECE, PIECE_RANDOM = 32, 4  # probes of an image in one call: fixed, so that its draws do not depend on the images beside it
STEP_HALVINGS = 25  # of a step that does not end on the adversarial side, at most; then the point stays
FIRST_PROBE = 0.1  # the paper's delta of the first iteration, pixel units


@dataclass(frozen=True)
class HopSkipJump:
    """Mean of random directions signed by the answers, a step of distance / sqrt(t) halved until adversarial, back by halving.

    Source: Chen, Jordan, Wainwright 2020, Algorithms 1 and 2, geometric search of the step. Iteration t asks
    min(initial_queries sqrt(t), max_queries) probes at the distance delta_t = gamma * distance / d (0.1 in the first), takes
    their directions times (answer - mean answer), and comes back to the boundary to the precision theta = gamma / d^(3/2) of the
    distance in l2, gamma / d^2 in linf, d the pixels; in linf it steps along signs. A probe's direction is what clipping leaves.

    What differs from the paper: the sums of earlier iterations stay in the direction, each worth ``memory`` times less
    for every iteration since (0: the paper's), which is worth queries in linf, where the sign of every pixel counts, and made
    little difference in l2. Of all points the nearest is kept. On a smoothed classifier a probe goes at least noise_std far,
    since nearer answers differ by chance alone. An image whose distance fell by less than the fraction ``tolerance`` in
    ``patience`` iterations leaves.

    Cost with the defaults: about 34,000 probes in 64 iterations, and in each about 2 queries for the step and log2(1 / theta)
    for the way back (15 in l2, 20 in linf for 784 pixels); on a smoothed classifier each takes all its votes.
    """

    norm: str = Norm.l2
    iterations: int = 64
    initial_queries: int = 100
    max_queries: int = 10_000
    gamma: float = 1.0
    memory: float = 0.7
    starts: int = 10
    tolerance: float = 0.001
    patience: int = 8
    closest: ClassVar[bool] = True
    by_decisions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.norm in (Norm.l2, Norm.linf), "norm", "l2 or linf", self.norm)
        check(self.iterations >= 1, "iterations", "a whole number >= 1", self.iterations)
        check(self.initial_queries >= 1, "initial_queries", "a whole number >= 1", self.initial_queries)
        check(self.max_queries >= self.initial_queries, "max_queries", "a whole number >= initial_queries", self.max_queries)
        check(0 < self.gamma < math.inf, "gamma", "a number > 0", self.gamma)
        check(0 <= self.memory < 1, "memory", "a number in [0, 1)", self.memory)
        check(self.starts >= 1, "starts", "a whole number >= 1", self.starts)
        check(0 <= self.tolerance < 1, "tolerance", "a number in [0, 1)", self.tolerance)
        check(self.patience >= 1, "patience", "a whole number >= 1", self.patience)

    def queries(self, iteration: int) -> int:
        """Probes of an image in this iteration, from 1."""
        return int(min(self.initial_queries * math.sqrt(iteration), self.max_queries))

    def halvings(self, pixels: int) -> int:
        """Of the way back to the boundary, so that what is left of the distance is at most the paper's precision."""
        return max(1, math.ceil(math.log2(pixels ** (1.5 if self.norm == Norm.l2 else 2) / self.gamma)))

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Nearest adversarial images found, float32 [n, C, H, W] in [0, 1]; the image itself where there is none."""
        answers, pixels = Answers(classifier, labels, draws), images[0].numel() if len(images) else 1
        best = first_examples(answers, images, self.norm, self.starts)
        rows = (best.found & (best.distance > 0)).nonzero().flatten()
        point, sums, before = best.images.clone(), torch.zeros_like(images), best.distance.clone()
        for t in range(1, self.iterations + 1):
            if not len(rows):
                break
            distance = size(point[rows] - images[rows], self.norm)
            probe = self._probe(distance, pixels, t, classifier.noise_std)
            sums[rows] = self.memory * sums[rows] + self._direction(answers, point[rows], rows, probe, self.queries(t))
            ahead = self._step(answers, point[rows], rows, steepest(sums[rows], self.norm), distance / math.sqrt(t))
            point[rows] = halve(answers, images[rows], ahead, rows, self.norm, self.halvings(pixels))
            best.offer(point[rows], self._confirmed(answers, point[rows], rows), rows)
            if t % self.patience == 0:
                moves = best.distance[rows] < (1 - self.tolerance) * before[rows]
                before = best.distance.clone()
                rows = rows[moves] if self.tolerance else rows
        return best.images

    def _confirmed(self, answers: Answers, points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """A base classifier has answered these already."""
        return answers.confirmed(points, rows) if answers.random else torch.ones_like(rows).bool()

    def _probe(self, distance: torch.Tensor, pixels: int, iteration: int, noise_std: float | None) -> torch.Tensor:
        """How far in l2 the probes go from the point, [n]."""
        probe = torch.full_like(distance, FIRST_PROBE) if iteration == 1 else self.gamma * distance / pixels
        return probe if noise_std is None else probe.clamp_min(noise_std)

    def _direction(self, answers: Answers, points: torch.Tensor, rows: torch.Tensor, probe: torch.Tensor,
                   queries: int) -> torch.Tensor:
        """Sum over the probes of their unit directions times (answer - mean answer), answers +-1; plain answers if all agree."""
        signed, plain = torch.zeros_like(points), torch.zeros_like(points)
        total, piece = torch.zeros(len(rows), device=points.device), PIECE_RANDOM if answers.random else PIECE
        for begin in range(0, queries, piece):
            count = min(piece, queries - begin)
            noise = answers.normal(rows, count, *points.shape[1:]) if self.norm == Norm.l2 else \
                2 * answers.uniform(rows, count, *points.shape[1:]) - 1
            length = noise.flatten(2).norm(dim=2).clamp_min(1e-20) / probe[:, None]
            probes = (points[:, None] + noise / length[..., None, None, None]).clamp(0, 1)
            said = 2.0 * answers.adversarial(probes.flatten(0, 1), rows.repeat_interleave(count)).view(-1, count) - 1
            moved = (probes - points[:, None]) / probe.view(-1, 1, 1, 1, 1)
            signed, plain = signed + (said[..., None, None, None] * moved).sum(1), plain + moved.sum(1)
            total = total + said.sum(1)
        mean = total / queries
        return signed - per_image(torch.where(mean.abs() < 1, mean, 0)) * plain

    def _step(self, answers: Answers, points: torch.Tensor, rows: torch.Tensor, direction: torch.Tensor,
              step: torch.Tensor) -> torch.Tensor:
        """Points moved along the direction, as far as the first of step, step / 2, step / 4, ... that ends adversarial."""
        ahead, left = points.clone(), torch.arange(len(rows), device=points.device)
        for _ in range(STEP_HALVINGS):
            if not len(left):
                break
            tried = (points[left] + per_image(step[left]) * direction[left]).clamp(0, 1)
            fine = answers.adversarial(tried, rows[left])
            ahead[left[fine]] = tried[fine]
            step, left = step / 2, left[~fine]
        return ahead
