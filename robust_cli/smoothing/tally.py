"""The votes of a run on the disk (votes.csv, a row per block), what is missing among them, and their sums."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from robust_cli.messages import UserError
from robust_cli.runs.rows import RowLog
from robust_cli.smoothing.votes import Block

_COLUMNS = ("index", "purpose", "block", "draws")


class Tally:
    """Appends each block's votes as they come; opened again, it knows what is there already."""

    def __init__(self, path: Path, classes: int) -> None:
        """Raises UserError when the file is not the votes of ``classes`` classes or is damaged."""
        self.path, self.classes = path, classes
        self._log = RowLog(path, [*_COLUMNS, *(f"votes_{k}" for k in range(classes))])
        self._votes: dict[Block, list[int]] = {}
        for row in self._log.read():
            self._take(row)

    def _take(self, row: dict[str, str]) -> None:
        try:
            block = Block(int(row["index"]), row["purpose"], int(row["block"]), int(row["draws"]))
            counts = [int(row[f"votes_{k}"]) for k in range(self.classes)]
        except (TypeError, ValueError):
            counts, block = [], Block(0, "", 0, -1)
        if sum(counts) != block.draws or min(counts, default=-1) < 0 or block in self._votes:
            raise UserError(f"{self.path}: expected one row of votes a block that add up to its draws, found "
                            f"{list(row.values())}; the file is damaged: certify into a new folder")
        self._votes[block] = counts

    def missing(self, wanted: Iterable[Block]) -> list[Block]:
        """Those blocks that have no votes yet, in their order."""
        return [block for block in wanted if block not in self._votes]

    def add(self, counted: Iterable[tuple[Block, torch.Tensor]]) -> None:
        """Append the votes of some blocks, int64 [classes] each."""
        rows = [(block, counts.tolist()) for block, counts in counted]
        self._log.append([[b.index, b.purpose, b.block, b.draws, *counts] for b, counts in rows])
        self._votes.update(rows)

    def counts(self, indices: Sequence[int], purpose: str) -> NDArray[np.int64]:
        """Votes of one purpose summed over each image's blocks, int64 [N, classes], in the order of ``indices``."""
        sums: dict[int, NDArray[np.int64]] = defaultdict(lambda: np.zeros(self.classes, dtype=np.int64))
        for block, counts in self._votes.items():
            if block.purpose == purpose:
                sums[block.index] += np.asarray(counts, dtype=np.int64)
        return np.stack([sums[int(i)] for i in indices]) if len(indices) else np.zeros((0, self.classes), dtype=np.int64)
