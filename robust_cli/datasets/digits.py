"""scikit-learn's scanned digits: real images that need no download, so that the whole job runs anywhere.

1797 images of 8x8 pixels with values 0..16 (Alpaydin and Kaynak 1998: the test part of the UCI set "Optical recognition of
handwritten digits"), enlarged to MNIST's 28x28.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from robust_cli.datasets.dataset import MNIST_BUDGETS, Dataset
from robust_cli.datasets.images import Images
from robust_cli.messages import check

TEST_IMAGES = 360
_SMALL, _LARGE, _WHITE = 8, 28, 16


@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """Digits, 1437 training and 360 test images (a fixed split with each class's share in both), uint8 [N, 1, 28, 28].

    Both parts are in a fixed shuffled order, so that their first N images are a random sample.
    """

    shape = (1, _LARGE, _LARGE)
    class_names = tuple("0123456789")
    budgets = MNIST_BUDGETS

    mean: list[float] = field(default_factory=lambda: [0.5])
    std: list[float] = field(default_factory=lambda: [1.0])

    def split(self, name: Literal["train", "test"]) -> Images:
        """The training or the test images; an image's index is its place in its part."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        check(name in ("train", "test"), "split", "train or test", name)
        scans, labels = load_digits(return_X_y=True)
        parts = train_test_split(np.arange(len(scans)), test_size=TEST_IMAGES, stratify=labels, random_state=0)
        chosen = parts[0 if name == "train" else 1]
        pixels = enlarge(scans[chosen].reshape(-1, _SMALL, _SMALL))
        return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels[chosen]).long(), torch.arange(len(chosen)),
                      self.class_names)


def enlarge(scans: np.ndarray) -> np.ndarray:
    """[N, 8, 8] values 0..16 to uint8 [N, 28, 28]: bilinear, corner pixels on corner pixels, 16 becoming 255.

    In integers, rounded once (halves up), so that the bytes are the same on every machine.
    """
    steps = _LARGE - 1
    weights = np.zeros((_LARGE, _SMALL), dtype=np.int64)  # each row sums to `steps`
    for row in range(_LARGE):
        below, part = divmod(row * (_SMALL - 1), steps)
        weights[row, below] += steps - part
        if part:
            weights[row, below + 1] += part
    sums = weights @ scans.astype(np.int64) @ weights.T  # 0 .. 16 steps^2
    whole = _WHITE * steps**2
    return ((2 * 255 * sums + whole) // (2 * whole)).astype(np.uint8)
