"""Robustness to Gaussian noise (GNR): how often an answer stays the same under noise of growing size.

Symbols (AMR) -> words: sigma -> noise_std; psi -> the network's answer; n -> noise; R_D -> `all_agree`; m -> draws; h -> half a
step of the grid of sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.integrate import trapezoid

from robust_cli.attacks.classifiers import Network
from robust_cli.attacks.geometry import per_image, random_direction
from robust_cli.measures.means import mean_and_error
from robust_cli.measures.measure import Material
from robust_cli.messages import check
from robust_cli.runs.console import Track, track
from robust_cli.smoothing.noise import ImageDraws


@dataclass(frozen=True)
class NoiseRobustness:
    """Shares of images whose answer stays what it is without noise, under noise of each size, and the area under that curve.

    Source: AMR (ICLR 2020 submission), its measure GNR as its authors compute it. For each noise_std of linspace(0, largest,
    sizes) an image gets one Gaussian direction of l2 length s sqrt(pixels), s ~ U(noise_std - h, noise_std + h): the length that
    Gaussian noise of that std has nearly always, not its own varying one. The noisy image is not clipped. Agreement is with the
    clean answer, right or wrong, not with the label. GNR is the area under the agreement (trapezoids) over ``largest``, in
    percent. Without ``jitter`` s is noise_std itself. With it, noise of std 0 still has a length, that of |s| ~ U(0, h), so
    agreement may be below 1 there.

    ``draws`` m > 1 adds two forms of the same passes, where an image counts as a whole; GNR is of the first draw whatever m is.
    All agree (eq. 4, made 0 or 1 over m samples): only if all m draws keep the answer. Within the threshold (appendix C): unless
    more than the share ``threshold`` of the draws flip it; the paper names no threshold. With one draw all three are the same.

    Erratum: the paper's "noise variance sigma" is the standard deviation. Sizes here are in pixel units with images in [0, 1], h
    too, which the authors' code leaves unscaled on data sets that it standardises.

    Always of the network without noise of its own: for a smoothed classifier, of its base network.
    """

    largest: float = 0.5
    sizes: int = 30
    draws: int = 1
    threshold: float = 0.1
    jitter: bool = True

    def __post_init__(self) -> None:
        check(0 < self.largest < math.inf, "largest", "a number > 0", self.largest)
        check(self.sizes >= 2, "sizes", "a whole number >= 2", self.sizes)
        check(self.draws >= 1, "draws", "a whole number >= 1", self.draws)
        check(0 <= self.threshold < 1, "threshold", "a share in [0, 1)", self.threshold)

    @property
    def grid(self) -> np.ndarray:
        """The sizes of the noise, standard deviations in pixel units, float64 [sizes]."""
        return np.linspace(0, self.largest, self.sizes)

    def __call__(self, material: Material) -> pd.DataFrame:
        """A row a size: noise_std, images, draws, threshold; agreement and accuracy (against the label) of the first draw with
        their standard errors, all_agree, within_threshold, in [0, 1]; and the same in every row, in percent with their standard
        errors over the images: gnr, gnr_all, gnr_threshold."""
        total = len(material.images) * self.sizes * self.draws
        with track(total, "noise robustness", "noisy images") as progress:
            parts = [self._batch(material, positions, progress)
                     for positions in torch.arange(len(material.images)).split(material.batch_size)]
        kept = np.concatenate([part for part, _ in parts], axis=2)
        right = np.concatenate([part for _, part in parts], axis=1)
        return self._rows(kept, right)

    def _batch(self, material: Material, positions: torch.Tensor, progress: Track) -> tuple[np.ndarray, np.ndarray]:
        """Whether each answer stays, bool [draws, sizes, n], and whether it is right in the first draw, bool [sizes, n]."""
        chosen = material.images.select(positions, material.images.subset)
        images, labels = chosen.float().to(material.device), chosen.labels.cpu()
        streams = ImageDraws(material.device, material.seed, "measure/noise_robustness", chosen.indices.tolist())
        network = material.classifier.network
        clean, found = _answers(network, images), []
        for noisy in self._noisy(images, streams):
            found.append(_answers(network, noisy))
            progress.advance(len(images))
        answers = torch.stack(found).view(self.draws, self.sizes, -1)
        return ((answers == clean) & (answers >= 0)).numpy(), (answers[0] == labels).numpy()

    def _noisy(self, images: torch.Tensor, streams: ImageDraws) -> Iterator[torch.Tensor]:
        """Noisy copies, all sizes of the first draw before those of the next: a draw does not depend on how many follow."""
        half = self.largest / (self.sizes - 1) / 2 if self.jitter else 0.0
        for _ in range(self.draws):
            for noise_std in self.grid.tolist():
                direction = random_direction(images, streams)
                size = noise_std + half * (2 * streams.uniform(1).squeeze(1) - 1)
                yield images + per_image(size * math.sqrt(images[0].numel())) * direction

    def _rows(self, kept: np.ndarray, right: np.ndarray) -> pd.DataFrame:
        few_flips = (~kept).sum(0) <= self.threshold * self.draws + 1e-9
        forms = {"gnr": kept[0], "gnr_all": kept.all(0), "gnr_threshold": few_flips}
        agreement, agreement_error = mean_and_error(kept[0])
        accuracy, accuracy_error = mean_and_error(right)
        columns = {"noise_std": self.grid, "images": kept.shape[2], "draws": self.draws, "threshold": self.threshold,
                   "agreement": agreement, "agreement_error": agreement_error, "accuracy": accuracy,
                   "accuracy_error": accuracy_error, "all_agree": forms["gnr_all"].mean(1), "within_threshold": few_flips.mean(1)}
        for name, held in forms.items():
            area = 100 * trapezoid(held.astype(np.float64), self.grid, axis=0) / self.largest  # of each image
            columns[name], columns[f"{name}_error"] = map(float, mean_and_error(area))
        return pd.DataFrame(columns)


def _answers(network: Network, images: torch.Tensor) -> torch.Tensor:
    """The class of each image, int64 [n] on the CPU; -1 where the network's answer is not a number."""
    logits = network.logits(images)
    return torch.where(logits.isnan().any(1), -1, logits.argmax(1)).cpu()
