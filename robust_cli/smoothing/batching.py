"""What stands in the next batch: chunks of many images, each always in the same lane, so that every batch is full."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import torch

from robust_cli.smoothing.plans.plan import CHUNK


@dataclass(frozen=True)
class Block:
    """Draws ``first`` .. ``first + draws`` of one image's stream: what is asked for at once and stored as one row.

    ``first`` is a multiple of `CHUNK`; ``block`` counts the blocks of an image and purpose.
    """

    index: int
    purpose: str
    block: int
    first: int
    draws: int

    def __post_init__(self) -> None:
        assert self.first % CHUNK == 0, self
        assert self.draws > 0, self

    @property
    def chunks(self) -> range:
        """The numbers of its chunks in the image's stream."""
        return range(self.first // CHUNK, -(-(self.first + self.draws) // CHUNK))

    def counted(self, chunk: int) -> int:
        """How many draws of a chunk count; the rest is padding."""
        return min(CHUNK, self.first + self.draws - chunk * CHUNK)


@dataclass(eq=False)
class Task:
    """A block to count, the image (float32 [C, H, W]) and what has been counted of it."""

    image: torch.Tensor
    block: Block
    counts: list[int]
    left: int = field(init=False)
    _scores: list[list[float]] = field(init=False, default_factory=list)  # of each chunk, in the order they came

    def __post_init__(self) -> None:
        self.left = len(self.block.chunks)

    def add(self, counts: list[int], scores: list[float] | None = None) -> bool:
        """Add the votes of one chunk, and sums of scores where they are wanted; True when it was the last."""
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]
        if scores is not None:
            self._scores.append(scores)
        self.left -= 1
        return self.left == 0

    @property
    def scores(self) -> list[float]:
        """The sums over all chunks, each rounded once: the same in whatever order the chunks came."""
        return [math.fsum(sums) for sums in zip(*self._scores, strict=True)]


Seat = tuple[Task, int]  # a task and one of its chunks


_MIXER = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: its multiples spread evenly


class Lanes:
    """A queue of chunks for each part of a batch. An image's chunks go round the lanes, from a lane that its index alone gives:
    where in a batch a row stands may show in the last bits of its logits, so it must not depend on the rows beside it. The
    index is mixed first, as the images of a shard have every second or eighth index."""

    def __init__(self, lanes: int) -> None:
        self._queues: list[deque[Seat]] = [deque() for _ in range(lanes)]

    def add(self, task: Task) -> None:
        """Put all chunks of a task into their queues."""
        first = (task.block.index * _MIXER % 2**64) >> 40
        for chunk in task.block.chunks:
            self._queues[(first + chunk) % len(self._queues)].append((task, chunk))

    @property
    def depth(self) -> int:
        """How many full batches wait."""
        return min(len(queue) for queue in self._queues)

    @property
    def waiting(self) -> int:
        """How many chunks wait."""
        return sum(len(queue) for queue in self._queues)

    @property
    def empty(self) -> bool:
        return not any(self._queues)

    def batch(self) -> list[Seat | None]:
        """The next batch; None where a lane has nothing to do."""
        return [queue.popleft() if queue else None for queue in self._queues]
