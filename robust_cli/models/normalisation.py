"""Normalisation as a layer, so that images, noise, budgets and radii stay in pixel units."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from robust_cli.messages import UserError, check


class Normalisation(nn.Module):
    """(image - mean) / std for each channel, [n, C, H, W] to the same.

    mean, std: C numbers each, std > 0; float32 buffers, saved and fingerprinted with the weights. Raises Wrong on other
    settings, UserError on images with another number of channels.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        check(len(mean) > 0, "mean", "a number for each channel", list(mean))
        check(len(std) == len(mean), "std", f"{len(mean)} number(s), as many as mean has", list(std))
        check(min(std) > 0, "std", "numbers > 0", list(std))
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32)[:, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-3] != self.mean.shape[0]:
            raise UserError(f"normalisation: expected images with {self.mean.shape[0]} channel(s), as many as the numbers of "
                            f"dataset.mean, got {list(images.shape)}")
        return (images - self.mean) / self.std
