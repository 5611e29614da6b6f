"""What a measure is given of an attacked model, and what it answers with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.datasets.images import Images


@dataclass(frozen=True)
class Material:
    """A model that has been attacked: itself, the images, the attacks and what came of them.

    classifier: as attacked, base or smoothed. images: the subset attacked. attacks: by name, (budget, the attack with that
    budget); a closest-example attack once, with budget infinity. outcomes: the rows of outcomes.csv. adversarial(name, budget):
    the stored final images, float32 [N, C, H, W], in the order of ``images``. training_images(): the data set's training split.
    """

    classifier: Classifier
    images: Images
    attacks: Mapping[str, list[tuple[float, Any]]]
    outcomes: pd.DataFrame
    adversarial: Callable[[str, float], np.ndarray]
    training_images: Callable[[], Images]
    seed: int
    batch_size: int
    device: torch.device


class Measure(Protocol):
    """Something measured on a model and its adversarial images: a frozen dataclass whose fields are its settings."""

    def __call__(self, material: Material) -> pd.DataFrame:
        """Rows for <run>/<name>.csv, one kind of row with named columns; none where there is nothing to measure. Randomness comes
        from keyed streams alone, and no result depends on the batch size."""
