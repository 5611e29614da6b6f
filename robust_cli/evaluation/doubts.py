"""A quick look at the victim before it is attacked: what would make the numbers of its attacks flattering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from robust_cli.attacks.cascade import CascadeAttack
from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.losses import ROUNDING, cross_entropy
from robust_cli.smoothing.noise import ImageDraws
from robust_cli.verification.cascade import Cascade

IMAGES = 64  # looked at, at most
DOUBTFUL = 0.1  # share of images without a gradient from which a gradient attack is doubtful
NEAR_ONE = 1e-3  # how far the sum of an image's outputs may be from 1 for them to look like probabilities


@dataclass(frozen=True)
class Doubt:
    """What was found, by name, and in a sentence: the numbers, why they matter, what to do, and where to read on."""

    name: str
    sentence: str


def look(classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> list[Doubt]:
    """Doubts about a victim from its answers to the first images, 64 at most; none where there is nothing to doubt.

    images: float32 [n, C, H, W] in [0, 1]; labels: int64 [n]; draws: a stream for each of them. It costs two passes an image
    and one gradient of each of the classifier's views.
    """
    count = min(len(images), IMAGES)
    images, labels, draws = images[:count], labels[:count], draws.select(range(count))
    if not count:
        return []
    logits, again = classifier.network.logits(images), classifier.network.logits(images)
    return [*_not_finite(logits), *_zero_gradients(classifier, images, labels, draws), *_probabilities(logits),
            *([] if classifier.random else _random_outputs(logits, again))]


def of_attacks(attacks: Mapping[str, object], classifier: Classifier) -> list[Doubt]:
    """Doubts about attacks that do not see what the victim is made of."""
    model = classifier.network.model
    if not isinstance(model, Cascade) or any(isinstance(attack, CascadeAttack) for attack in attacks.values()):
        return []
    return [Doubt("cascade", (
        f"the model is a cascade of {model.in_use} networks, and none of these attacks chooses which of them answers, so that "
        "its robust accuracy flatters; add cascade_l2 or cascade_linf "
        '(docs/messages.md, "Attacks that do not see a cascade").'))]


def _not_finite(logits: torch.Tensor) -> Iterator[Doubt]:
    broken = int((~logits.isfinite()).any(1).sum())
    if broken:
        yield Doubt("not_finite", (
            f"the model's outputs are not finite on {broken} of {len(logits)} images, which no attack can climb and which count "
            "as fooled where an output is not a number; set precision=fp32 or train again "
            '(docs/messages.md, "Expected numbers from the model, found nan").'))


def _zero_gradients(classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> Iterator[Doubt]:
    """Entries that are not finite count as zero, as attacks take them."""
    zero = torch.ones(len(images), dtype=torch.bool, device=images.device)
    for view in classifier.views():
        gradient = view.gradient(images, labels, cross_entropy, draws).gradient
        zero &= (torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0) == 0).flatten(1).all(1)
    count = int(zero.sum())
    if count >= DOUBTFUL * len(zero):
        yield Doubt("zero_gradients", (
            f"the gradient of the cross entropy is exactly zero in every pixel of {count} of {len(zero)} images, so gradient "
            "attacks cannot move them and their robustness is not tested; look for a saturated, rounded or detached output, and "
            "take loss=difference_of_logits_ratio and an attack without gradients (square_l2, square_linf) as well "
            '(docs/messages.md, "Zero gradients").'))


def _probabilities(logits: torch.Tensor) -> Iterator[Doubt]:
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() <= NEAR_ONE).all()):
        yield Doubt("probabilities", (
            f"the model's outputs on {len(logits)} images are all >= 0 and each image's sum is 1 (+- {NEAR_ONE:g}), as of "
            "probabilities, but losses and margins are of logits: a softmax taken twice hides most of the gradient; take the "
            'softmax out of the model (docs/messages.md, "Outputs look like probabilities").'))


def _random_outputs(first: torch.Tensor, second: torch.Tensor) -> Iterator[Doubt]:
    """Differences that rounding explains are none; what is not a number is another doubt's."""
    first, second = torch.nan_to_num(first), torch.nan_to_num(second)
    allowed = ROUNDING * first.abs().amax(1).clamp_min(1e-30)
    moved = (first - second).abs().amax(1)
    count = int((moved > allowed).sum())
    if count:
        yield Doubt("random_outputs", (
            f"the model gives {count} of {len(first)} images other outputs when asked again (by up to {float(moved.max()):.3g}), "
            "but it is attacked as if it always gave the same, so attacks follow single draws and outcomes are partly luck; turn "
            "its randomness off in evaluation mode, or attack it through the expectation over its noise "
            '(docs/messages.md, "Random outputs attacked without expectation").'))
