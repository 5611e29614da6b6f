from __future__ import annotations

import pytest
import torch

from robust_cli.datasets.images import Images
from robust_cli.datasets.splits import train_validation
from robust_cli.messages import Wrong


def images(count: int) -> Images:
    return Images(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.zeros(count).long(), torch.arange(count), ("a",))


def test_without_a_share_all_images_are_trained_on() -> None:
    everything = images(10)
    assert train_validation(everything, 0.0, seed=0) == (everything, None)


@pytest.mark.parametrize(("count", "fraction", "held_out"), [
    (1000, 0.1, 100), (1437, 0.1, 144), (10, 0.001, 1), (10, 0.99, 9), (2, 0.5, 1),
])
def test_the_parts_share_no_image_and_miss_none(count: int, fraction: float, held_out: int) -> None:
    train, validation = train_validation(images(count), fraction, seed=3)
    assert validation is not None
    assert len(validation) == held_out
    assert sorted(train.indices.tolist() + validation.indices.tolist()) == list(range(count))
    assert validation.indices.tolist() == sorted(validation.indices.tolist())
    assert train.indices.tolist() == sorted(train.indices.tolist())


def test_the_seed_alone_decides() -> None:
    def held_out(seed: int) -> list[int]:
        part = train_validation(images(500), 0.1, seed)[1]
        assert part is not None
        return part.indices.tolist()

    assert held_out(0) == held_out(0)
    assert held_out(0) != held_out(1)
    assert held_out(0) != held_out(2**32)


def test_every_image_is_held_out_equally_often() -> None:
    counts = torch.zeros(20)
    for seed in range(2000):
        part = train_validation(images(20), 0.25, seed)[1]
        assert part is not None
        counts[part.indices] += 1
    assert torch.all((counts - 500).abs() < 4 * (2000 * 0.25 * 0.75) ** 0.5)


@pytest.mark.parametrize(("count", "fraction"), [(10, 1.0), (10, -0.1), (1, 0.5), (10, float("nan"))])
def test_impossible_shares_are_refused(count: int, fraction: float) -> None:
    with pytest.raises(Wrong, match="validation: "):
        train_validation(images(count), fraction, seed=0)
