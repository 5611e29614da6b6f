from __future__ import annotations

import pytest
import torch

from robust_cli.messages import UserError, Wrong
from robust_cli.models.normalisation import Normalisation

MEAN, STD = [0.25, 0.5, 0.75], [0.5, 0.25, 2.0]
IMAGES = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))


def test_mean_becomes_0_and_one_std_more_becomes_1_in_each_channel() -> None:
    mean, std = (torch.tensor(v)[None, :, None, None].expand(2, 3, 4, 4) for v in (MEAN, STD))
    layer = Normalisation(MEAN, STD)
    assert torch.equal(layer(mean), torch.zeros(2, 3, 4, 4))
    assert torch.equal(layer(mean + std), torch.ones(2, 3, 4, 4))


def test_a_change_of_scale_and_origin_cancels() -> None:
    scaled = Normalisation([4 * m + 1 for m in MEAN], [4 * s for s in STD])
    assert torch.allclose(scaled(4 * IMAGES + 1), Normalisation(MEAN, STD)(IMAGES), atol=1e-6)


def test_a_distance_is_divided_by_the_std_of_its_channel() -> None:
    moved = IMAGES.clone()
    moved[:, 1, 2, 3] += 0.125
    change = Normalisation(MEAN, STD)(moved) - Normalisation(MEAN, STD)(IMAGES)
    assert torch.allclose(change[:, 1, 2, 3], torch.tensor(0.5), atol=1e-6)
    assert torch.count_nonzero(change) == len(IMAGES)


def test_it_has_nothing_to_train_but_is_saved() -> None:
    layer = Normalisation(MEAN, STD)
    assert list(layer.parameters()) == []
    assert set(layer.state_dict()) == {"mean", "std"}


@pytest.mark.parametrize(("mean", "std"), [
    ([0.5], [0.0]), ([0.5], [-1.0]), ([0.5], [float("nan")]), ([0.5], [1.0, 1.0]), ([], []),
])
def test_settings_out_of_range_are_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(Wrong, match=r"^(mean|std): "):
        Normalisation(mean, std)


def test_images_with_other_channels_are_not_stretched_to_fit() -> None:
    with pytest.raises(UserError, match=r"expected images with 1 channel\(s\)"):
        Normalisation([0.5], [1.0])(IMAGES)
    with pytest.raises(UserError, match=r"expected images with 3 channel\(s\)"):
        Normalisation(MEAN, STD)(IMAGES[:, :1])
