"""Votes have the law that the noise gives them, and not one bit of them depends on how they were computed."""

from __future__ import annotations

import random

import pytest
import torch
from scipy.stats import norm
from torch import nn

from robust_cli.messages import UserError
from robust_cli.smoothing.batching import Block
from robust_cli.smoothing.noises import make_noise
from robust_cli.smoothing.votes import CHUNK, EVALUATION_ROWS, NoisyVotes

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
    return NoisyVotes(model, classes, make_noise("gaussian", noise_std), seed, "cpu", workers=workers)


def split(index: int, draws: int, size: int) -> list[Block]:
    return [Block(index, "estimation", k, first, min(size, draws - first)) for k, first in enumerate(range(0, draws, size))]


def counted(counter: NoisyVotes, images: torch.Tensor, draws: int, order: list[int],
            size: int = 5 * CHUNK) -> dict[Block, list[int]]:
    """All blocks at once, as they come."""
    found: dict[Block, list[int]] = {}
    counter.serve(((images[i], block) for i in order for block in split(i, draws, size)), found.__setitem__)
    return found


def one(counter: NoisyVotes, image: torch.Tensor, block: Block) -> list[int]:
    found: dict[Block, list[int]] = {}
    counter.serve([(image, block)], found.__setitem__)
    return found[block]


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("noise_std", [0.25, 0.5])
def test_a_half_space_is_voted_for_with_its_gaussian_probability(margin: float, noise_std: float) -> None:
    draws, image = 20_000, torch.full(SHAPE, 0.5)
    counts = votes(half_space(margin), 2, noise_std=noise_std).decide(image[None], [3], "estimation", draws)[0]
    expected = norm.cdf(margin / noise_std)
    assert counts.sum() == draws
    assert abs(counts[1] / draws - expected) < 4.5 * (expected * (1 - expected) / draws) ** 0.5


def test_votes_do_not_depend_on_workers_order_neighbours_or_restarts() -> None:
    model, images = network(), torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    reference = counted(votes(model, 5, workers=1), images, 1500, list(range(6)))
    for workers, seed in ((2, 1), (3, 2), (1, 3)):
        order = random.Random(seed).sample(range(6), 6)
        parts = [counted(votes(model, 5, workers=workers), images, 1500, part) for part in (order[:2], order[2:])]
        assert parts[0] | parts[1] == reference
    alone = counted(votes(model, 5, workers=2), images, 1500, [4])
    assert alone.items() <= reference.items()


def test_votes_do_not_depend_on_how_the_draws_are_cut_into_blocks() -> None:
    model, images = network(), torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = [counted(votes(model, 5), images, 1500, [0], size) for size in (CHUNK, 3 * CHUNK, 1536)]
    sums = [torch.tensor(list(counts.values())).sum(0) for counts in found]
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


def test_seeds_purposes_images_and_chunks_have_draws_of_their_own() -> None:
    model, image, many = network(), torch.full(SHAPE, 0.5), 16 * CHUNK
    keys = [(0, Block(0, "a", 0, 0, many)), (1, Block(0, "a", 0, 0, many)), (0, Block(1, "a", 0, 0, many)),
            (0, Block(0, "b", 0, 0, many)), (0, Block(0, "a", 0, many, many)), (2**32, Block(0, "a", 0, 0, many))]
    found = {tuple(one(votes(model, 5, seed), image, block)) for seed, block in keys}
    assert len(found) == len(keys)


def test_every_row_of_a_block_is_another_draw_in_passes_of_one_shape() -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.flatten(1).clone())
            return images.flatten(1)

    counts = one(votes(Spy().eval(), 36, noise_std=1.0), torch.zeros(SHAPE), Block(0, "a", 0, 0, 512))
    rows = torch.cat(seen)
    assert sum(counts) == 512 == len(rows.unique(dim=0))
    assert {len(piece) for piece in seen} == {EVALUATION_ROWS["cpu"]}


def test_batches_are_full_of_many_images_and_a_chunk_keeps_its_place() -> None:
    """Continuous batching: images that want a chunk at a time share batches, and where a chunk stands is its own."""
    places: dict[float, set[int]] = {}
    lanes = EVALUATION_ROWS["cpu"] // CHUNK

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            for lane, chunk in enumerate(images.split(CHUNK)):
                places.setdefault(float(chunk[0, 0, 0, 0]), set()).add(lane)
            return images.flatten(1)

    def count(order: list[int], workers: int) -> int:
        counter = votes(Spy().eval(), 36, workers=workers)
        todo = dict.fromkeys(order, 6)

        def answer(block: Block, counts: list[int]) -> tuple[torch.Tensor, Block] | None:
            todo[block.index] -= 1
            following = Block(block.index, "estimation", block.block + 1, block.first + CHUNK, CHUNK)
            return (torch.zeros(SHAPE), following) if todo[block.index] else None

        counter.serve(((torch.zeros(SHAPE), Block(i, "estimation", 0, 0, CHUNK)) for i in order), answer)
        return counter.evaluations

    rows = count(list(range(40)), 1)
    assert rows <= 1.05 * 40 * 6 * CHUNK  # hardly a lane stood idle, though no image ever had two chunks to give
    count([31, 4, 8, 15], 3)
    drawn = {first: where for first, where in places.items() if first != 0}  # lanes that never held anything are zero
    assert len(drawn) == 40 * 6
    assert all(len(where) == 1 for where in drawn.values()), "a chunk stood in two places"
    assert {lane for where in drawn.values() for lane in where} == set(range(lanes))


def test_work_is_taken_only_as_fast_as_there_is_room() -> None:
    """Memory does not grow with the number of images: they are made when they are begun."""
    begun, done, most = 0, 0, 0

    def work():  # type: ignore[no-untyped-def]
        nonlocal begun, most
        for i in range(400):
            begun += 1
            most = max(most, begun - done)
            yield torch.zeros(SHAPE), Block(i, "estimation", 0, 0, CHUNK)

    def answer(block: Block, counts: list[int]) -> None:
        nonlocal done
        done += 1

    votes(network(), 5, workers=2).serve(work(), answer)
    assert done == 400
    assert most <= 40


def test_noise_is_not_clipped_to_the_box() -> None:
    lowest = []

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            lowest.append(float(images.min()))
            return images.flatten(1)

    one(votes(Spy().eval(), 36, noise_std=1.0), torch.zeros(SHAPE), Block(0, "a", 0, 0, 512))
    assert min(lowest) < -3


def test_the_classifier_sees_what_the_noise_writes_for_its_keys() -> None:
    seen, image, noise = [], torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)), make_noise("gaussian", 0.7)

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.extend(images.clone().split(CHUNK))
            return images.flatten(1)

    NoisyVotes(Spy().eval(), 36, noise, 3, "cpu", workers=1).serve([(image, Block(5, "estimation", 2, 2 * CHUNK, 300))],
                                                                   lambda block, counts: None)
    for chunk in range(2, 2 + 5):
        expected = torch.empty(CHUNK, *SHAPE)
        noise.write(expected, image, 3, "estimation", 5, chunk)
        assert sum(torch.equal(piece, expected) for piece in seen) >= 1  # an idle lane repeats one


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
            logits[CHUNK - 1 :: CHUNK, 1] = torch.nan  # the last row of each chunk
            return logits

    counter = votes(Fragile().eval(), 3, workers=workers)
    with pytest.raises(UserError, match=r"found nan on image 7 under noise of 0\.5 \(selection\)"):
        counter.decide(torch.zeros(1, *SHAPE), [7], "selection", CHUNK)
    assert counter.decide(torch.zeros(1, *SHAPE), [7], "selection", CHUNK - 1).sum() == CHUNK - 1  # that row is padding there


def test_votes_in_bf16_are_of_the_model_in_bf16() -> None:
    model, noise = network(), make_noise("gaussian", 0.5)
    images = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = {workers: counted(NoisyVotes(model, 5, noise, 0, "cpu", "bf16", workers), images, 1500, [2, 0, 1, 3])
             for workers in (1, 3)}
    assert found[1] == found[3]
    full = counted(votes(model, 5), images, 1500, [0, 1, 2, 3])
    assert any(full[block] != found[1][block] for block in full)
    by_hand = torch.zeros(5, dtype=torch.int64)
    noisy = torch.empty(EVALUATION_ROWS["cpu"], *SHAPE).to(memory_format=torch.channels_last)
    for chunk in range(0, 5, 2):
        for lane in range(2):
            noise.write(noisy[lane * CHUNK : (lane + 1) * CHUNK], images[2], 0, "estimation", 2, chunk + lane)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            answers = model(noisy).argmax(1)
        by_hand += torch.bincount(answers[: CHUNK * min(2, 5 - chunk)], minlength=5)
    assert found[1][Block(2, "estimation", 0, 0, 5 * CHUNK)] == by_hand.tolist()
