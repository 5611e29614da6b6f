"""What every data set has: how it is shown to a classifier, how it is split, and the attack sizes that fit it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from robust_cli.datasets.images import Images
from robust_cli.messages import Wrong, check

# The sizes that the STN authors' attack script sweeps (Li et al. 2019), in pixel units.
MNIST_BUDGETS = {"l2": tuple(0.5 * k for k in range(1, 9)), "linf": tuple(round(0.05 * k, 2) for k in range(1, 11))}
CIFAR_BUDGETS = {"l2": tuple(round(0.2 * k, 1) for k in range(1, 8)), "linf": tuple(2 * k / 255 for k in range(1, 11))}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The settings of any data set, checked.

    augment: ``none``, or ``crop_flip`` (zero-pad 4, random crop, horizontal flip) for training batches; validation: share of
    the training images held out, in [0, 1); mean, std: one number per channel, for the model's first layer (images
    themselves stay in [0, 1]). Raises Wrong on a setting out of range.
    """

    shape: ClassVar[tuple[int, int, int]]
    class_names: ClassVar[tuple[str, ...]]
    budgets: ClassVar[Mapping[str, tuple[float, ...]]]

    augment: str = "none"
    validation: float = 0.0
    mean: list[float]
    std: list[float]

    def __post_init__(self) -> None:
        check(self.augment in ("none", "crop_flip"), "augment", "none or crop_flip", self.augment)
        check(0 <= self.validation < 1, "validation", "a share of the training images in [0, 1)", self.validation)
        channels = self.shape[0]
        for name, values in (("mean", self.mean), ("std", self.std)):
            numbers = [isinstance(v, int | float) and math.isfinite(v) for v in values]
            check(all(numbers) and len(numbers) == channels, name, f"{channels} number(s), one per channel", values)
        check(min(self.std) > 0, "std", "numbers > 0", self.std)

    def default_budgets(self, norm: str) -> list[float]:
        """The attack sizes swept by default for ``l2`` or ``linf``, in pixel units, ascending. Raises Wrong for another norm."""
        if norm not in self.budgets:
            raise Wrong(f"budgets.{norm}", f"a list, since only {' and '.join(self.budgets)} have default budgets", None)
        return list(self.budgets[norm])

    def split(self, name: Literal["train", "test"]) -> Images:
        """The published training or test images, as bytes, in the data set's order. Raises UserError when not readable."""
        raise NotImplementedError
