"""The votes of a run on the disk: votes.csv, a row per block, appended as they are counted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from robust_cli.messages import UserError
from robust_cli.runs.rows import RowLog

COLUMNS = ("index", "purpose", "block", "draws")
PURPOSES = ("selection", "estimation")
Row = tuple[int, str, int, list[int]]  # image index, purpose, number of the block, votes by class


class Tally:
    """Appends each block's votes as they come, and reads them back. It holds no votes itself."""

    def __init__(self, path: Path, classes: int) -> None:
        """Raises UserError when the file is not the votes of ``classes`` classes."""
        self.path, self.classes = path, classes
        self._log = RowLog(path, [*COLUMNS, *(f"votes_{k}" for k in range(classes))])

    def add(self, index: int, purpose: str, block: int, counts: Sequence[int]) -> None:
        """Append the votes of one block."""
        self._log.append([[index, purpose, block, sum(counts), *counts]])

    def rows(self) -> Iterator[Row]:
        """What is there, row by row. Raises UserError for a row that is no block's votes."""
        for cells in self._log.cells():
            try:
                index, block, draws, *counts = (int(cell) for cell in (cells[0], *cells[2:]))
            except ValueError:
                index, block, draws, counts = 0, -1, 0, []
            if block < 0 or sum(counts) != draws or min(counts, default=-1) < 0 or cells[1] not in PURPOSES:
                raise UserError(f"{self.path}: expected one row of votes a block that add up to its draws, found {cells}; the "
                                "file is damaged: certify into a new folder")
            yield index, cells[1], block, counts

    def put_in_order(self, indices: Sequence[int], others: Sequence[Path] = ()) -> None:
        """Rewrite the file, whole or not at all: images in the order of ``indices``, selection first, blocks as they follow.

        So a run that was stopped or shared ends with the very file of one that was not. ``others`` are files of the same
        columns whose rows are taken in; a row that is there twice, as a kill in the middle of this leaves it, is kept once. Holds
        40 bytes a row in memory, no votes. Raises UserError for damaged rows, and for two different votes of one block.
        """
        rewrite(self.path, indices, others)


def rewrite(path: Path, indices: Sequence[int], others: Sequence[Path] = (), last: bool = False) -> None:
    """See `Tally.put_in_order`; with ``last``, of several rows of a block the one that was written last is kept."""
    place = {int(index): position for position, index in enumerate(indices)}
    paths = [path, *others]
    found = (key for number, one in enumerate(paths) for key in _keys(one, number, place))
    keys = np.fromiter(found, dtype=np.dtype((np.int64, 5)))
    order = np.lexsort(keys.T[::-1])
    part = path.with_name(path.name + ".part")
    files = [one.open("rb") for one in paths]
    try:
        with part.open("wb") as target:
            target.write(files[0].readline())
            before, kept = None, b""
            for row in order:
                file = files[keys[row, 3]]
                file.seek(keys[row, 4])
                block, line = tuple(keys[row, :3]), file.readline()
                if block != before:
                    target.write(kept)
                elif not last and line != kept:
                    raise UserError(f"{path}: expected one row of votes a block, found {kept.decode().strip()} and "
                                    f"{line.decode().strip()}; the file is damaged: certify into a new folder")
                before, kept = block, line
            target.write(kept)
    except OSError as error:
        raise UserError(f"{part}: cannot write ({error.strerror}); the rows are kept in {path}: make room and go on "
                        "with resume=<this folder>") from error
    finally:
        for file in files:
            file.close()
    os.replace(part, path)
    for other in others:
        other.unlink()


def _keys(path: Path, number: int, place: dict[int, int]) -> Iterator[tuple[int, int, int, int, int]]:
    """(position of the image, purpose, block, number of the file, where the row begins) of each row."""
    with path.open("rb") as file:
        at = len(file.readline())
        for line in file:
            try:
                name, purpose, block, _ = line.decode().split(",", 3)
                index, kind, count = int(name), PURPOSES.index(purpose), int(block)
            except ValueError as error:
                raise UserError(f"{path}: expected rows of votes, found {line[:60]!r}; the file is damaged: certify into a new "
                                "folder") from error
            if index not in place:
                raise UserError(f"{path}: expected votes of the run's images, found votes of image {index}, which this run "
                                "has not; certify into a new folder")
            yield place[index], kind, count, number, at
            at += len(line)
