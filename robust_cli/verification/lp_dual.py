"""The certificate of Wong and Kolter: a radius that a network itself proves, without noise and without chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from robust_cli.messages import check
from robust_cli.verification.bounds import NORMS
from robust_cli.verification.cascade import Cascade
from robust_cli.verification.certified import Proof, proof
from robust_cli.verification.relaxation import RELAXATIONS

SOUND, PUBLISHED = "sound", "published"


@dataclass(frozen=True)
class LpDual:
    """A radius around an image within which the LP dual bounds (`bounds`) leave one class only, in pixel units.

    Statement: every image of the ball, also beyond [0, 1], is given the class that the image is given. It holds for certain, of
    the network in exact arithmetic; bounds are computed in float64. Source: Wong and Kolter 2018, Theorem 1 and Corollary 2.

    norm: l2 or linf. radius: one that is proven or not (the rows then hold it, or 0); None: the largest for each image, found
    within a relative ``tolerance``. relaxation: see `relaxation.Relaxed`; adaptive costs about three times as much and is often
    tighter where the network was not trained for the bounds.

    cascade: of a `Cascade`. ``sound``: what is proven of the cascade (`Cascade.agreed`), up to the radius of its stages.
    ``published``: the paper's count, that the stage which answers the image certifies it, always at the cascade's radius. It is a
    claim about the unchanged image's stage and does not hold against somebody who changes the image.
    """

    norm: str = "l2"
    radius: float | None = None
    relaxation: str = "parallel"
    tolerance: float = 1e-3
    cascade: str = SOUND
    verifies: ClassVar[bool] = True
    bounds: ClassVar[str] = "deterministic"

    def __post_init__(self) -> None:
        check(self.norm in NORMS, "norm", " or ".join(NORMS), self.norm)
        check(self.radius is None or 0 < self.radius < math.inf, "radius", "a number > 0, or null", self.radius)
        check(self.relaxation in RELAXATIONS, "relaxation", " or ".join(RELAXATIONS), self.relaxation)
        check(0 < self.tolerance < 1, "tolerance", "a number in (0, 1)", self.tolerance)
        check(self.cascade in (SOUND, PUBLISHED), "cascade", f"{SOUND} or {PUBLISHED}", self.cascade)

    def __call__(self, model: nn.Module, images: torch.Tensor, classes: torch.Tensor, norm: str,
                 radius: float | None) -> torch.Tensor:
        """Images float32 [n, C, H, W], classes int64 [n]. With a radius: bool [n], whether it is proven. Without: float64 [n],
        the largest that was, 0 where none. Raises UserError for a network with a layer whose bounds are not known."""
        shape = tuple(images.shape[1:])
        if not isinstance(model, Cascade):
            return self._proven(proof(model, shape, self.relaxation), images, classes, norm, radius)
        check(norm == model.norm, "norm", f"{model.norm}, that of the cascade's stages", norm)
        within = radius is None or radius <= model.radius
        check(within, "radius", f"at most {model.radius:g}, that of the cascade's stages", radius)
        published = self.cascade == PUBLISHED
        found = self._published(model, images, classes) if published else self._sound(model, images, classes, radius)
        return found if radius is None else found >= radius

    def _published(self, model: Cascade, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        stage, certified = model.answering(images)
        answered = model.logits_of(images, stage).argmax(1) == classes
        return (certified & answered).double() * model.radius

    def _sound(self, model: Cascade, images: torch.Tensor, classes: torch.Tensor, radius: float | None) -> torch.Tensor:
        found = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        same = model.agreed(images, classes).nonzero()[:, 0]
        last = proof(model.asked[-1], tuple(images.shape[1:]), self.relaxation)
        proven = self._proven(last, images[same], classes[same], model.norm, radius)
        found[same] = (proven * model.radius if radius is not None else proven.clamp(max=model.radius)).double()
        return found

    def _proven(self, made: Proof, images: torch.Tensor, classes: torch.Tensor, norm: str,
                radius: float | None) -> torch.Tensor:
        if radius is None:
            return made.largest(images, classes, norm, self.tolerance)
        return made.holds(images, classes, norm, radius)
