"""The Gaussian noise that regimes train with: fresh at every step, the same again for the same (seed, step); or fixed."""

from __future__ import annotations

import torch

from robust_cli.regimes.batch import Progress
from robust_cli.smoothing.noise import keyed_generator, own_generator


def noisy(images: torch.Tensor, noise_std: float, progress: Progress) -> torch.Tensor:
    """images + N(0, noise_std^2 I), float32 of the images' shape; not clipped to [0, 1], as the smoothed classifier sees it."""
    generator = keyed_generator(images.device, progress.seed, "regime", progress.step)
    # torch.randn rather than normal_ on a channels-last tensor: on a CPU that one draws number by number.
    draws = torch.randn(images.shape, generator=generator, device=images.device)
    return torch.add(images, draws, alpha=noise_std)


def fixed_noise(images: torch.Tensor, indices: torch.Tensor, copies: torch.Tensor, seed: int) -> torch.Tensor:
    """Standard normal noise by (seed, an image's index, copy) alone, float32 of the images' shape; zero for copy 0."""
    found = torch.zeros_like(images, memory_format=torch.contiguous_format)
    for row, index, copy in zip(found, indices.tolist(), copies.tolist(), strict=True):
        if copy > 0:
            row.normal_(generator=own_generator(images.device, seed, "regime/fold", index, copy))
    return found
