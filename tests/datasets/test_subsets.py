from __future__ import annotations

import pytest
import torch

from robust_cli.datasets.images import Images
from robust_cli.datasets.subsets import choose
from robust_cli.messages import Wrong


def images(count: int) -> Images:
    """Images whose pixel, label and index (100 more) say their position."""
    numbers = torch.arange(count)
    return Images(numbers.byte().reshape(-1, 1, 1, 1), numbers, numbers + 100, ("a",))


@pytest.mark.parametrize(("spec", "expected"), [
    ("all", list(range(23))),
    ("first:1", [0]),
    ("first:23", list(range(23))),
    ("every:5", [0, 5, 10, 15, 20]),
    ("every:1", list(range(23))),
    ("every:23", [0]),
    ("random:23", list(range(23))),
])
def test_specs_choose_these_positions(spec: str, expected: list[int]) -> None:
    chosen = choose(images(23), spec, seed=0)
    assert chosen.labels.tolist() == chosen.pixels.flatten().tolist() == expected
    assert chosen.indices.tolist() == [100 + position for position in expected]
    assert chosen.subset == spec


def test_a_random_subset_is_sorted_without_repeats_and_by_the_seed_alone() -> None:
    samples = [choose(images(200), "random:50", seed).labels.tolist() for seed in (0, 1, 0, 2**32)]
    assert all(sample == sorted(set(sample)) and len(sample) == 50 for sample in samples)
    assert samples[0] == samples[2]
    assert samples[0] != samples[1]
    assert samples[0] != samples[3]


def test_every_image_is_equally_likely() -> None:
    counts = torch.zeros(20)
    for seed in range(2000):
        counts[choose(images(20), "random:5", seed).labels] += 1
    standard_error = (2000 * 0.25 * 0.75) ** 0.5
    assert torch.all((counts - 500).abs() < 4 * standard_error)


@pytest.mark.parametrize("spec", [
    "", "ALL", "first", "first:", "first:0", "first:-1", "first:1.5", "every:0", "random:x", "last:5", "first:5 ", "first:05",
    "random:5:1", "first:24", "every:24", "random:24", "first:" + 30 * "9",
])
def test_other_specs_are_refused(spec: str) -> None:
    with pytest.raises(Wrong) as caught:
        choose(images(23), spec, seed=0)
    assert caught.value.name == "subset"
    assert caught.value.found == spec
