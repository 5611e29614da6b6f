"""The norms in which budgets and distances are measured."""

from __future__ import annotations

from enum import StrEnum


class Norm(StrEnum):
    """A norm over all pixels and channels of an image, in pixel units. Being text, a member equals its name."""

    l1 = "l1"
    l2 = "l2"
    linf = "linf"
