"""Covariance functions of an attack's perturbations beside those of the data.

Symbols (SGR, Roth et al. 2018) -> words: xi -> perturbations, adversarial image less original; CovFun -> `CovarianceFunction`;
zeta -> decay_length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from robust_cli.covariance import NOTHING, CovarianceFunction, covariance_function, decay_length
from robust_cli.measures.measure import Material
from robust_cli.messages import UserError
from robust_cli.runs.console import say

DATA = "data"  # stands for the training images where attacks are named; its budget is 0
COLUMNS = ("attack", "budget", "channels", "displacement", "value", "decay_length", "images")


@dataclass(frozen=True)
class Covariances:
    """How perturbations vary together by the distance of two pixels, for every attack and budget of a run, and the data.

    Source: SGR (Roth et al. 2018), figures of covariance functions and eq. 15-16. Perturbations as they are stored, after
    clipping, successful or not, in raw second moments as in the paper; those of images that were not moved are left out.
    The data: all training images, centred, for their mean would hide the rest.
    """

    def __call__(self, material: Material) -> pd.DataFrame:
        """A row for each attack, budget, channels and displacement, the data's last (attack "data", budget 0).

        channels: intra (pairs of pixels in one channel) or inter (in two; none where there is one channel); displacement: the
        distance of two pixels rounded to whole ones; value: over that of intra at 0; decay_length: displacement where the
        function of these channels falls to 1/e of its value at 0, pixels, inf where it never does, nan where it begins at 0
        or below; images: perturbations (or training images) that it is a mean of. Raises UserError where the training images
        are all the same.
        """
        rows = [row for name, budget, moved in perturbations(material)
                for row in _rows(name, budget, covariance_function(moved), len(moved))]
        training = material.training_images()
        of_data = covariance_function(training.pixels, centred=True)  # bytes or not: the scale goes out
        if not float(of_data.intra[0]) > NOTHING:
            raise UserError(f"covariances: expected training images that differ, found {len(training)} alike; "
                            "use another data set")
        return pd.DataFrame([*rows, *_rows(DATA, 0.0, of_data, len(training))], columns=list(COLUMNS))


def perturbations(material: Material) -> Iterator[tuple[str, float, torch.Tensor]]:
    """(attack, budget, perturbations [n, C, H, W] that are not zero), in the run's order; a line is said where there is none."""
    originals = material.images.float().cpu()
    for name, attacks in material.attacks.items():
        for budget, _ in attacks:
            moved = torch.tensor(material.adversarial(name, budget)) - originals
            moved = moved[moved.flatten(1).any(1)]
            if len(moved):
                yield name, budget, moved
            else:
                say(f"  covariances: {name} at {budget:g} moved no image; nothing to measure there")


def _rows(name: str, budget: float, function: CovarianceFunction, images: int) -> list[tuple[Any, ...]]:
    found = function.rescaled()
    rows: list[tuple[Any, ...]] = []
    for channels, values in (("intra", found.intra), ("inter", found.inter)):
        if values is not None:
            length = decay_length(values)
            rows += [(name, budget, channels, r, value, length, images) for r, value in enumerate(values.tolist())]
    return rows
