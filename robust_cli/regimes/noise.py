"""The Gaussian noise that regimes train with: fresh at every step, the same again for the same (seed, step); or fixed."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from robust_cli.regimes.batch import Batch, Losses, Progress
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


def mixed_loss(model: torch.nn.Module, batch: Batch, images: torch.Tensor, clean_weight: float) -> Losses:
    """(1 - clean_weight) CE(f(x'), y) + clean_weight CE(f(x), y), x' the noisy ``images`` of the batch [n, C, H, W].

    Terms: cross_entropy_noisy and, where it has a weight, cross_entropy. Both go through the model in one pass (see `Stability`).
    """
    if clean_weight == 0:
        loss = cross_entropy(model(images).float(), batch.labels)
        return Losses(loss, {"cross_entropy_noisy": loss})
    clean_logits, noisy_logits = model(torch.cat([batch.images, images])).float().chunk(2)
    clean, augmented = cross_entropy(clean_logits, batch.labels), cross_entropy(noisy_logits, batch.labels)
    return Losses((1 - clean_weight) * augmented + clean_weight * clean,
                  {"cross_entropy_noisy": augmented, "cross_entropy": clean})
