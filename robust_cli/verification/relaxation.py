"""The linear relaxation of a ReLU whose input lies in [lower, upper]: two lines that enclose it.

Legend (Wong and Kolter 2018): their l, u are ``lower``, ``upper``; D is ``above``; alpha is ``below`` (their dual variable's
share of the negative part, any value in [0, 1] is feasible).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

RELAXATIONS = ("parallel", "adaptive")


@dataclass(frozen=True)
class Relaxed:
    """below * z <= relu(z) <= above * z + rise for z in [lower, upper]; all [n, *layer].

    Stable ReLUs are exact: 0 where upper <= 0, z where lower >= 0. Of the others the upper line is the chord, with slope
    u / (u - l) and rise -u l / (u - l). The lower line goes through 0; its slope may be any number in [0, 1]:
    ``parallel`` that of the chord (Wong and Kolter 2018, section 3.2; with it a bound and its opposite share all their rows),
    ``adaptive`` 1 where u > -l, else 0, which has the least area between the lines (CROWN, Zhang et al. 2018, section 3.3).
    """

    below: torch.Tensor
    above: torch.Tensor
    rise: torch.Tensor
    parallel: bool


def relax(lower: torch.Tensor, upper: torch.Tensor, relaxation: str) -> Relaxed:
    """The lines for bounds lower <= upper of a ReLU's input."""
    known = lower <= upper  # not where a bound is nan
    active, unstable = (lower >= 0).to(lower.dtype), (lower < 0) & (upper > 0)
    width = torch.where(unstable, upper - lower, torch.ones_like(lower))
    above = torch.where(unstable, upper / width, active).where(known, torch.nan)
    rise = torch.where(unstable, -lower * above, torch.zeros_like(lower))
    if relaxation == "parallel":
        return Relaxed(above, above, rise, True)
    below = torch.where(unstable, (upper > -lower).to(lower.dtype), active)
    return Relaxed(below, above, rise, False)
