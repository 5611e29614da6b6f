"""Balls and the box: projection, distance, the steepest direction, random points. One row per image, [n, C, H, W].

Pixels live in [0, 1]; budgets and distances are in pixel units.
"""

from __future__ import annotations

import torch

from robust_cli.attacks.norms import CUT, Norm
from robust_cli.smoothing.noise import ImageDraws


def per_image(values: torch.Tensor) -> torch.Tensor:
    """Numbers [n] shaped to multiply images [n, C, H, W]."""
    return values.reshape(-1, 1, 1, 1)


def size(delta: torch.Tensor, norm: str) -> torch.Tensor:
    """The norm of each image's perturbation, [n], in the precision of ``delta``."""
    if Norm(norm) is Norm.std:
        return size(delta, Norm.linf) / CUT
    order = {Norm.l1: 1.0, Norm.l2: 2.0, Norm.linf: float("inf")}[Norm(norm)]
    return torch.linalg.vector_norm(delta.flatten(1), ord=order, dim=1)


def distances(first: torch.Tensor, second: torch.Tensor, norm: str) -> torch.Tensor:
    """Distance of each image of one batch to its like in the other, computed in float64, [n]."""
    return size(first.double() - second.double(), norm)


def project_ball(delta: torch.Tensor, budget: float, norm: str) -> torch.Tensor:
    """The nearest perturbation (in l2) whose norm is at most ``budget``, image by image."""
    if Norm(norm) is Norm.linf:
        return delta.clamp(-budget, budget)
    if Norm(norm) is Norm.std:
        return delta.clamp(-CUT * budget, CUT * budget)
    if Norm(norm) is Norm.l2:
        return delta * per_image((budget / size(delta, norm).clamp_min(1e-30)).clamp_max(1))
    return delta.sign() * (delta.abs() - per_image(_soft_threshold(delta, budget))).clamp_min(0)


def _soft_threshold(delta: torch.Tensor, budget: float) -> torch.Tensor:
    """What to take from every |pixel| so that the l1 norm becomes ``budget``; 0 inside the ball (Duchi et al. 2008)."""
    ordered = delta.abs().flatten(1).sort(dim=1, descending=True).values
    excess = (ordered.cumsum(1) - budget) / torch.arange(1, ordered.shape[1] + 1, device=delta.device)
    last = (ordered > excess).sum(1, keepdim=True).clamp_min(1) - 1
    return excess.gather(1, last).squeeze(1).clamp_min(0)


def project_l1_box(delta: torch.Tensor, images: torch.Tensor, budget: float) -> torch.Tensor:
    """The nearest perturbation (in l2) with l1 norm at most ``budget`` that also keeps ``images`` in [0, 1], both at once.

    Clipping after a projection on the ball would throw budget away, for where the box is near, most of it. The nearest point is
    sgn(d) min(max(|d| - t, 0), room), room = the way to the box along d, t >= 0 the least at which the norm fits: the norm is
    piecewise linear in t, so t is found exactly from its sorted breakpoints |d| and |d| - room (Croce and Hein 2021).
    """
    flat, length = delta.flatten(1), delta.flatten(1).abs()
    room = torch.where(flat > 0, 1 - images.flatten(1), images.flatten(1)).clamp_min(0)
    points, order = torch.cat([length, length - room], 1).sort(dim=1, descending=True)
    slopes = torch.where(order < length.shape[1], 1.0, -1.0).to(delta.dtype)
    slope, area = slopes.cumsum(1), (slopes * points).cumsum(1)
    first = (area - points * slope < budget).sum(1, keepdim=True).clamp(1, points.shape[1]) - 1  # the norm fits down to here
    threshold = (area.gather(1, first) - budget) / slope.gather(1, first).clamp_min(1)
    return (flat.sign() * torch.minimum((length - threshold.clamp_min(0)).clamp_min(0), room)).view_as(delta)


def project(candidates: torch.Tensor, images: torch.Tensor, budget: float, norm: str) -> torch.Tensor:
    """Candidates moved into the ball around ``images``, then into the box, which can only bring them nearer; for l1 to the
    nearest point of both. For the steps of an attack: float32 rounding may leave the ball by a little; `settle` makes the
    final image exact."""
    if Norm(norm) is Norm.l1:
        return (images + project_l1_box(candidates - images, images, budget)).clamp_(0, 1)
    return (images + project_ball(candidates - images, budget, norm)).clamp_(0, 1)


def settle(candidates: torch.Tensor, images: torch.Tensor, budget: float, norm: str) -> torch.Tensor:
    """Candidates as float32 images that are in the ball and in the box exactly, measured in float64.

    Projected in float64 and rounded toward the original, so that no pixel moves further than the projected one.
    """
    originals = images.double()
    target = project(candidates.double(), originals, budget, norm)
    stored = target.float()
    beyond = (stored.double() - originals).abs() > (target - originals).abs()
    return torch.where(beyond, torch.nextafter(stored, images), stored)


def steepest(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """The direction of norm 1 along which a linear function with this gradient grows most, image by image.

    l2: the gradient over its length; linf: its signs; l1: its largest entry alone. A gradient as small as float32 can hold
    keeps its direction; a zero gradient gives zero, and entries that are not finite count as zero.
    """
    if Norm(norm) is Norm.std:
        raise ValueError("steepest: expected l1, l2 or linf, got std, the scale of a noise")
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    if Norm(norm) is Norm.linf:
        return gradient.sign()
    largest = gradient.abs().flatten(1).amax(1)
    scaled = gradient / per_image(torch.where(largest > 0, largest, 1))  # squares of small entries would vanish
    if Norm(norm) is Norm.l2:
        return scaled / per_image(size(scaled, norm).clamp_min(1))
    rows = scaled.flatten(1)
    at = rows.abs().argmax(1, keepdim=True)
    return torch.zeros_like(rows).scatter_(1, at, rows.gather(1, at).sign()).view_as(gradient)


def random_direction(images: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
    """A uniform direction of l2 length 1 for each image."""
    return steepest(draws.normal(*images.shape[1:]), Norm.l2)


def random_start(images: torch.Tensor, budget: float, norm: str, draws: ImageDraws) -> torch.Tensor:
    """A uniform point of the ball (l2 or linf) around each image, clipped to the box."""
    if Norm(norm) is Norm.linf:
        return (images + budget * (2 * draws.uniform(*images.shape[1:]) - 1)).clamp_(0, 1)
    if Norm(norm) is not Norm.l2:
        raise ValueError(f"random_start: expected norm l2 or linf, got {norm!r}")
    length = budget * draws.uniform(1).squeeze(1) ** (1 / images[0].numel())
    return (images + per_image(length) * random_direction(images, draws)).clamp_(0, 1)
