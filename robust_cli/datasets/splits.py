"""Holding out a validation part of the training images."""

from __future__ import annotations

import numpy as np
import torch

from robust_cli.datasets.images import Images
from robust_cli.messages import check
from robust_cli.runs.streams import stream


def train_validation(images: Images, fraction: float, seed: int) -> tuple[Images, Images | None]:
    """The training images without, and with only, a random ``fraction`` of them (to the nearest image, at least one each).

    Every set of that size is equally likely, by ``seed`` alone; both parts keep the images' order. ``fraction`` 0 (so that
    numbers compare with published ones): all images, None. AMR holds out 0.1. Raises Wrong unless 0 <= fraction < 1 and
    both parts have an image.
    """
    check(0 <= fraction < 1, "validation", "a share of the training images in [0, 1)", fraction)
    if fraction == 0:
        return images, None
    total = len(images)
    check(total >= 2, "validation", f"0 where there is nothing to hold out (of {total} image(s))", fraction)
    held_out = min(max(round(fraction * total), 1), total - 1)
    chosen = np.zeros(total, dtype=bool)
    chosen[stream(seed, "validation").choice(total, held_out, replace=False)] = True
    kept, validation = (torch.from_numpy(np.flatnonzero(part)) for part in (~chosen, chosen))
    return images.select(kept, images.subset), images.select(validation, f"{images.subset}/validation")
