"""What the tests of measures are given: a `Material` made by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.datasets.images import Images
from robust_cli.measures.measure import Material


def labelled(pixels: torch.Tensor, labels: torch.Tensor | None = None, classes: int = 2, first: int = 0) -> Images:
    """Images with labels (0 where none are given), of a data set where they stand from ``first`` on."""
    labels = torch.zeros(len(pixels), dtype=torch.int64) if labels is None else labels
    return Images(pixels, labels, torch.arange(first, first + len(pixels)), tuple(map(str, range(classes))))


def nothing_stored(name: str, budget: float) -> np.ndarray:
    raise AssertionError("this measure needs no adversarial images")


def material(classifier: Classifier, images: Images, attacks: Mapping[str, list[tuple[float, Any]]] | None = None,
             outcomes: pd.DataFrame | None = None, adversarial: Callable[[str, float], np.ndarray] = nothing_stored,
             batch_size: int = 64, seed: int = 0) -> Material:
    def training_images() -> Images:
        raise AssertionError("this measure needs no training images")

    return Material(classifier, images, attacks or {}, pd.DataFrame() if outcomes is None else outcomes, adversarial,
                    training_images, seed, batch_size, torch.device("cpu"))
