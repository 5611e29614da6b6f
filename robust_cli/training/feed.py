"""The batches of an epoch: images that stay on the device, in an order and with an augmentation keyed by the seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from robust_cli.datasets.augmentation import crop_flip
from robust_cli.datasets.images import Images
from robust_cli.messages import check
from robust_cli.regimes.batch import Batch, Copying, Phased, Regime
from robust_cli.runs.streams import stream
from robust_cli.smoothing.noise import keyed_generator
from robust_cli.training.settings import Training

Augmentation = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
AUGMENTATIONS: dict[str, Augmentation | None] = {"none": None, "crop_flip": crop_flip}


def layout(settings: Training) -> torch.memory_format:
    """The memory layout of images and convolutions."""
    return torch.channels_last if settings.channels_last else torch.contiguous_format


def copies_of(regime: Regime) -> int:
    """How often an epoch shows a regime each image."""
    return regime.copies_an_epoch if isinstance(regime, Copying) else 1


def phases_of(regime: Regime) -> int:
    """In how many parts a regime's training falls."""
    return regime.phases if isinstance(regime, Phased) else 1


class Feed:
    """Batches of ``settings.batch_size`` training images; the last of an epoch may be smaller, or left out (drop_last).

    With ``copies`` > 1 an epoch passes so often over the images, all copies shuffled together.
    """

    def __init__(self, images: Images, settings: Training, seed: int, device: torch.device, augment: str,
                 copies: int = 1) -> None:
        """Raises Wrong on an unknown augmentation, or when drop_last would leave no batch."""
        check(augment in AUGMENTATIONS, "augment", " or ".join(AUGMENTATIONS), augment)
        rows = copies * len(images)
        check(rows >= (settings.batch_size if settings.drop_last else 1), "batch_size",
              f"at most the number of training images ({rows}) with drop_last", settings.batch_size)
        self.images, self.seed, self.device = images.to(device), seed, device
        self._size, self._layout, self._augment = settings.batch_size, layout(settings), AUGMENTATIONS[augment]
        self._copies = copies
        whole, rest = divmod(rows, self._size)
        self.steps = whole + (rest > 0 and not settings.drop_last)
        self.count = min(rows, self.steps * self._size)  # images of an epoch

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch (from 0), or those from ``first`` on: each copy at most once, in the order of (seed, "order",
        epoch)."""
        order = torch.from_numpy(stream(self.seed, "order", epoch).permutation(self._copies * len(self.images))).to(self.device)
        for k, rows in list(enumerate(order[: self.count].split(self._size)))[first:]:
            positions, copies = rows % len(self.images), rows // len(self.images)
            images = self.images.float(positions)
            if self._augment is not None:
                step = epoch * self.steps + k
                images = self._augment(images, keyed_generator(self.device, self.seed, "augment", step))
            yield Batch(images.contiguous(memory_format=self._layout), self.images.labels[positions],
                        self.images.indices[positions], copies if self._copies > 1 else None)
