"""The norms in which budgets and distances are measured."""

from __future__ import annotations

from enum import StrEnum


class Norm(StrEnum):
    """A norm over all pixels and channels of an image, in pixel units. Being text, a member equals its name.

    ``std`` is not a ball's: it is the scale of a noise, the standard deviation of a pixel before clipping, for attacks that are
    noise of a given strength. A noise of that scale is cut at `CUT` standard deviations, so that a budget still bounds what
    an image may change: the size in ``std`` is the largest change of a pixel over `CUT`.
    """

    l1 = "l1"
    l2 = "l2"
    linf = "linf"
    std = "std"


CUT = 6.0  # a normal draw lies beyond with probability 2e-9
