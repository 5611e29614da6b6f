"""Random crops and flips of training batches, as usual for CIFAR (He et al. 2016)."""

from __future__ import annotations

import torch
from torch.nn import functional

PADDING = 4


def crop_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image zero-padded by 4 pixels, cropped at random to its size, and mirrored left to right with probability 1/2.

    images: [n, C, H, W] on the generator's device; so is the result, of the same type. The 81 crops are equally likely.
    """
    count, channels, height, width = images.shape
    device = images.device
    corners = torch.randint(0, 2 * PADDING + 1, (count, 2), generator=generator, device=device)
    mirrored = torch.randint(0, 2, (count, 1), generator=generator, device=device).bool()
    columns = torch.arange(width, device=device)
    columns = torch.where(mirrored, columns.flip(0), columns) + corners[:, 1:]
    rows = torch.arange(height, device=device) + corners[:, :1]
    padded = functional.pad(images, (PADDING,) * 4)
    image = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
