from __future__ import annotations

import torch

from robust_cli.datasets.augmentation import crop_flip

COUNT, HEIGHT, WIDTH = 3000, 6, 7


def batch() -> torch.Tensor:
    """Images without a zero, in which no value occurs twice."""
    values = torch.rand(COUNT, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    return values / 2 + torch.linspace(0.1, 0.5, WIDTH)


def crops(images: torch.Tensor) -> torch.Tensor:
    """All 9 x 9 x 2 possible outcomes of each image, built by slicing: [162, n, C, H, W]."""
    padded = torch.zeros(COUNT, 2, HEIGHT + 8, WIDTH + 8)
    padded[:, :, 4:-4, 4:-4] = images
    straight = [padded[:, :, top:top + HEIGHT, left:left + WIDTH] for top in range(9) for left in range(9)]
    return torch.stack(straight + [crop.flip(-1) for crop in straight])


def test_each_image_is_one_of_its_crops_and_all_are_equally_likely() -> None:
    images = batch()
    changed = crop_flip(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    matches = (crops(images) == changed).flatten(2).all(dim=2)  # [162, n]
    assert torch.all(matches.sum(dim=0) == 1)
    counts = matches.sum(dim=1).double()
    flipped = counts[81:].sum() / COUNT
    assert abs(flipped - 0.5) < 4 * (0.25 / COUNT) ** 0.5
    chi_square = ((counts - COUNT / 162) ** 2 / (COUNT / 162)).sum()
    assert abs(chi_square - 161) < 4 * (2 * 161) ** 0.5  # mean and standard deviation with 161 degrees of freedom


def test_the_generator_alone_decides() -> None:
    images = batch()
    torch.manual_seed(1)
    first = crop_flip(images, torch.Generator().manual_seed(0))
    torch.manual_seed(2)
    assert torch.equal(first, crop_flip(images, torch.Generator().manual_seed(0)))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(first, crop_flip(images, generator))
    assert not torch.equal(first, crop_flip(images, generator))


def test_the_input_is_not_changed() -> None:
    images = batch()
    crop_flip(images, torch.Generator().manual_seed(0))
    assert torch.equal(images, batch())
