"""Softmax scores of noisy draws: their sums by chunk, and scores.csv, which holds them block by block beside the votes.

votes.csv alone says what has been counted. A block's scores are written before its votes, so a kill between the two leaves
scores without votes: that block is counted again, and of two rows of a block the later one holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from robust_cli.messages import UserError
from robust_cli.runs.rows import RowLog
from robust_cli.smoothing.batching import Block
from robust_cli.smoothing.plans.plan import CHUNK, Course, Scores
from robust_cli.smoothing.tally import COLUMNS, PURPOSES, Row, rewrite

_OFF = 1e-6  # relative: by how much rounding may move what softmax adds up to
ScoreRow = tuple[int, str, int, int, list[float]]  # image index, purpose, number of the block, draws, sums and sums of squares


def chunk_sums(logits: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Sums of the rows' softmax, then of its squares, by chunk: float64 [lanes, 2 K], nan where a row has none.

    logits [lanes * CHUNK, K] of any precision; counted [lanes, CHUNK], 1 for the rows that count: what else a lane holds is
    not looked at. A row's softmax is computed from its logits in float64, and rows are added in one order.
    """
    rows = torch.softmax(logits.double(), 1).view(len(counted), CHUNK, -1)
    both = torch.cat([rows, rows * rows], 2)
    return torch.where(counted.to(both.device)[:, :, None] > 0, both, 0.0).sum(1)


class ScoreLog:
    """Appends each block's scores as they come, just before its votes, and reads them back. It holds none itself."""

    def __init__(self, path: Path, classes: int) -> None:
        """Raises UserError when the file is not the scores of ``classes`` classes."""
        self.path, self.classes = path, classes
        names = [f"{what}_{k}" for what in ("sum", "square") for k in range(classes)]
        self._log = RowLog(path, [*COLUMNS, *names])

    def add(self, block: Block, sums: list[float]) -> None:
        """Append a block's sums over its draws and classes, then those of squares."""
        self._log.append([[block.index, block.purpose, block.block, block.draws, *sums]])

    def take(self, rows: Iterable[ScoreRow]) -> None:
        """Append rows of another file."""
        for row in rows:
            self._log.append([[*row[:4], *row[4]]])

    def rows(self) -> Iterator[ScoreRow]:
        """What is there, row by row. Raises UserError for a row that is no block's scores."""
        for cells in self._log.cells():
            try:
                index, block, draws = int(cells[0]), int(cells[2]), int(cells[3])
                sums = np.array(cells[4:], dtype=np.float64)
                whole = block >= 0 and draws > 0 and cells[1] in PURPOSES and _are_sums(sums, draws)
            except ValueError:
                whole = False
            if not whole:
                raise UserError(f"{self.path}: expected one row a block of softmax sums that add up to its draws, found {cells}; "
                                "the file is damaged: certify into a new folder")
            yield index, cells[1], block, draws, sums.tolist()

    def check(self, votes: Iterable[Row]) -> None:
        """Raise UserError unless each block of votes has its scores: a run that goes on could not end otherwise."""
        there = {row[:4] for row in self.rows()}
        for index, purpose, block, counts in votes:
            if (index, purpose, block, sum(counts)) not in there:
                raise self._missing(index, purpose, block)

    def put_in_order(self, indices: Sequence[int]) -> None:
        """As `Tally.put_in_order`; of several rows of a block the last is kept."""
        rewrite(self.path, indices, last=True)

    def read(self, course: Course, indices: Sequence[int]) -> Scores:
        """The sums of a whole run, images in the order of ``indices``. Raises UserError unless they are of all its draws.

        The file must be in order.
        """
        found = np.zeros((2, len(indices), 2 * self.classes))
        drawn = np.zeros((2, len(indices)), dtype=np.int64)
        place = {index: row for row, index in enumerate(indices)}
        for index, purpose, _, draws, sums in self.rows():
            kind = PURPOSES.index(purpose)
            found[kind, place[index]] += sums
            drawn[kind, place[index]] += draws
        for kind, draws in enumerate((course.selection, course.boundaries[-1])):
            wrong = np.flatnonzero(drawn[kind] != draws)
            if len(wrong):
                raise UserError(f"{self.path}: expected scores of {draws} {PURPOSES[kind]} draws of image {indices[wrong[0]]}, "
                                f"found {drawn[kind][wrong[0]]}; the file is damaged: certify into a new folder")
        total, squares = np.split(found[1], 2, axis=1)
        return Scores(total, squares, found[0, :, : self.classes] if course.selection else None)

    def _missing(self, index: int, purpose: str, block: int) -> UserError:
        return UserError(f"{self.path}: expected the scores of every block of votes, found none of image {index}, {purpose} "
                         f"block {block}; the file is damaged: certify into a new folder")


def _are_sums(sums: np.ndarray, draws: int) -> bool:
    total, squares = np.split(sums, 2)
    slack = _OFF * draws
    return bool(np.isfinite(sums).all() and abs(total.sum() - draws) <= slack and (squares >= 0).all()
                and (squares <= total + slack).all() and (squares >= total * total / draws - slack).all())
