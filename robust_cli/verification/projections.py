"""Estimates of every layer's bounds by random projections, with which large networks are trained. They are no bounds.

Source: Wong, Schmidt, Metzen and Kolter 2018, section 3.2 (norms from projections: Li, Hastie and Church 2007 for l1). An exact
bound of a layer carries a row back for each of its values; what it needs of them are norms alone: of the rows of the image, and
of the rows of each earlier ReLU's values times their rises. The norms of all rows are estimated at once from k random vectors
that are carried forward: the product of a row with a vector of independent standard normal numbers is normal with the row's l2
norm as its standard deviation, with one of standard Cauchy numbers it is Cauchy with the l1 norm as its scale. So

    l2:  the root of the mean of k squared products     relative standard deviation 1 / sqrt(2 k)
    l1:  the median of the k products' sizes            relative standard deviation (pi / 2) / sqrt(k), for large k

Legend: their r is ``projections``, R the random vectors, nu the rows; l_ij nu_ij at a layer's unstable ReLUs is minus the rise
times a row, of which sum_i [.]_- = (sum_i . - sum_i |.|) / 2: the first sum is one vector carried forward, exactly, the second
an l1 norm.

An estimate lies below its norm about half of the time, each for itself. What is made of them is a loss, nothing that holds for
a ball of images: certificates use the exact norms of `bounds`, and take no projections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from robust_cli.messages import check
from robust_cli.verification.bounds import NORMS, Ball, Box, _Pass
from robust_cli.verification.parts import Linear, Part
from robust_cli.verification.program import Node, Program, computed
from robust_cli.verification.rows import Dense

Vectors = torch.Tensor  # [n or 1, k, *layer]


def projected_margins(program: Program, images: torch.Tensor, labels: torch.Tensor, ball: Ball, projections: int,
                      generator: torch.Generator) -> torch.Tensor:
    """Estimates of `bounds.margins` with parallel lines, [n, K]; 0 at k = label. Differentiable in the weights.

    No bounds: of about half of the layers' values the interval is too narrow. Every layer's bounds are estimated from
    ``projections`` (k >= 1; 50 in the paper) random vectors for the ball and for each earlier ReLU layer; the margins' own K
    rows are exact for the ReLUs' lines that follow from them, as in the paper. Exact identities replace the random vectors
    where there are no more than k pixels, or no more than k units of a layer are unstable for any of the images.

    Random vectors are shared by the images of a batch: up to the first ReLU their products are as well, and Cauchy numbers are
    dear. Errors of an image's estimates are therefore those of the others, within a batch; the next call draws new vectors
    from ``generator``, on the images' device.
    """
    work = _Projected(program, images, ball, projections, generator)
    work.boxes()
    eye = torch.eye(program.nodes[-1].shape[0], dtype=images.dtype, device=images.device)
    return work.lowest(len(program.nodes) - 1, Dense(eye[labels][:, None] - eye))


def projected_bounds(program: Program, images: torch.Tensor, ball: Ball, projections: int,
                     generator: torch.Generator) -> dict[int, Box]:
    """Estimates of `bounds.layer_bounds` with parallel lines; see `projected_margins`."""
    return _Projected(program, images, ball, projections, generator).boxes()


def l2_estimate(products: Vectors) -> torch.Tensor:
    """The rows' l2 norms from their products with k standard normal vectors, [n or 1, *layer]."""
    return torch.linalg.vector_norm(products, 2, dim=1) / math.sqrt(products.shape[1])


def l1_estimate(products: Vectors) -> torch.Tensor:
    """The rows' l1 norms from their products with k standard Cauchy vectors, [n or 1, *layer].

    The median of the sizes, of an even k the mean of the two in the middle: the lower of them, which a sort gives as the
    median, would be low by about (pi / 2) / k of the norm, 3 % at k = 50.
    """
    with torch.no_grad():
        sizes = products.abs()
        indices = [(sizes == number[:, None]).max(1, keepdim=True).indices for number in _in_the_middle(sizes)]
    return products.gather(1, torch.cat(indices, 1)).abs().mean(1)


def _in_the_middle(sizes: torch.Tensor) -> list[torch.Tensor]:
    """The number, or the two, in the middle along the second axis."""
    count = sizes.shape[1]
    places = sorted({(count - 1) // 2, count // 2})
    if sizes.device.type != "cpu" or sizes.dtype not in (torch.float32, torch.float64):
        return [sizes.kthvalue(place + 1, 1).values for place in places]
    ordered = np.sort(np.ascontiguousarray(sizes.movedim(1, -1).numpy()), axis=-1)  # by vector instructions: a third of kthvalue
    return [torch.from_numpy(ordered[..., place].copy()) for place in places]


@dataclass
class _Group:
    """Vectors that begin at one layer and are carried forward: their products with the rows of the layers' values, by place for
    as long as they are needed (where there are none they are zero), and what they add to those values by ``length``."""

    length: Callable[[Vectors], torch.Tensor]
    products: dict[int, Vectors]


class _Projected(_Pass):
    """A pass whose layers' bounds are estimates; the margins' rows are carried back as ever."""

    def __init__(self, program: Program, images: torch.Tensor, ball: Ball, projections: int, generator: torch.Generator) -> None:
        super().__init__(program, images, ball, "parallel")
        check(projections >= 1, "projections", "a whole number >= 1", projections)
        self.projections, self.generator = projections, generator
        self.groups: list[_Group] = []
        self.middle: list[torch.Tensor] = []  # each layer's value at the image, every ReLU in the middle between its lines
        self.needed_until = {source: at for at, node in enumerate(program.nodes) for source in node.inputs}

    def _box(self, place: int) -> Box:
        for at in range(len(self.middle), place + 1):
            self._carry_to(at)
        middle = self.middle[place]
        around = torch.zeros_like(middle)
        for group in self.groups:
            if place in group.products:
                around = around + group.length(group.products[place])
        return middle - around, middle + around

    def _carry_to(self, at: int) -> None:
        """All that is carried, to a node whose inputs it has come to."""
        node = self.program.nodes[at]
        for group in self.groups:
            before = [group.products[source] for source in node.inputs if source in group.products]
            if before:
                group.products[at] = self._product(at, node, before)
            for source in set(node.inputs):
                if self.needed_until[source] == at:
                    group.products.pop(source, None)
        if node.is_relu:
            half = self.relaxed[at].rise / 2
            self.middle.append(self.middle[node.inputs[0]] * self.relaxed[at].above + half)
            self._begin_at_relu(at, half)
        else:
            self.middle.append(computed(node, self.middle, self.images))
            if not node.inputs:
                self._begin_at_image()

    def _product(self, at: int, node: Node, before: list[Vectors]) -> Vectors:
        if node.is_relu:
            return before[0] * self.relaxed[at].above[:, None]
        if node.part is not None:
            return without_addend(node.part, before[0])
        return before[0] if len(before) == 1 else before[0] + before[1]

    def _begin_at_image(self) -> None:
        shape, radius = self.images.shape[1:], self.ball.radius
        if shape.numel() <= self.projections:
            start, norm = self._identity(torch.arange(shape.numel(), device=self.images.device), shape), _exact(self.ball.norm)
        elif self.ball.norm == "l2":
            room = self.images.new_empty(1, self.projections, *shape)
            start, norm = room.normal_(generator=self.generator), l2_estimate
        else:
            start, norm = self._cauchy(shape), l1_estimate
        self.groups.append(_Group(lambda products: _of_images(radius, norm(products)), {0: start}))

    def _begin_at_relu(self, at: int, weight: torch.Tensor) -> None:
        """A row's l1 norm with ``weight`` [n, *layer] on each entry, where it is not 0 for all images."""
        shape = weight.shape[1:]
        unstable = (weight > 0).any(0).flatten().nonzero()[:, 0]
        if len(unstable) == 0:
            return
        if len(unstable) <= self.projections:
            start, norm = self._identity(unstable, shape), _exact("linf")
        else:
            start, norm = self._cauchy(shape), l1_estimate
        self.groups.append(_Group(norm, {at: start * weight[:, None]}))

    def _cauchy(self, shape: torch.Size) -> Vectors:
        return self.images.new_empty(1, self.projections, *shape).cauchy_(generator=self.generator)

    def _identity(self, which: torch.Tensor, shape: torch.Size) -> Vectors:
        return functional.one_hot(which, shape.numel()).to(self.images.dtype).view(1, len(which), *shape)


def without_addend(part: Part, vectors: Vectors) -> Vectors:
    """M v of an affine layer z to M z + m."""
    found = part(vectors.flatten(0, 1))
    if not isinstance(part, Linear):
        found = found - part(vectors.new_zeros(1, *vectors.shape[2:]))
    return found.unflatten(0, vectors.shape[:2])


def _exact(norm: str) -> Callable[[Vectors], torch.Tensor]:
    """The dual norm of the rows themselves, their products with the identity."""
    return lambda products: torch.linalg.vector_norm(products, NORMS[norm], dim=1)


def _of_images(radius: float | torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """radius, of all images or of each, times lengths [n or 1, *layer]."""
    if isinstance(radius, torch.Tensor):
        radius = radius.to(lengths.dtype).view(-1, *[1] * (lengths.dim() - 1))
    return radius * lengths
