"""Where the noise comes into a model: at the image, or at its first layer's output (PixelDP).

With noise after the first layer the smoothed classifier is argmax_c P(h(g(x) + N(0, noise_std^2 I)) = c), g the first layer
with what stands before it, h the rest. g moves by at most operator_norm ||d||_2 when x moves by d, so whatever is certified
at g(x) holds at x within the radius over operator_norm. Gaussian certificates are linear in the noise: radii of noise_std /
operator_norm.

Legend (Lecuyer et al. 2019, PixelDP): g, h as there; Delta_(2,2) -> operator_norm; sigma = Delta L sqrt(2 ln(1.25 / delta)) /
epsilon -> noise_std, for a construction attack of size L.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robust_cli.messages import UserError
from robust_cli.models.classifier import frozen
from robust_cli.models.first_layer import first_layer
from robust_cli.models.operator_norm import norm_bound
from robust_cli.models.pixel_map import PixelMap
from robust_cli.smoothing.noises import ROUNDED

LAYERS = ("input", "first")
_ROUNDING = 1e-3  # of the largest logit, by which two orders of computing the same may differ in float32
_SWALLOWED = 1e-3  # of the noise: the most that float32's rounding of what it is added to may be


@dataclass(frozen=True)
class Place:
    """``before``: images float32 [n, C, H, W] to what the noise is added to, float32 [n, *shape]; ``after``: from there to
    logits.

    ``operator_norm``: an upper bound of how much ``before`` stretches a change of an image in l2, 1 for the image itself.
    """

    layer: str
    before: Callable[[torch.Tensor], torch.Tensor]
    after: nn.Module
    operator_norm: float = 1.0

    @torch.no_grad()
    def each(self, images: torch.Tensor) -> torch.Tensor:
        """`before` of detached images, each by itself, so that none depends on how many there are."""
        return torch.cat([self.before(image) for image in images.split(1)]) if len(images) else self.before(images)

    def admit(self, points: torch.Tensor, noise_std: float) -> None:
        """Raise UserError where float32 would swallow noise of this size at the points: draws that are all alike would certify
        anything. Images in [0, 1] are looked after by the least noise that there is."""
        largest = float(points.abs().max())
        if self.layer == "first" and largest * 2**-24 > _SWALLOWED * noise_std:
            raise UserError("noise_std: expected noise that float32 can add to the first layer's output, whose size is "
                            f"{largest:.3g}, got {noise_std:g}; take a larger one, or smoothing.layer=input")

    @property
    def words(self) -> str:
        """What to say after the size of the noise."""
        return "" if self.layer == "input" else f" after the first layer (operator norm at most {self.operator_norm:g})"

    def describe(self) -> dict[str, Any]:
        """What a run says of it, in JSON's types: all that the operator norm follows from, but for the weights."""
        said: dict[str, Any] = {"layer": self.layer, "operator_norm": self.operator_norm}
        if isinstance(self.before, PixelMap):
            convolution = {key: list(value) for key, value in (self.before.convolution or {}).items()}
            said |= {"std": self.before.std.flatten().tolist(), "convolution": convolution or None}
        return said

    def keep(self, path: Path) -> None:
        """Write the first layer's weights, float64 .npy, so that a run's operator norm can be derived again; else nothing."""
        if isinstance(self.before, PixelMap):
            np.save(path, self.before.weight.cpu().numpy(), allow_pickle=False)


def in_pixels(noise_std: float, operator_norm: float) -> float:
    """The noise on the image that radii are those of, rounded down: noise_std / operator_norm."""
    return noise_std if operator_norm == 1 else noise_std / operator_norm * ROUNDED


def norm_said(about: Mapping[str, Any]) -> float:
    """The operator norm of a run by its about.json; 1 where older runs say nothing, whose noise was on the image."""
    return float((about.get("smoothing") or {}).get("operator_norm", 1.0))


def at_input(model: nn.Module) -> Place:
    """Noise on the image itself."""
    return Place("input", _itself, model)


def place_of(model: nn.Module, layer: Enum | str | None, shape: tuple[int, ...]) -> Place:
    """The place by its word (none, in older runs, is the input) in a model in evaluation mode, for images of a shape [C, H, W].

    The first layer is taken as it is now, in float64 (`PixelMap`). Raises UserError for a model that does not begin with a
    convolution or a dense layer, and for one whose first layer is zero: its radii would be infinite, and its answers always the
    same.
    """
    word = layer.value if isinstance(layer, Enum) else layer
    assert word in (None, *LAYERS), word
    if word != "first":
        return at_input(model)
    wanted_by = "smoothing.layer=first"
    parts = first_layer(model, wanted_by)
    before = PixelMap(parts, shape, wanted_by)
    after = parts.rest if before.convolution is not None else nn.Sequential(nn.Flatten(1), parts.rest)
    norm = norm_bound(before) if bool(before.weight.isfinite().all()) else float("nan")
    if not 0 < norm < float("inf"):
        raise UserError(f"{wanted_by}: expected a first layer with weights that are numbers and not all zero, found one whose "
                        f"operator norm is {norm:g}; train again")
    place = Place("first", before, after.eval(), norm)
    _check_same(place, model, shape, wanted_by)
    return place


@torch.no_grad()
def _check_same(place: Place, model: nn.Module, shape: tuple[int, ...], wanted_by: str) -> None:
    """Raise UserError unless the parts one after the other are the model: whatever else its forward does (another scaling,
    hooks, weights made in the layer's own forward) would be in neither, and radii those of another function."""
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)).to(next(model.parameters()).device)
    with frozen(model), torch.autocast(images.device.type, enabled=False):
        expected, found = model(images), place.after(place.each(images))
    apart = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
    if not apart <= _ROUNDING * float(expected.abs().max().clamp_min(1e-12)):
        raise UserError(f"{wanted_by}: expected a model that is its normalisation, its first layer and its other layers one "
                        "after the other, found one that computes something else (a forward of its own, or hooks); set "
                        "smoothing.layer=input")


def _itself(images: torch.Tensor) -> torch.Tensor:
    return images
