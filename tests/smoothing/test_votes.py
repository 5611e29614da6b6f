"""Votes have the law that the noise gives them, and not one bit of them depends on how they were computed."""

from __future__ import annotations

import random

import pytest
import torch
from scipy.stats import norm
from torch import nn

from robust_cli.messages import UserError
from robust_cli.smoothing.noise import keyed_generator
from robust_cli.smoothing.votes import BLOCK, Block, NoisyVotes, blocks

SHAPE = (1, 6, 6)


def half_space(margin: float) -> nn.Module:
    """Class 1 where sum(x) / 6 > 3 - margin, so an image of 0.5 lies ``margin`` inside it."""
    linear = nn.Linear(36, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.stack([torch.zeros(36), torch.full((36,), 1 / 6)]))
        linear.bias.copy_(torch.tensor([0.0, margin - 3.0]))
    return nn.Sequential(nn.Flatten(), linear).eval()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)).eval()


def votes(model: nn.Module, classes: int, seed: int = 0, workers: int | None = None, noise_std: float = 0.5) -> NoisyVotes:
    return NoisyVotes(model, classes, noise_std, seed, "cpu", workers=workers)


def work(images: torch.Tensor, draws: int, order: list[int]) -> list[tuple[torch.Tensor, Block]]:
    return [(images[i], block) for i in order for block in blocks(i, "estimation", draws)]


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("noise_std", [0.25, 0.5])
def test_a_half_space_is_voted_for_with_its_gaussian_probability(margin: float, noise_std: float) -> None:
    draws, image = 20_000, torch.full(SHAPE, 0.5)
    counts = votes(half_space(margin), 2, noise_std=noise_std).decide(image[None], [3], "estimation", draws)[0]
    expected = norm.cdf(margin / noise_std)
    assert counts.sum() == draws
    assert abs(counts[1] / draws - expected) < 4.5 * (expected * (1 - expected) / draws) ** 0.5


def test_blocks_cover_the_draws_once() -> None:
    assert [b.draws for b in blocks(1, "a", 2 * BLOCK + 5)] == [BLOCK, BLOCK, 5]
    assert [b.block for b in blocks(1, "a", 2 * BLOCK + 5)] == [0, 1, 2]
    assert blocks(1, "a", 0) == []


def test_votes_do_not_depend_on_workers_order_neighbours_or_restarts() -> None:
    model, images = network(), torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    reference = dict(votes(model, 5, workers=1).run(work(images, 1500, list(range(6)))))
    for workers, seed in ((2, 1), (3, 2), (1, 3)):
        order = random.Random(seed).sample(range(6), 6)
        pieces = work(images, 1500, order)
        cut = len(pieces) // 2
        parts = [dict(votes(model, 5, workers=workers).run(part)) for part in (pieces[:cut], pieces[cut:])]
        found = parts[0] | parts[1]
        assert found.keys() == reference.keys()
        assert all(torch.equal(found[key], reference[key]) for key in reference)
    alone = dict(votes(model, 5, workers=2).run(work(images, 1500, [4])))
    assert all(torch.equal(alone[key], reference[key]) for key in alone)


def test_fewer_draws_are_the_beginning_of_more() -> None:
    model, image = network(), torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    few, more = (dict(votes(model, 5).run(work(image, draws, [0]))) for draws in (BLOCK, 3 * BLOCK))
    assert all(torch.equal(few[key], more[key]) for key in few)


def test_seeds_purposes_images_and_blocks_have_draws_of_their_own() -> None:
    model, image = network(), torch.full(SHAPE, 0.5)
    keys = [(0, Block(0, "a", 0, BLOCK)), (1, Block(0, "a", 0, BLOCK)), (0, Block(1, "a", 0, BLOCK)),
            (0, Block(0, "b", 0, BLOCK)), (0, Block(0, "a", 1, BLOCK)), (2**32, Block(0, "a", 0, BLOCK))]
    found = {tuple(votes(model, 5, seed).count(image, block).tolist()) for seed, block in keys}
    assert len(found) == len(keys)


def test_every_row_of_a_block_is_another_draw() -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.flatten(1).clone())
            return images.flatten(1)

    counts = NoisyVotes(Spy().eval(), 36, 1.0, 0, "cpu").count(torch.zeros(SHAPE), Block(0, "a", 0, BLOCK))
    rows = torch.cat(seen)
    assert counts.sum() == BLOCK == len(rows.unique(dim=0))
    assert {len(piece) for piece in seen} == {128}


def test_noise_is_not_clipped_to_the_box() -> None:
    lowest = []

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            lowest.append(float(images.min()))
            return images.flatten(1)

    NoisyVotes(Spy().eval(), 36, 1.0, 0, "cpu").count(torch.zeros(SHAPE), Block(0, "a", 0, BLOCK))
    assert min(lowest) < -3


def test_a_draw_is_the_image_plus_noise_std_times_the_normal_numbers_of_its_stream() -> None:
    """To rounding: a noise a little smaller than stated makes every radius too large, and frequencies hardly show it."""
    seen, image = [], torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.clone())
            return images.flatten(1)

    NoisyVotes(Spy().eval(), 36, 0.7, 3, "cpu").count(image, Block(5, "estimation", 2, 300))
    generator = keyed_generator("cpu", 3, "estimation", 5, 2)
    for piece in seen:
        noise = torch.empty(128, *SHAPE).normal_(generator=generator)
        torch.testing.assert_close(piece, image + 0.7 * noise, rtol=3e-7, atol=3e-7)
    assert len(seen) == 3


def test_votes_of_a_model_in_training_mode_are_refused() -> None:
    """Dropout and batch statistics would make another classifier of every draw."""
    model = nn.Sequential(network(), nn.Dropout(0.5).train())
    model[0].eval()
    with pytest.raises(AssertionError, match="evaluation mode"):
        votes(model, 5).decide(torch.rand(1, *SHAPE), [0], "estimation", 10)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_answer_that_is_not_a_number_is_no_vote(workers: int) -> None:
    """argmax takes nan for the largest: a broken network would be certified, for one class and to the largest radius."""

    class Fragile(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = images.flatten(1)[:, :3].clone()
            logits[-1, 1] = torch.nan  # row 127 of each pass
            return logits

    counter = votes(Fragile().eval(), 3, workers=workers)
    with pytest.raises(UserError, match=r"found nan on image 7 under noise of 0\.5 \(selection\)"):
        counter.decide(torch.zeros(1, *SHAPE), [7], "selection", 128)
    assert counter.decide(torch.zeros(1, *SHAPE), [7], "selection", 127).sum() == 127  # that row is padding there


def test_votes_in_bf16_are_of_the_model_in_bf16() -> None:
    model, images = network(), torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = {workers: dict(NoisyVotes(model, 5, 0.5, 0, "cpu", "bf16", workers).run(work(images, 1500, [2, 0, 1, 3])))
             for workers in (1, 3)}
    assert all(torch.equal(found[1][key], found[3][key]) for key in found[1])
    full = dict(votes(model, 5).run(work(images, 1500, [0, 1, 2, 3])))
    assert any(not torch.equal(full[key], found[1][key]) for key in full)
    block, by_hand = Block(2, "estimation", 0, BLOCK), torch.zeros(5, dtype=torch.int64)
    generator = keyed_generator("cpu", 0, "estimation", 2, 0)
    for _ in range(BLOCK // 128):
        noisy = torch.add(images[2], torch.empty(128, *SHAPE).normal_(generator=generator), alpha=0.5)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            by_hand += torch.bincount(model(noisy.to(memory_format=torch.channels_last)).argmax(1), minlength=5)
    assert torch.equal(found[1][block], by_hand)
