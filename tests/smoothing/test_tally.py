"""Votes on the disk: every block once, sums that add up, and nothing lost at a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robust_cli.messages import UserError
from robust_cli.smoothing.tally import Tally
from robust_cli.smoothing.votes import Block, blocks

PURPOSES = {"selection": 100, "estimation": 2500}
WANTED = [b for index in (4, 9) for purpose, draws in PURPOSES.items() for b in blocks(index, purpose, draws)]


def counted(block: Block) -> torch.Tensor:
    first = (7 * block.index + 13 * block.block) % block.draws
    return torch.tensor([first, 0, block.draws - first])


def filled(path: Path, wanted: list[Block]) -> Tally:
    tally = Tally(path, 3)
    for block in tally.missing(wanted):
        tally.add([(block, counted(block))])
    return tally


def test_sums_are_those_of_the_purpose_and_the_image(tmp_path: Path) -> None:
    tally = filled(tmp_path / "votes.csv", WANTED)
    expected = [sum(counted(b).numpy() for b in blocks(i, "estimation", 2500)) for i in (9, 4)]
    assert np.array_equal(tally.counts([9, 4], "estimation"), expected)
    assert np.array_equal(tally.counts([9, 4], "selection").sum(1), [100, 100])
    assert tally.missing(WANTED) == []


def test_a_file_cut_anywhere_is_completed_to_the_same_bytes(tmp_path: Path) -> None:
    filled(tmp_path / "whole.csv", WANTED)
    content = (tmp_path / "whole.csv").read_bytes()
    for size in range(0, len(content) + 1, 7):
        path = tmp_path / f"cut{size}.csv"
        path.write_bytes(content[:size])
        filled(path, WANTED)
        assert path.read_bytes() == content


@pytest.mark.parametrize("row", ["4,selection,0,100,99,0,0", "4,selection,0,100,101,0,-1", "4,selection,0,x,1,2,3",
                                 "4,selection,0,100"])
def test_votes_that_do_not_add_up_are_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "votes.csv"
    Tally(path, 3)
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(UserError, match="the file is damaged"):
        Tally(path, 3)


def test_a_block_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    Tally(path, 3)
    path.write_text(path.read_text() + 2 * "4,selection,0,100,99,0,1\n")
    with pytest.raises(UserError, match="one row of votes a block"):
        Tally(path, 3)
