"""Votes on the disk: every block once, in its order, and nothing lost at a kill."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from robust_cli.messages import UserError
from robust_cli.smoothing.tally import Row, Tally

INDICES = [9, 4, 30]  # an order of their own
ROWS: list[Row] = [(index, purpose, block, [index, block, 7]) for index in INDICES
                   for purpose, blocks in (("selection", 1), ("estimation", 12)) for block in range(blocks)]


def filled(path: Path, rows: list[Row]) -> Tally:
    tally = Tally(path, 3)
    there = list(tally.rows())
    for row in rows:
        if row not in there:
            tally.add(*row)
    return tally


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert list(filled(tmp_path / "votes.csv", ROWS).rows()) == ROWS


def test_a_file_cut_anywhere_is_completed_to_the_same_bytes(tmp_path: Path) -> None:
    filled(tmp_path / "whole.csv", ROWS)
    content = (tmp_path / "whole.csv").read_bytes()
    for size in range(0, len(content) + 1, 7):
        path = tmp_path / f"cut{size}.csv"
        path.write_bytes(content[:size])
        filled(path, ROWS)
        assert path.read_bytes() == content


@pytest.mark.parametrize("parts", [1, 3])
def test_any_order_and_any_number_of_files_end_as_the_same_file(tmp_path: Path, parts: int) -> None:
    filled(tmp_path / "whole.csv", ROWS)
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    for k in range(parts):
        filled(tmp_path / f"votes.{k}.csv", shuffled[k::parts])
    tally = Tally(tmp_path / "votes.0.csv", 3)
    tally.put_in_order(INDICES, [tmp_path / f"votes.{k}.csv" for k in range(1, parts)])
    assert tally.path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["votes.0.csv", "whole.csv"]


def test_rows_of_images_that_are_not_the_runs_are_refused(tmp_path: Path) -> None:
    tally = filled(tmp_path / "votes.csv", ROWS)
    with pytest.raises(UserError, match="votes of image 9, which this run has not"):
        tally.put_in_order([4, 30])
    assert list(tally.rows()) == ROWS


@pytest.mark.parametrize("row", ["4,selection,0,100,99,0,0", "4,selection,0,100,101,0,-1", "4,selection,0,x,1,2,3",
                                 "4,selection,0,100", "4,chosen,0,100,99,0,1", "4,selection,-1,100,99,0,1"])
def test_votes_that_do_not_add_up_are_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "votes.csv"
    Tally(path, 3)
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(UserError, match="the file is damaged"):
        list(Tally(path, 3).rows())
