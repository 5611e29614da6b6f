"""What a network's dual bounds prove at some images: that a ball is given one class, and how large a ball may be."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn

from robust_cli.models.classifier import frozen
from robust_cli.verification.bounds import Ball, margins
from robust_cli.verification.cost import available_bytes, check_fits, images_that_fit
from robust_cli.verification.program import Program
from robust_cli.verification.reading import read

_IMAGES, _BYTES = 64, 2**32  # images at once, at most, and memory for them: fixed, so that nothing depends on what is free
_FIRST = {"l2": 0.5, "linf": 0.02}  # radii tried first, pixel units
_MOST_STEPS = 100  # of a search
_ROUNDINGS = 32  # of float32, relative to the largest logit: what a margin must exceed, so that the float32 network keeps it too
_TRIES = 20  # radii that float64 may refuse, one after the other, where float32 saw a larger one proven


@dataclass(frozen=True)
class Proof:
    """A network in float64 and the relaxation by which its balls are proven: deterministic, for real numbers.

    Certificates compute in float64, whose rounding (some 1e-13) is nothing here. The float32 network differs from the one that is
    proven by its own rounding; margins have to exceed some of it (4e-6 of the largest logit), which is an allowance and no bound.
    """

    program: Program
    rough: Program  # the same in float32
    at_once: int = 1  # images
    relaxation: str = "parallel"

    @torch.no_grad()
    def holds(self, images: torch.Tensor, classes: torch.Tensor, norm: str, radius: float | torch.Tensor,
              rough: bool = False) -> torch.Tensor:
        """Whether all of each image's ball is proven to be given its class (int64 [n]): bool [n]. ``radius``: one, or [n].
        ``rough``: in float32, twice as fast, where nothing is claimed."""
        return self._excess(images, classes, norm, radius, rough) > 0

    @torch.no_grad()
    def largest(self, images: torch.Tensor, classes: torch.Tensor, norm: str, tolerance: float) -> torch.Tensor:
        """The largest radius that was proven for each image, float64 [n]; 0 where its class is not even the image's own.

        The search, between radii that hold and radii that do not by steps of interpolation and bisection until the two are
        within ``tolerance`` (relative), computes in float32, up to a ball that holds all images. What is returned has been proven
        in float64, at a radius that is smaller by the tolerance where need be, whether or not all smaller balls have been.
        """
        whole = 1.0 if norm == "linf" else math.sqrt(images[0].numel()) if len(images) else 0.0  # holds all of [0, 1]^d
        found = self._search(images, classes, norm, tolerance, whole)
        left = (found > 0).nonzero()[:, 0]
        for _ in range(_TRIES):
            holds = self.holds(images[left], classes[left], norm, found[left])
            left = left[~holds]
            if not len(left):
                return found
            found[left] *= 1 - tolerance
        found[left] = 0.0
        return found

    def _excess(self, images: torch.Tensor, classes: torch.Tensor, norm: str, radius: float | torch.Tensor,
                rough: bool) -> torch.Tensor:
        """By how much the least margin's bound exceeds what it must, float64 [n]."""
        if not len(images):
            return torch.zeros(0, dtype=torch.float64, device=images.device)
        rounding = _ROUNDINGS * torch.finfo(torch.float32).eps * self.program.logits(images.double()).abs().amax(1)
        return self._least(images, classes, norm, radius, rough) - rounding

    def _search(self, images: torch.Tensor, classes: torch.Tensor, norm: str, tolerance: float, whole: float) -> torch.Tensor:
        proven = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        at_proven = self._excess(images, classes, norm, 0.0, rough=True)
        open_ = at_proven > 0
        refused, at_refused = torch.full_like(proven, torch.inf), torch.full_like(proven, -torch.inf)
        for step in range(_MOST_STEPS):
            near = ((refused - proven <= tolerance * refused) & refused.isfinite()) | (proven >= whole)
            todo = (open_ & ~near).nonzero()[:, 0]
            if not len(todo):
                break
            tried = _next(proven[todo], refused[todo], at_proven[todo], at_refused[todo], _FIRST[norm], step).clamp(max=whole)
            found = self._excess(images[todo], classes[todo], norm, tried, rough=True)
            good = found > 0
            proven[todo[good]], at_proven[todo[good]] = tried[good], found[good]
            refused[todo[~good]], at_refused[todo[~good]] = tried[~good], found[~good]
        return proven

    def _least(self, images: torch.Tensor, classes: torch.Tensor, norm: str, radius: float | torch.Tensor,
               rough: bool = False) -> torch.Tensor:
        """The least margin's bound of each image, float64 [n]."""
        radii = torch.as_tensor(radius, dtype=torch.float64, device=images.device).expand(len(images))
        program, dtype = (self.rough, torch.float32) if rough else (self.program, torch.float64)
        found = []
        for part in torch.arange(len(images), device=images.device).split(self.at_once):
            bounds = margins(program, images[part].to(dtype), classes[part], Ball(norm, radii[part]), self.relaxation)
            others = torch.ones_like(bounds, dtype=torch.bool).scatter_(1, classes[part, None], False)
            found.append(bounds.where(others, torch.inf).min(1).values.double())
        return torch.cat(found)


def proof(model: nn.Module, shape: tuple[int, ...], relaxation: str = "parallel") -> Proof:
    """The proof of a model of images of a shape (C, H, W), as it is now, in evaluation. Raises UserError for one that
    `program.read` cannot read, and for one whose bounds of a single image do not fit into memory."""
    with frozen(model):
        exact, rough = copy.deepcopy(model).double(), copy.deepcopy(model).float()
    program = read(exact, shape)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    check_fits(program, 1, available_bytes(device), training=False)
    at_once = max(1, images_that_fit(program, _IMAGES, _BYTES, training=False))
    return Proof(program, read(rough, shape), at_once, relaxation)


def _next(proven: torch.Tensor, refused: torch.Tensor, at_proven: torch.Tensor, at_refused: torch.Tensor, first: float,
          step: int) -> torch.Tensor:
    """The radius to try next: twice as much while none was refused, else between the two."""
    share = at_proven / (at_proven - at_refused)
    share = torch.full_like(share, 0.5) if step % 3 == 2 else share.nan_to_num(0.5).clamp(0.02, 0.98)
    between = proven + share * (refused - proven)
    return torch.where(refused.isinf(), torch.where(proven > 0, 2 * proven, first), between)
