"""How long the gradients are that attacks climb along, from one gradient to the next.

Symbols (SO) -> words: L -> loss; x_(i) -> the point where the attack asks; (1/N) sum ||grad L(x_(i))||_2 -> mean_norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from robust_cli.attacks.classifiers import (
    BaseClassifier,
    Classifier,
    Copies,
    LossAt,
    Network,
    NoisyGradients,
    SmoothedClassifier,
)
from robust_cli.attacks.losses import LOSSES
from robust_cli.datasets.images import Images
from robust_cli.evaluation.storage import CLEAN
from robust_cli.measures.means import mean_and_error
from robust_cli.measures.measure import Material
from robust_cli.messages import check
from robust_cli.runs.console import track
from robust_cli.smoothing.noise import ImageDraws

COLUMNS = ("attack", "budget", "loss", "iteration", "mean_norm", "error", "zeros", "images")


class RecordingNetwork(Network):
    """A network that keeps the l2 length of every gradient it gives: one entry a call, float64 [images of that call]."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.model, network.precision, network.place)
        self.calls: list[torch.Tensor] = []

    def gradient(self, images: torch.Tensor, loss_at: LossAt,
                 copies_of: Copies | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `Network`; what is given is the same."""
        found = super().gradient(images, loss_at, copies_of)
        self.calls.append(torch.linalg.vector_norm(found[0].double().flatten(1), dim=1).cpu())
        return found


class Onward(BaseClassifier):
    """A base classifier whose lead calls no image fooled, so that none leaves an attack before its last restart."""

    def lead(self, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """See `BaseClassifier`; never above 0."""
        return super().lead(images, labels, draws).clamp_max(0)


def recording(classifier: Classifier) -> tuple[Classifier, RecordingNetwork]:
    """The same classifier, but that no image counts as fooled, and the network that records its gradients.

    Of two objectives (`both`) it is the first. Where noise has a say nobody is fooled for certain anyway.
    """
    view = classifier.views()[0]
    network = RecordingNetwork(view.network)
    if isinstance(view, SmoothedClassifier):
        return view.like(view.objective, network), network
    if isinstance(view, NoisyGradients):
        return NoisyGradients(network, view.noise_std, view.draws), network
    assert isinstance(view, BaseClassifier), f"no gradients of a {type(view).__name__} are recorded"
    return Onward(network, stops=False), network


@dataclass(frozen=True)
class GradientNorms:
    """The mean l2 length of the gradient of the loss at each gradient that an attack takes, over the first ``images`` images.

    Source: SO (Li et al. 2018), Fig. 2 left. Iterations count gradients from 0, through restarts and targets; all images take
    part in each of them, those that are wrong when clean or fooled on the way too, so the attack is run again here, from the
    draws of its evaluation. An attack that begins at the image has the image's own gradient at 0. The point is where the attack
    asks: second_order (single) asks at its probe beside the iterate, and its averaged form, like any attack on a smoothed
    classifier, for the mean of gradients under noise, whose length is not the mean of their lengths. The loss is the one the
    attack raises, its setting ``loss``; a targeted attack's is toward its target. Attacks without that setting take no gradients
    of a loss and have no rows, and neither have closest-example attacks, which lower another quantity at points of their own.

    Short gradients say that a first-order attack has little to climb along, or, where many are zero, that a loss is saturated.
    """

    images: int = 100

    def __post_init__(self) -> None:
        check(self.images >= 1, "images", "a whole number >= 1", self.images)

    def __call__(self, material: Material) -> pd.DataFrame:
        """A row an attack, budget and iteration: loss (its name), mean_norm with its standard error, zeros (the share of images
        whose gradient is exactly zero), images. First that of cross entropy at the clean images: attack ``none``, budget 0."""
        chosen = material.images.select(torch.arange(min(self.images, len(material.images))), f"first:{self.images}")
        plan = [(name, budget, attack) for name, swept in material.attacks.items() for budget, attack in swept
                if hasattr(attack, "loss") and not math.isinf(budget)]
        rows = self._rows(CLEAN, 0.0, "cross_entropy", _norms(material, chosen, CLEAN, 0.0, _look))
        with track(len(plan) * len(chosen), "gradient norms", "images") as progress:
            for name, budget, attack in plan:
                found = _norms(material, chosen, name, budget, attack)
                rows += self._rows(name, budget, str(attack.loss), found)
                progress.advance(len(chosen), name)
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _rows(self, name: str, budget: float, loss: str, norms: dict[int, np.ndarray]) -> list[list[Any]]:
        rows = []
        for iteration, found in norms.items():
            mean, error = mean_and_error(found)
            rows.append([name, budget, loss, iteration, float(mean), float(error), float((found == 0).mean()), len(found)])
        return rows


def _look(classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> None:
    """An attack that takes one gradient of cross entropy at the images and stays there."""
    classifier.gradient(images, labels, LOSSES["cross_entropy"], draws)


def _norms(material: Material, images: Images, name: str, budget: float, attack: Any) -> dict[int, np.ndarray]:
    """The gradients' lengths, [N] for each iteration in which every image took part."""
    batches = []
    for positions in torch.arange(len(images)).split(material.batch_size):
        batch = images.select(positions, images.subset)
        classifier, network = recording(material.classifier)
        draws = ImageDraws(material.device, material.seed, f"attack/{name}/{budget!r}", batch.indices.tolist())
        attack(classifier, batch.float().to(material.device), batch.labels.to(material.device), draws)
        batches.append({k: norms.numpy() for k, norms in enumerate(network.calls) if len(norms) == len(batch)})
    shared = set.intersection(*(set(batch) for batch in batches))
    return {k: np.concatenate([batch[k] for batch in batches]) for k in sorted(shared)}
