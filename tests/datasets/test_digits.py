from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from robust_cli.datasets.digits import Digits, enlarge
from robust_cli.datasets.images import Images
from robust_cli.messages import Wrong


@pytest.fixture(scope="module")
def parts() -> tuple[Images, Images]:
    return Digits().split("train"), Digits().split("test")


def test_the_parts_are_a_partition_of_the_scans(parts: tuple[Images, Images]) -> None:
    scans, labels = load_digits(return_X_y=True)
    whole = enlarge(scans.reshape(-1, 8, 8))
    expected = Counter((image.tobytes(), int(label)) for image, label in zip(whole, labels, strict=True))
    found = Counter((image.numpy().tobytes(), int(label))
                    for part in parts for image, label in zip(part.pixels, part.labels, strict=True))
    assert found == expected
    assert [len(part) for part in parts] == [1437, 360]


def test_each_class_has_its_share_in_the_test_part(parts: tuple[Images, Images]) -> None:
    train, test = (torch.bincount(part.labels, minlength=10) for part in parts)
    shares = (train + test) * 360 / 1797
    assert torch.all((test - shares).abs() < 1)


def test_the_parts_never_change(parts: tuple[Images, Images]) -> None:
    assert [part.checksum()[:16] for part in parts] == ["35b974cae14768fb", "83ffe3e4137e7b50"]
    assert Digits().split("test").checksum() == parts[1].checksum()


def test_images_are_bytes_of_the_stated_shape(parts: tuple[Images, Images]) -> None:
    for part in parts:
        assert part.shape == Digits.shape == (1, 28, 28)
        assert part.pixels.dtype == torch.uint8
        assert int(part.pixels.max()) == 255
        assert int(part.pixels.min()) == 0
        assert part.class_names == tuple("0123456789")
        assert part.indices.tolist() == list(range(len(part)))


def test_corners_stay_corners() -> None:
    scans = np.random.default_rng(0).integers(0, 17, (50, 8, 8))
    corners = np.ix_(range(50), [0, -1], [0, -1])
    large = enlarge(scans)[corners]
    assert np.array_equal(large, np.floor(scans[corners] * 255 / 16 + 0.5))


def test_enlarging_is_bilinear_interpolation_to_the_nearest_byte() -> None:
    scans = np.random.default_rng(1).integers(0, 17, (200, 8, 8))
    exact = torch.nn.functional.interpolate(torch.from_numpy(scans / 16 * 255)[:, None], size=(28, 28), mode="bilinear",
                                            align_corners=True)[:, 0]
    error = (torch.from_numpy(enlarge(scans)) - exact).abs().max()
    assert 0.4 < float(error) <= 0.5 + 1e-9


def test_a_flat_scan_stays_flat_and_a_ramp_a_ramp() -> None:
    assert np.all(enlarge(np.full((1, 8, 8), 16)) == 255)
    ramp = enlarge(np.tile(2 * np.arange(8), (8, 1))[None])[0]
    assert np.array_equal(ramp, np.tile(np.floor(np.arange(28) * (14 / 27) * 255 / 16 + 0.5), (28, 1)))


def test_another_part_is_refused() -> None:
    with pytest.raises(Wrong, match="split: expected train or test, got 'validation'"):
        Digits().split("validation")  # type: ignore[arg-type]
