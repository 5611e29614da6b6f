from __future__ import annotations

import pytest
import torch

from robust_cli.datasets.images import Images
from robust_cli.messages import UserError


def images(pixels: torch.Tensor) -> Images:
    return Images(pixels, torch.arange(len(pixels)), torch.arange(len(pixels)), ("a", "b"))


def test_bytes_become_values_from_0_to_1() -> None:
    every = images(torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8))
    assert every.float().dtype == torch.float32
    assert float(every.float().min()) == 0
    assert float(every.float().max()) == 1
    assert torch.equal((every.float() * 255).round().byte(), every.pixels)
    assert torch.equal(every.float(torch.tensor([2])), every.float()[2:3])


@pytest.mark.parametrize("value", [-0.001, 1.001, 255.0, float("nan")])
def test_values_outside_0_to_1_are_refused(value: float) -> None:
    with pytest.raises(UserError, match=r"expected values in \[0, 1\]"):
        images(torch.tensor([0.0, 1.0, value]).reshape(3, 1, 1, 1))


def test_shapes_that_do_not_agree_are_refused() -> None:
    with pytest.raises(UserError, match="with N labels and indices"):
        Images(torch.zeros(2, 1, 2, 2), torch.zeros(3), torch.zeros(2), ("a",))


def test_a_selection_keeps_labels_and_indices() -> None:
    some = images(torch.rand(5, 1, 2, 2)).select(torch.tensor([4, 1]), "mine")
    assert some.labels.tolist() == some.indices.tolist() == [4, 1]
    assert some.subset == "mine"


def test_the_checksum_sees_every_bit_and_the_order() -> None:
    one = images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    changed = one.pixels.clone()
    changed[2, 0, 1, 1] = 1
    relabelled = Images(one.pixels, one.labels.flip(0), one.indices, one.class_names)
    assert len({one.checksum(), images(changed).checksum(), relabelled.checksum()}) == 3
    assert images(one.pixels.clone()).checksum() == one.checksum()


@pytest.mark.parametrize("indices", [[0, 0], [3, -1]])
def test_indices_key_the_noise_so_each_stands_once(indices: list[int]) -> None:
    with pytest.raises(UserError, match="an index >= 0 of its own"):
        Images(torch.zeros(2, 1, 2, 2), torch.zeros(2).long(), torch.tensor(indices), ("a", "b"))
