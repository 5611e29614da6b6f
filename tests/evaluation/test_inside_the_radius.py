"""No attack gets inside a certified radius: the whole chain from noise to radius held against the whole chain of an attack.

Every plan certifies the same images of a trained network; PGD through the noise goes to 0.95 and 0.99 of each radius, and
independent votes decide. Two controls: the same attack beyond the radius succeeds, and radii that are 1.3 times too large on a
half-space, whose distances are known, are caught by the same votes.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import nn
from toy_victims import victims

from robust_cli.attacks.classifiers import SmoothedClassifier
from robust_cli.attacks.pgd import Pgd
from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.smoothing.collection import Collection
from robust_cli.smoothing.noise import ImageDraws
from robust_cli.smoothing.noises import make_noise
from robust_cli.smoothing.plans.anytime import Anytime
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import Sampling
from robust_cli.smoothing.plans.sequential import Sequential
from robust_cli.smoothing.votes import NoisyVotes

NOISE_STD, SAMPLES, FRESH, IMAGES, ALPHA = 0.3, 4000, 20_000, 20, 0.001
PLANS: dict[str, Sampling] = {"fixed": Fixed(SAMPLES), "sequential": Sequential(SAMPLES, radii=[0.1 * k for k in range(10)]),
                              "anytime": Anytime(SAMPLES)}


def certified(model: nn.Module, plan: Sampling, images: torch.Tensor, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Class (-1: abstains) and radius of each image."""
    course = plan.course({"neyman_pearson": NeymanPearson()}, NOISE_STD, ALPHA, classes)
    collection = Collection(course, range(len(images)), [0] * len(images), classes)

    def answer(block, counts):  # type: ignore[no-untyped-def]
        collection.take(block.index, block.purpose, block.block, counts)
        following = collection.wanted(block.index)
        return (images[block.index], following) if following else None

    counter = NoisyVotes(model, classes, make_noise("gaussian", NOISE_STD), 0, "cpu", workers=1)
    counter.serve(((images[block.index], block) for block in collection.remaining()), answer)
    bounds = course.bounds("neyman_pearson", collection.votes())
    return bounds.predicted, course.radius("neyman_pearson", bounds)


def beaten(model: nn.Module, points: torch.Tensor, predicted: np.ndarray, classes: int, seed: int = 1) -> np.ndarray:
    """Where another class has more votes than the certified one beyond chance (1e-6 over all classes), by fresh votes."""
    counter = NoisyVotes(model, classes, make_noise("gaussian", NOISE_STD), seed, "cpu", workers=1)
    votes = counter.decide(points, range(len(points)), "fresh", FRESH).numpy()
    found = np.zeros(len(points), dtype=bool)
    for row, (own, counts) in enumerate(zip(predicted, votes, strict=True)):
        rival = int(np.delete(counts, own).max())
        found[row] = binomtest(rival, rival + int(counts[own]), alternative="greater").pvalue < 1e-6 / (classes - 1)
    return found


@functools.cache
def trained() -> tuple[nn.Module, torch.Tensor]:
    model, images, _ = victims(IMAGES)
    return model.eval(), images


def attacked(at: float, predicted: np.ndarray, radii: np.ndarray) -> torch.Tensor:
    """PGD through the noise in the ball of ``at`` radii around each image."""
    model, images = trained()
    points = images.clone()
    classifier = SmoothedClassifier(model, NOISE_STD, draws=32)
    for row in np.flatnonzero((predicted >= 0) & (radii > 1e-6)):
        one = slice(row, row + 1)
        points[one] = Pgd(norm="l2", steps=12, budget=at * float(radii[row]))(
            classifier, images[one], torch.tensor([int(predicted[row])]), ImageDraws("cpu", 0, f"attack {at}", [int(row)]))
    return points


@pytest.mark.parametrize("plan", PLANS)
def test_an_attack_inside_the_radius_fails_and_beyond_it_succeeds(plan: str) -> None:
    model, images = trained()
    predicted, radii = certified(model, PLANS[plan], images, 10)
    kept = (predicted >= 0) & (radii > 1e-6)
    assert kept.sum() >= 0.6 * IMAGES
    for at in (0.95, 0.99):
        points = attacked(at, predicted, radii)
        reached = (points - images).flatten(1).norm(dim=1).numpy()
        assert (reached[kept] <= at * radii[kept] + 1e-6).all()
        assert np.median(reached[kept] / radii[kept]) > 0.9  # an attack that stays at the image would hold too
        assert not beaten(model, points[kept], predicted[kept], 10).any()
    far = beaten(model, attacked(4.0, predicted, radii)[kept], predicted[kept], 10)
    assert far.mean() > 0.5  # and these votes can tell


class HalfSpace(nn.Module):
    """Class 1 where the first pixel is above 0: the smoothed classifier turns exactly there."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = images.flatten(1)[:, 0]
        return torch.stack([torch.zeros_like(first), first], 1)


@pytest.mark.parametrize("plan", PLANS)
def test_radii_that_are_too_large_are_caught_on_a_half_space(plan: str) -> None:
    distances = torch.linspace(0.2, 0.6, 9)
    images = torch.zeros(len(distances), 1, 2, 2)
    images[:, 0, 0, 0] = distances
    predicted, radii = certified(HalfSpace().eval(), PLANS[plan], images, 2)
    assert (predicted == 1).all()  # near the boundary the selection may take the other class
    assert (radii <= distances.numpy()).all()
    for inflated, caught in ((0.99, False), (1.3, True)):
        moved = images.clone()
        moved[:, 0, 0, 0] -= torch.tensor(inflated * radii).float()
        turned = beaten(HalfSpace().eval(), moved, predicted, 2)
        assert turned.any() == caught
