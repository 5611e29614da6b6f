"""What an engine of votes must not do: let a chunk's place depend on the plan, take all images at once, or count a row twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from robust_cli.messages import UserError
from robust_cli.smoothing.batching import Block
from robust_cli.smoothing.noises import make_noise
from robust_cli.smoothing.tally import Tally
from robust_cli.smoothing.votes import CHUNK, NoisyVotes

SHAPE = (1, 6, 6)


class Places(nn.Module):
    """Notes in which lane each chunk stood, by its first number."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: dict[float, int] = {}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for lane, chunk in enumerate(images.split(CHUNK)):
            assert self.lanes.setdefault(float(chunk[0, 0, 0, 0]), lane) == lane or float(chunk[0, 0, 0, 0]) == 0
        return images.flatten(1)


def counter(model: nn.Module, workers: int = 1) -> NoisyVotes:
    return NoisyVotes(model.eval(), 36, make_noise("gaussian", 0.5), 0, "cpu", workers=workers)


def test_a_chunk_stands_in_its_lane_however_the_draws_are_cut_into_blocks() -> None:
    """So that one plan's votes are another's, to the last bit of a logit."""
    found = []
    for size in (1, 2, 3, 5):  # chunks of a block
        spy = Places()
        blocks = [Block(3, "estimation", k, first * CHUNK, min(size, 15 - first) * CHUNK)
                  for k, first in enumerate(range(0, 15, size))]
        for block in blocks:  # one after the other: no other chunk is there
            counter(spy).serve([(torch.zeros(SHAPE), block)], lambda block, counts: None)
        found.append({first: lane for first, lane in spy.lanes.items() if first != 0})
    assert len(found[0]) == 15
    assert all(other == found[0] for other in found[1:])


@pytest.mark.parametrize("step", [1, 2, 16])
def test_images_of_any_indices_are_begun_only_as_fast_as_there_is_room(step: int) -> None:
    """Every second image of a data set is the usual shard; its chunks must fill all lanes as well."""
    begun, done, most = 0, 0, 0

    def work() -> Iterator[tuple[torch.Tensor, Block]]:
        nonlocal begun, most
        for k in range(200):
            begun += 1
            most = max(most, begun - done)
            yield torch.zeros(SHAPE), Block(k * step, "selection", 0, 0, CHUNK)

    def answer(block: Block, counts: list[int]) -> None:
        nonlocal done
        done += 1

    engine = counter(nn.Flatten(), 2)
    engine.serve(work(), answer)
    assert done == 200
    assert most <= 60
    assert engine.evaluations <= 1.25 * 200 * CHUNK


def test_a_kill_between_replacing_the_file_and_removing_the_parts_counts_no_row_twice(tmp_path: Path) -> None:
    whole, part = tmp_path / "votes.csv", tmp_path / "votes.0.csv"
    Tally(whole, 2).add(0, "selection", 0, [64, 0])
    Tally(part, 2).add(1, "selection", 0, [60, 4])
    kept = shutil.copy(part, tmp_path / "kept")
    Tally(whole, 2).put_in_order([0, 1], [part])
    once = whole.read_bytes()
    shutil.copy(kept, part)  # as the kill left it
    Tally(whole, 2).put_in_order([0, 1], [part])
    assert whole.read_bytes() == once
    assert not part.exists()


def test_two_different_votes_of_one_block_are_refused(tmp_path: Path) -> None:
    """Neither of them can be told to be the right one."""
    whole, part = tmp_path / "votes.csv", tmp_path / "votes.0.csv"
    Tally(whole, 2).add(0, "selection", 0, [64, 0])
    Tally(part, 2).add(0, "selection", 0, [60, 4])
    with pytest.raises(UserError):
        Tally(whole, 2).put_in_order([0], [part])


@pytest.mark.parametrize("row", ["x,y", "1,selection", "1,chosen,0,64,64,0", ""])
def test_a_damaged_row_of_another_process_is_one_line(tmp_path: Path, row: str) -> None:
    whole, part = tmp_path / "votes.csv", tmp_path / "votes.0.csv"
    Tally(whole, 2)
    Tally(part, 2)
    part.write_text(part.read_text() + row + "\n")
    with pytest.raises(UserError):
        Tally(whole, 2).put_in_order([0, 1], [part])
