"""Training on noisy images with their true labels: fresh noise in each step, or fixed noisy copies.

Symbols -> words: sigma -> noise_std; x' = x + N(0, sigma^2 I) -> the noisy images; N (AMR, N-fold augmentation) -> folds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from robust_cli.messages import check
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.noise import fixed_noise, mixed_loss, noisy

PER_EPOCH = ("all", "one")


@dataclass(frozen=True)
class NoiseAugmentation:
    """L = (1 - clean_weight) CE(f(x'), y) + clean_weight CE(f(x), y), x' = x + N(0, noise_std^2 I), fresh and unclipped.

    Source: Gaussian augmentation, as the baseline of STN (Li et al. 2019) and of AMR. With clean_weight = 1/2 it is what
    the published code of STN trained until March 2020, (CE(clean, y) + CE(noisy, y)) / 2, in place of its paper's
    stability loss. Both parts go through the model in one pass (see `Stability`). With ``noise_warmup`` the noise grows linearly
    from 0 to noise_std over that share of the steps.

    With ``folds`` N the training set is, once and for all, each image and N - 1 noisy copies of it, whose noise depends on the
    seed, the image's index and the copy alone, and L is the cross entropy of what a step is shown of them. Source: AMR (ICLR 2020
    submission), N in {2, 6, 11, 21}: N counts the clean image too, 20-fold noise is N = 21. ``per_epoch``: ``all`` copies, as
    there, so that an epoch has N times the steps; or ``one``, image i in epoch e as copy (i + e) mod N: the same number of steps
    as without augmentation. (The authors' code adds this noise after standardising CIFAR's images, where it is a quarter of its
    name; here noise_std is in pixel units.)
    """

    noise_std: float = 0.5
    clean_weight: float = 0.0
    noise_warmup: float = 0.0
    folds: int | None = None
    per_epoch: str = "all"

    def __post_init__(self) -> None:
        check(0 <= self.noise_std < math.inf, "noise_std", "a number >= 0", self.noise_std)
        check(0 <= self.clean_weight < 1, "clean_weight", "a number in [0, 1)", self.clean_weight)
        check(0 <= self.noise_warmup <= 1, "noise_warmup", "a share of the steps in [0, 1]", self.noise_warmup)
        check(self.folds is None or self.folds >= 2, "folds", "a whole number >= 2, or null", self.folds)
        check(self.per_epoch in PER_EPOCH, "per_epoch", " or ".join(PER_EPOCH), self.per_epoch)
        if self.folds is not None:
            check(self.clean_weight == 0, "clean_weight", "0 with folds, one of which is clean", self.clean_weight)
            check(self.noise_warmup == 0, "noise_warmup", "0 with folds, whose noise is fixed", self.noise_warmup)

    @property
    def copies_an_epoch(self) -> int:
        """See `batch.Copying`."""
        return self.folds if self.folds is not None and self.per_epoch == "all" else 1

    def loss(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: cross_entropy_noisy and, where it has a weight, cross_entropy (of the clean images)."""
        if self.folds is not None:
            return self._of_copies(model, batch, progress, self.folds)
        images = noisy(batch.images, self.noise_std * progress.risen(self.noise_warmup), progress)
        return mixed_loss(model, batch, images, self.clean_weight)

    def _of_copies(self, model: torch.nn.Module, batch: Batch, progress: Progress, folds: int) -> Losses:
        """Copy 0 is the clean image. On validation images, which are shown once, copies go by index as in epoch 0."""
        copies = (batch.indices + progress.epoch) % folds if batch.copies is None else batch.copies
        images = batch.images + self.noise_std * fixed_noise(batch.images, batch.indices, copies, progress.seed)
        loss = torch.nn.functional.cross_entropy(model(images).float(), batch.labels)
        return Losses(loss, {"cross_entropy_copies": loss})
