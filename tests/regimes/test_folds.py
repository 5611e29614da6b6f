"""Fixed noisy copies: the same noise for an (image, copy) in every epoch, batch and run, each shown as often as promised."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from robust_cli.datasets.images import Images
from robust_cli.messages import Wrong
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.noise import fixed_noise
from robust_cli.regimes.noise_augmentation import NoiseAugmentation
from robust_cli.runs.folder import RunFolder
from robust_cli.training.feed import Feed, copies_of
from robust_cli.training.loop import fit
from robust_cli.training.settings import Precision, Training

CPU = torch.device("cpu")


def flat_images(n: int, side: int = 8) -> Images:
    """Image k has the value k / n in every pixel, so that what a model is shown tells which image it is, up to the noise."""
    pixels = (torch.arange(n).float() / n).view(n, 1, 1, 1).expand(n, 1, side, side).contiguous()
    return Images(pixels, torch.arange(n) % 3, 1000 + 7 * torch.arange(n), ("a", "b", "c"))


def noise(indices: list[int], copies: list[int], seed: int = 0, side: int = 32) -> torch.Tensor:
    return fixed_noise(torch.zeros(len(indices), 3, side, side), torch.tensor(indices), torch.tensor(copies), seed)


class Spy(nn.Module):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images.detach())
        return self.weight.expand(len(images), 3)


def shown(regime: NoiseAugmentation, epoch: int, images: Images, seed: int = 5,
          size: int = 16) -> dict[tuple[int, int], torch.Tensor]:
    """An epoch of the feed through the regime: what the model is shown, by the image's index and how often it came before."""
    feed, spy, times = Feed(images, Training(batch_size=size), seed, CPU, "none", copies_of(regime)), Spy(), Counter[int]()
    found: dict[tuple[int, int], torch.Tensor] = {}
    for k, batch in enumerate(feed.batches(epoch)):
        regime.loss(spy, batch, Progress(epoch * feed.steps + k, epoch, 100, seed))
        for index, image in zip(batch.indices.tolist(), spy.seen[-1], strict=True):
            found[index, times[index]] = image
            times[index] += 1
    return found


def by_content(found: dict[tuple[int, int], torch.Tensor]) -> dict[int, list[bytes]]:
    """For each index, the images shown, sorted by their bytes."""
    content: dict[int, list[bytes]] = {}
    for (index, _), image in found.items():
        content.setdefault(index, []).append(image.contiguous().numpy().tobytes())
    return {index: sorted(parts) for index, parts in content.items()}


def test_noise_is_by_seed_index_and_copy_alone() -> None:
    """Not by the batch's other images, its order or its layout."""
    alone = noise([17], [2])
    among = noise([4, 17, 17, 9], [2, 1, 2, 0])
    assert torch.equal(among[2:3], alone)
    last = torch.zeros(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    assert torch.equal(fixed_noise(last, torch.tensor([9, 17, 4, 17]), torch.tensor([0, 2, 2, 1]), 0)[1:2], alone)
    torch.manual_seed(3)
    assert torch.equal(noise([17], [2]), alone)


def test_copies_images_and_seeds_have_noise_of_their_own() -> None:
    """Uncorrelated, also where keys agree in their low bits or are exchanged."""
    keys = [(17, 2, 0), (17, 1, 0), (17, 3, 0), (2, 17, 0), (16, 2, 0), (17 + 2**32, 2, 0), (17, 2, 1), (17, 2, 2**32)]
    found = torch.stack([noise([index], [copy], seed)[0].flatten().double() for index, copy, seed in keys])
    n = found.shape[1]
    products = found @ found.T / n
    assert (products - torch.eye(len(keys))).abs().max() < 6 * math.sqrt(2 / n)


def test_noise_is_standard_normal_and_copy_0_has_none() -> None:
    values = noise(list(range(40)), [1 + k % 20 for k in range(40)]).double()
    n = values.numel()
    assert abs(values.mean()) < 5 / math.sqrt(n)
    assert abs(values.square().mean() - 1) < 5 * math.sqrt(2 / n)
    assert abs(values.pow(4).mean() - 3) < 5 * math.sqrt(96 / n)  # the fourth moment tells it from a uniform one
    assert abs((values[:, :, 1:] * values[:, :, :-1]).mean()) < 5 / math.sqrt(n)
    assert torch.equal(noise([3, 5], [0, 0]), torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("folds", [2, 6])
def test_an_epoch_shows_each_copy_of_each_image_once(folds: int) -> None:
    """The same images in each epoch, in another order, whatever the batch size: one clean, the others noise_std away."""
    images, regime = flat_images(20, side=32), NoiseAugmentation(noise_std=0.3, folds=folds)
    assert regime.copies_an_epoch == folds
    first = shown(regime, 0, images)
    content = by_content(first)
    assert len(first) == folds * 20
    assert all(len(set(parts)) == folds for parts in content.values())
    assert content == by_content(shown(regime, 3, images)) == by_content(shown(regime, 1, images, size=7))
    assert list(first) != list(shown(regime, 3, images))
    assert by_content(shown(regime, 0, images, seed=6)) != content
    for index, clean in zip(images.indices.tolist(), images.pixels, strict=True):
        sizes = sorted(float((first[index, k] - clean).double().std()) for k in range(folds))
        assert torch.equal(min((first[index, k] for k in range(folds)), key=lambda x: float((x - clean).abs().sum())), clean)
        assert all(abs(size - 0.3) < 5 * 0.3 / math.sqrt(2 * clean.numel()) for size in sizes[1:])


def test_one_copy_an_epoch_shows_all_of_them_in_turn() -> None:
    """Over N epochs each (image, copy) once, from N on the same again; an epoch is as long as without copies."""
    images, regime = flat_images(20), NoiseAugmentation(noise_std=0.3, folds=6, per_epoch="one")
    assert regime.copies_an_epoch == 1
    epochs = [shown(regime, epoch, images) for epoch in range(12)]
    assert all(len(epoch) == 20 for epoch in epochs)
    together = {(index, e): image for e, epoch in enumerate(epochs[:6]) for (index, _), image in epoch.items()}
    assert by_content(together) == by_content(shown(NoiseAugmentation(noise_std=0.3, folds=6), 0, images))
    for early, late in zip(epochs[:6], epochs[6:], strict=True):
        assert by_content(early) == by_content(late)
    clean = [sum(torch.equal(epoch[index, 0], image) for index, image in zip(images.indices.tolist(), images.pixels, strict=True))
             for epoch in epochs[:6]]
    assert sum(clean) == 20
    assert max(clean) < 20  # not all images are clean in the same epoch


def test_a_feed_of_copies_says_which_each_row_is() -> None:
    images = flat_images(11)
    batches = list(Feed(images, Training(batch_size=8), 0, CPU, "none", copies=3).batches(2))
    assert [len(batch.labels) for batch in batches] == [8, 8, 8, 8, 1]
    pairs = [pair for b in batches for pair in zip(b.indices.tolist(), b.copies.tolist(), strict=True)]  # type: ignore[union-attr]
    assert sorted(pairs) == sorted((index, copy) for index in images.indices.tolist() for copy in range(3))
    assert len({copy for _, copy in pairs[:8]}) == 3  # shuffled together
    whole = Feed(images, Training(batch_size=8, drop_last=True), 0, CPU, "none", copies=3)
    assert (whole.steps, whole.count) == (4, 32)
    for batch in batches:
        assert torch.equal(batch.images[:, 0, 0, 0], (batch.indices - 1000) / 7 / 11)
        assert torch.equal(batch.labels, (batch.indices - 1000) // 7 % 3)
    assert next(iter(Feed(images, Training(batch_size=8), 0, CPU, "none").batches(0))).copies is None


def test_fresh_noise_differs_between_epochs() -> None:
    images, regime = flat_images(6), NoiseAugmentation(noise_std=0.3)
    first, again = shown(regime, 0, images), shown(regime, 1, images)
    assert not any(torch.equal(first[key], again[key]) for key in first)
    assert by_content(first) == by_content(shown(regime, 0, images))


def test_the_loss_is_the_cross_entropy_of_what_is_shown() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    images, indices, copies = torch.rand(5, 1, 8, 8), torch.arange(5), torch.tensor([0, 1, 2, 0, 1])
    batch = Batch(images, indices % 3, indices, copies)
    found = NoiseAugmentation(noise_std=0.4, folds=3).loss(model, batch, Progress(9, 4, 50, 8))
    noisy = images + 0.4 * fixed_noise(images, indices, copies, 8)
    torch.testing.assert_close(found.total, functional.cross_entropy(model(noisy), indices % 3))
    assert found.terms == {"cross_entropy_copies": found.total}
    assert not torch.allclose(found.total, functional.cross_entropy(model(images), indices % 3), rtol=1e-3)


KILL_AT = 14  # in the middle of the second or the fifth epoch


class Killed(BaseException):
    """Stands for a kill."""


class Killing(NoiseAugmentation):
    def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
        if progress.step == KILL_AT and not progress.validating:
            raise Killed
        return super().loss(model, batch, progress)


def trained(regime: NoiseAugmentation, path: Path) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    data = Images(torch.randint(0, 256, (24, 1, 8, 8), generator=generator, dtype=torch.uint8), torch.arange(24) % 3,
                  torch.arange(24), ("a", "b", "c"))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 3))
    path.mkdir(exist_ok=True)
    fit(model, regime, data, data.select(torch.arange(6), "first:6"), Training(epochs=6, batch_size=8), seed=3, device=CPU,
        precision=Precision.fp32, augment="none", folder=RunFolder(path))
    return model


@pytest.mark.parametrize("per_epoch", ["all", "one"])
def test_a_killed_run_of_copies_ends_as_the_uninterrupted_one(per_epoch: str, tmp_path: Path) -> None:
    folds = {"all": 3, "one": 4}[per_epoch]
    regime = NoiseAugmentation(noise_std=0.5, folds=folds, per_epoch=per_epoch)
    expected = trained(regime, tmp_path / "whole").state_dict()
    with pytest.raises(Killed):
        trained(Killing(noise_std=0.5, folds=folds, per_epoch=per_epoch), tmp_path / "cut")
    assert all(torch.equal(value, expected[name]) for name, value in trained(regime, tmp_path / "cut").state_dict().items())
    fresh = trained(NoiseAugmentation(noise_std=0.5), tmp_path / "fresh").state_dict()
    assert not torch.equal(fresh["0.weight"], expected["0.weight"])


@pytest.mark.parametrize(("settings", "name"), [({"folds": 1}, "folds"), ({"per_epoch": "some"}, "per_epoch"),
                                                ({"folds": 2, "clean_weight": 0.5}, "clean_weight"),
                                                ({"folds": 2, "noise_warmup": 0.5}, "noise_warmup")])
def test_settings_that_do_not_go_together_are_named(settings: dict[str, object], name: str) -> None:
    with pytest.raises(Wrong) as caught:
        NoiseAugmentation(**settings)  # type: ignore[arg-type]
    assert caught.value.name == name
