"""The same bounds as `convex_adversarial`, the method's authors' own code: of margins and of every ReLU, in both norms.

It takes plain lists of layers, without batch norm in evaluation mode and pooling, and radii in units of the image it is given:
here there is no normalisation between. Its names for the balls are those of the dual norms.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from convex_adversarial import Dense, DenseSequential, DualNetwork, RobustBounds
from relu_networks import CLASSES, NORMS, pictures
from torch import nn

from robust_cli.models.cnn_small import CnnSmall
from robust_cli.verification.bounds import Ball, layer_bounds, margins
from robust_cli.verification.reading import read

THEIRS = {"l2": "l2", "linf": "l1"}
RADII = {"l2": (0.05, 0.5), "linf": (0.01, 0.1)}
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-10}}
every_norm = pytest.mark.parametrize("norm", NORMS)


def plain(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    if kind == "cnn_small":
        return CnnSmall((2, 8, 8), CLASSES).layers
    if kind == "dense":
        return nn.Sequential(nn.Flatten(), nn.Linear(128, 20), nn.ReLU(), nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, 10),
                             nn.ReLU(), nn.Linear(10, CLASSES))
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 2, 2, bias=False), nn.ReLU(), nn.Conv2d(4, 6, 3, 1, 1),
                         nn.ReLU(), nn.Flatten(), nn.Linear(96, CLASSES))


class Mirror(nn.Module):
    """The function of the peer's residual list of layers, as one writes it here."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stem, inner, outer, skip, last = self.parts
        x = torch.relu(stem(images))
        x = torch.relu(outer(torch.relu(inner(x))) + skip(x))
        return last(torch.flatten(x, 1))


def residual() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    stem, inner = nn.Conv2d(2, 3, 3, 1, 1), nn.Conv2d(3, 4, 4, 2, 1)
    outer, skip, last = nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(3, 4, 2, 2), nn.Linear(64, CLASSES)
    theirs = DenseSequential(stem, nn.ReLU(), Dense(inner), nn.ReLU(), Dense(skip, None, outer), nn.ReLU(), nn.Flatten(), last)
    return theirs, Mirror([stem, inner, outer, skip, last])


def relus(peer: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(layer.zl, layer.zu) for layer in peer.dual_net if type(layer).__name__ == "DualReLU"]


def agree(theirs: nn.Module, ours: nn.Module, norm: str, dtype: torch.dtype) -> None:
    images, labels = pictures(4, (2, 8, 8))
    images, theirs, ours = images.to(dtype), theirs.to(dtype), ours.to(dtype)
    program = read(ours, (2, 8, 8))
    torch.testing.assert_close(program.logits(images), theirs(images), **CLOSE[dtype])
    for radius in RADII[norm]:
        expected = -RobustBounds(theirs, radius, norm_type=THEIRS[norm], bounded_input=False)(images, labels)
        torch.testing.assert_close(margins(program, images, labels, Ball(norm, radius)), expected, **CLOSE[dtype])
        boxes = list(layer_bounds(program, images, Ball(norm, radius)).values())
        peers = relus(DualNetwork(theirs, images, radius, norm_type=THEIRS[norm], bounded_input=False))
        for ours_of_layer, theirs_of_layer in zip(boxes, peers, strict=True):
            for end, expected_end in zip(ours_of_layer, theirs_of_layer, strict=True):
                torch.testing.assert_close(end, expected_end, **CLOSE[dtype])


@pytest.mark.parametrize("kind", ["cnn_small", "dense", "two_convolutions"])
@pytest.mark.parametrize("dtype", CLOSE)
@every_norm
def test_the_authors_code_finds_the_same_bounds(kind: str, dtype: torch.dtype, norm: str) -> None:
    layers = plain(kind)
    agree(layers, layers, norm, dtype)


@pytest.mark.parametrize("dtype", CLOSE)
@every_norm
def test_the_authors_code_finds_the_same_bounds_of_residual_branches(dtype: torch.dtype, norm: str) -> None:
    agree(*residual(), norm, dtype)


@every_norm
def test_the_authors_code_finds_the_same_gradients(norm: str) -> None:
    """Of the cross entropy of the bounds, which training minimises."""
    layers, (images, labels) = plain("cnn_small").double(), pictures(4, (2, 8, 8))
    radius = RADII[norm][0]
    loss = nn.functional.cross_entropy
    expected = torch.autograd.grad(loss(RobustBounds(layers, radius, norm_type=THEIRS[norm])(images, labels), labels),
                                   list(layers.parameters()))
    found = torch.autograd.grad(loss(-margins(read(layers, (2, 8, 8)), images, labels, Ball(norm, radius)), labels),
                                list(layers.parameters()))
    for gradient, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, theirs, rtol=1e-9, atol=1e-12)


def test_a_radius_for_each_image_is_theirs_too() -> None:
    layers, (images, labels) = plain("cnn_small").double(), pictures(3, (2, 8, 8))
    radii = torch.tensor([0.0, 0.02, 0.1], dtype=torch.float64)
    expected = torch.cat([-RobustBounds(layers, float(radius), norm_type="l1")(images[i : i + 1], labels[i : i + 1])
                          for i, radius in enumerate(radii)])
    found = margins(read(layers, (2, 8, 8)), images, labels, Ball("linf", radii))
    torch.testing.assert_close(found, expected, **CLOSE[torch.float64])
