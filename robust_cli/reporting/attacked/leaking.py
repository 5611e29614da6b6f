"""Label leaking: where a network is more accurate on adversarial images than on clean ones.

A one-step attack's perturbation depends on the label, and adversarial training may learn to read it (Kurakin et al. 2017).
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from robust_cli.reporting.estimates import Estimate, estimate
from robust_cli.reporting.reading.load import CLEAN, Attacked
from robust_cli.reporting.tables import difference, percent

_CHANCE = 2.0  # standard errors below which a difference is called no more than chance


def label_leaking(run: Attacked) -> list[str]:
    """A sentence for each attack and budget where more images are answered as their label after the attack than before.

    It gives both accuracies over all images of the subset, and their paired difference with its standard error. Only images that
    are wrong when clean can become right: unless the run attacked those too, their outcome is the clean one and nothing can be
    seen here.
    """
    before = _right(run.of(CLEAN))
    found = []
    for name in run.names:
        rows = run.of(name)
        for budget in sorted(rows["budget"].unique()):
            part = rows[rows["budget"] == budget]
            after, clean = _right(part), before.loc[part["index"]]
            gain = estimate(after.to_numpy() - clean.to_numpy())
            if gain.value > 0:
                size = "closest" if math.isinf(budget) else f"{part['norm'].iloc[0]} {budget:g}"
                found.append(_sentence(f"{name} at {size}", estimate(after), estimate(clean), gain))
    return found


def _right(rows: pd.DataFrame) -> pd.Series[float]:
    """Whether each image is answered as its label, 0 or 1 by index."""
    return pd.Series((rows["predicted"] == rows["label"]).to_numpy(np.float64), index=rows["index"].to_numpy())


def _sentence(where: str, after: Estimate, before: Estimate, gain: Estimate) -> str:
    verdict = ("no more than chance can do" if gain.value < _CHANCE * gain.error else
               "its perturbations may tell the label (label leaking): do not take its robust accuracy for robustness, and "
               "train or test with an attack of several steps (docs/messages.md, \"Label leaking\")")
    return (f"{where} leaves {percent(after)} % of {gain.images} images right, above {percent(before)} % of the same images when "
            f"clean (paired difference {difference(gain.value, gain.error)} points): {verdict}.")
