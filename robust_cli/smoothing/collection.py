"""How far each image of a run has come: its votes so far, and which block it wants next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from robust_cli.messages import UserError
from robust_cli.smoothing.batching import Block
from robust_cli.smoothing.plans.plan import CHUNK, Course, Trail, Votes


class Collection:
    """The votes of a course's images. Memory does not grow with the number of draws: only sums and trails are kept."""

    def __init__(self, course: Course, indices: Sequence[int], labels: Sequence[int], classes: int) -> None:
        self.course, self.classes = course, classes
        self.indices, self.labels = [int(i) for i in indices], [int(label) for label in labels]
        self._row = {index: row for row, index in enumerate(self.indices)}
        self._counts = np.zeros((2, len(self.indices), classes), dtype=np.int64)  # selection, estimation
        self._blocks = np.zeros(len(self.indices), dtype=np.int64)  # estimation blocks there are
        self._ends = np.zeros(len(self.indices), dtype=np.int64)  # estimation draws there are
        self._trails: list[Trail | None] = [None] * len(self.indices)
        if not course.selection:
            for row in range(len(self.indices)):
                self._trails[row] = course.begin(None, self.labels[row])

    def __len__(self) -> int:
        return len(self.indices)

    def wanted(self, index: int) -> Block | None:
        """The next block of an image; None when it has had enough."""
        row = self._row[index]
        trail = self._trails[row]
        if trail is None:
            return Block(index, "selection", 0, 0, self.course.selection)
        first = int(self._ends[row])
        return Block(index, "estimation", int(self._blocks[row]), first, trail.wanted - first) if trail.wanted else None

    def remaining(self) -> Iterator[Block]:
        """The next block of every image that has not had enough, in their order."""
        return (block for index in self.indices if (block := self.wanted(index)) is not None)

    def most_left(self, index: int) -> int:
        """How many draws more an image can take at most; 0 when it has had enough."""
        row = self._row[index]
        trail = self._trails[row]
        most = self.course.boundaries[-1]
        return self.course.selection + most if trail is None else most - int(self._ends[row]) if trail.wanted else 0

    def take(self, index: int, purpose: str, block: int, counts: Sequence[int]) -> None:
        """Votes of the block that this image wanted. Raises UserError for any other: bounds of other draws would not hold."""
        wanted = self.wanted(index) if index in self._row else None
        if wanted is None or (wanted.purpose, wanted.block, wanted.draws) != (purpose, block, sum(counts)):
            expected = "none" if wanted is None else f"{wanted.draws} votes of {wanted.purpose} block {wanted.block}"
            raise UserError(f"votes: expected {expected} of image {index} next, as the sampling plan has fixed it, found "
                            f"{sum(counts)} of {purpose} block {block}; the file is damaged or of another plan: certify into a "
                            "new folder")
        row = self._row[index]
        self._counts[int(purpose == "estimation"), row] += np.asarray(counts, dtype=np.int64)
        if purpose == "selection":
            self._trails[row] = self.course.begin(self._counts[0, row].copy(), self.labels[row])
            return
        self._blocks[row] += 1
        self._ends[row] = wanted.first + wanted.draws
        trail = self._trails[row]
        assert trail is not None
        trail.add(self._counts[1, row].copy())

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Which images have had enough, bool [N]."""
        return np.array([trail is not None and not trail.wanted for trail in self._trails], dtype=bool)

    @property
    def draws(self) -> NDArray[np.int64]:
        """Rows evaluated for each image, int64 [N]: selection, estimation, and what fills their last chunks."""
        begun = np.array([trail is not None for trail in self._trails])
        return np.where(begun, _padded(np.int64(self.course.selection)), 0) + _padded(self._ends)

    def votes(self) -> Votes:
        """All votes, once every image has had enough."""
        assert self.finished.all(), "votes before the end of the trails are no plan's"
        trails = [trail for trail in self._trails if trail is not None]
        return Votes(self._counts[1], self._counts[0] if self.course.selection else None,
                     np.array([trail.level for trail in trails], dtype=np.int64), [trail.stopped for trail in trails])


def _padded(draws: NDArray[np.int64] | np.int64) -> NDArray[np.int64]:
    return np.asarray(-(-draws // CHUNK) * CHUNK)
