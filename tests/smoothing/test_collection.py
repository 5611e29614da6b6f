"""What each image wants next follows from its stored votes alone, and no votes but those are taken."""

from __future__ import annotations

import numpy as np
import pytest

from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.messages import UserError
from robust_cli.smoothing.collection import Collection
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import boundaries

DRAWS = 700


def collection(selection: int = 100) -> Collection:
    kind = NeymanPearson() if selection else NeymanPearson(bounds="runner_up")
    course = Fixed(DRAWS, selection).course({"neyman_pearson": kind}, 0.5, 0.001, 3)
    return Collection(course, [7, 2], [0, 1], 3)


def fill(found: Collection, index: int, most: int = 1000) -> None:
    for _ in range(most):
        block = found.wanted(index)
        if block is None:
            return
        found.take(index, block.purpose, block.block, [block.draws - 1, 1, 0])


def test_blocks_go_from_boundary_to_boundary_after_the_selection() -> None:
    found, ends = collection(), []
    block = found.wanted(2)
    assert (block.purpose, block.block, block.first, block.draws) == ("selection", 0, 0, 100)
    found.take(2, "selection", 0, [90, 10, 0])
    while (block := found.wanted(2)) is not None:
        assert (block.purpose, block.block, block.first) == ("estimation", len(ends), ends[-1] if ends else 0)
        ends.append(block.first + block.draws)
        found.take(2, "estimation", block.block, [block.draws, 0, 0])
    assert tuple(ends) == boundaries(DRAWS)
    assert [block.index for block in found.remaining()] == [7]


def test_votes_and_costs_are_those_taken() -> None:
    found = collection()
    assert found.draws.tolist() == [0, 0]
    assert found.most_left(7) == 100 + DRAWS
    for index in (7, 2):
        fill(found, index)
    votes, blocks = found.votes(), len(boundaries(DRAWS))
    assert votes.estimation.tolist() == 2 * [[DRAWS - blocks, blocks, 0]]
    assert votes.selection.tolist() == 2 * [[99, 1, 0]]
    assert found.draws.tolist() == 2 * [128 + 704]  # both filled up to whole chunks of 64
    assert found.most_left(7) == 0
    assert votes.stopped == 2 * ["complete"]


def test_a_run_without_selection_votes_begins_with_the_estimation() -> None:
    found = collection(0)
    assert found.wanted(7).purpose == "estimation"
    fill(found, 7)
    fill(found, 2)
    assert found.votes().selection is None


@pytest.mark.parametrize(("index", "purpose", "block", "counts"), [
    (7, "estimation", 0, [64, 0, 0]), (7, "selection", 1, [100, 0, 0]), (7, "selection", 0, [99, 0, 0]),
    (3, "selection", 0, [100, 0, 0])])
def test_other_votes_than_the_wanted_are_refused(index: int, purpose: str, block: int, counts: list[int]) -> None:
    found = collection()
    with pytest.raises(UserError, match=r"found .* the file is damaged or of another plan"):
        found.take(index, purpose, block, counts)


def test_a_block_twice_or_out_of_turn_is_refused() -> None:
    found = collection()
    fill(found, 7, 3)
    for block in (0, 1, 3):
        with pytest.raises(UserError, match="of estimation block 2 of image 7 next"):
            found.take(7, "estimation", block, [64, 0, 0])


def test_stored_votes_bring_every_image_to_where_it_was() -> None:
    """Whatever the order of the images in the file."""
    first, rows = collection(), []
    for index in (7, 2, 2, 7, 2, 2, 2):
        block = first.wanted(index)
        rows.append((index, block.purpose, block.block, [block.draws - 2, 1, 1]))
        first.take(*rows[-1])
    again = collection()
    for row in sorted(rows, key=lambda row: row[0]):
        again.take(*row)
    assert list(again.remaining()) == list(first.remaining())
    assert np.array_equal(again.draws, first.draws)
