"""Softmax probabilities along the straight line from an image to its adversarial one, and beyond."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from robust_cli.attacks.classifiers import Classifier, SmoothedClassifier
from robust_cli.evaluation.storage import CLEAN
from robust_cli.measures.means import mean_and_error
from robust_cli.measures.measure import Material
from robust_cli.messages import check
from robust_cli.runs.console import track
from robust_cli.smoothing.noise import ImageDraws

COLUMNS = ("attack", "budget", "t", "index", "label", "predicted", "images", "probability_label", "probability_label_error",
           "probability_adversarial", "probability_adversarial_error")
MEAN = -1  # the index in the rows of means over images


@dataclass(frozen=True)
class SoftmaxPath:
    """softmax f(x + t (x' - x)) of the label's class and of the class that x' was taken for, t from 0 to ``extend``.

    Source: SGR (Roth et al. 2018), Fig. 6. Of the images that are right when clean and fooled at x' (by one class, no tie), the
    first ``images``: means over them, and the first ``singles`` of them one by one. Points beyond t = 1 are not clipped to
    [0, 1]. For a smoothed classifier it is the mean over ``draws`` noisy copies, with the same noise at every t, so that the
    lines are smooth; the class that its votes named need not lead that mean.
    """

    extend: float = 1.0
    points: int = 21
    images: int = 100
    singles: int = 3
    draws: int = 25

    def __post_init__(self) -> None:
        check(1 <= self.extend <= 2, "extend", "a number in [1, 2]", self.extend)
        check(self.points >= 2, "points", "a whole number >= 2", self.points)
        check(self.images >= 1, "images", "a whole number >= 1", self.images)
        check(self.singles >= 0, "singles", "a whole number >= 0", self.singles)
        check(self.draws >= 1, "draws", "a whole number >= 1", self.draws)

    def __call__(self, material: Material) -> pd.DataFrame:
        """A row an attack, budget, t and index: index -1 (with label and predicted -1) for the mean over ``images`` images with
        standard errors, else one image with its label and the class it was taken for. No rows where nothing was fooled."""
        fooled = {(name, budget): self._fooled(material, name, budget)
                  for name, swept in material.attacks.items() for budget, _ in swept}
        rows: list[list[Any]] = []
        with track(sum(map(len, fooled.values())), "softmax paths", "images") as progress:
            for (name, budget), chosen in fooled.items():
                if len(chosen):
                    rows += self._rows(name, budget, chosen, self._probabilities(material, name, budget, chosen))
                    progress.advance(len(chosen), name)
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _fooled(self, material: Material, name: str, budget: float) -> pd.DataFrame:
        """Rows of images right when clean and fooled here, in the order of the subset, with their ``position`` in it."""
        outcomes = material.outcomes
        clean = outcomes[(outcomes["attack"] == CLEAN) & (outcomes["predicted"] == outcomes["label"])]
        rows = outcomes[(outcomes["attack"] == name) & (outcomes["budget"] == budget)]
        rows = rows[rows["index"].isin(clean["index"]) & (rows["predicted"] != rows["label"]) & (rows["predicted"] >= 0)]
        places = pd.Index(material.images.indices.cpu().numpy()).get_indexer(pd.Index(rows["index"]))
        assert (places >= 0).all(), "every row is of an image of the subset"
        return rows.assign(position=places).sort_values("position").head(self.images)

    def _probabilities(self, material: Material, name: str, budget: float, chosen: pd.DataFrame) -> np.ndarray:
        """Probability of the label and of the adversarial class, float64 [2, points, n]."""
        stored, found = material.adversarial(name, budget), []
        classes = torch.tensor(chosen[["label", "predicted"]].to_numpy(np.int64).copy())
        for rows in torch.arange(len(chosen)).split(material.batch_size):
            positions = torch.tensor(chosen["position"].to_numpy(np.int64).copy())[rows]
            images = material.images.select(positions, material.images.subset)
            start = images.float().to(material.device)
            end = torch.from_numpy(np.array(stored[positions.numpy()])).to(material.device)
            draws = ImageDraws(material.device, material.seed, f"measure/softmax_path/{name}/{budget!r}", images.indices.tolist())
            path = self._path(material.classifier, start, end, draws)
            wanted = classes[rows].to(path.device).expand(self.points, -1, -1)
            found.append(path.gather(2, wanted).permute(2, 0, 1).cpu().numpy())
        return np.concatenate(found, axis=2)

    def _path(self, classifier: Classifier, start: torch.Tensor, end: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Probabilities of all classes at each point of the lines, float64 [points, n, K]."""
        copies = self.draws if classifier.random else 1
        total: torch.Tensor | float = 0.0
        for _ in range(copies):
            copies_of = self._copies(classifier, start, draws)
            total = total + torch.stack([classifier.network.of_copies(copies_of(torch.lerp(start, end, t))).double().softmax(1)
                                         for t in self.places])
        assert isinstance(total, torch.Tensor)
        return total / copies

    @staticmethod
    def _copies(classifier: Classifier, start: torch.Tensor, draws: ImageDraws) -> Callable[[torch.Tensor], torch.Tensor]:
        """Points as copies [n, 1, ...]: under one draw of a smoothed classifier's own noise for each image, else themselves."""
        if not isinstance(classifier, SmoothedClassifier):
            return lambda points: points[:, None]
        return classifier.copies(start, draws, 1)

    @property
    def places(self) -> list[float]:
        """The values of t."""
        return [float(t) for t in np.linspace(0, self.extend, self.points)]

    def _rows(self, name: str, budget: float, chosen: pd.DataFrame, found: np.ndarray) -> list[list[Any]]:
        means, errors = mean_and_error(found)
        rows: list[list[Any]] = [[name, budget, t, MEAN, MEAN, MEAN, len(chosen), means[0, k], errors[0, k], means[1, k],
                                  errors[1, k]] for k, t in enumerate(self.places)]
        for place, one in enumerate(chosen[["index", "label", "predicted"]].head(self.singles).to_numpy().tolist()):
            rows += [[name, budget, t, *one, 1, found[0, k, place], math.nan, found[1, k, place], math.nan]
                     for k, t in enumerate(self.places)]
        return rows
