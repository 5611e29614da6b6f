"""Noisy votes: how often a classifier answers each class on an image plus noise.

The draws of an image come in chunks of `CHUNK` keyed by (seed, purpose, image index, chunk), and every forward pass has one
fixed shape: `EVALUATION_ROWS` rows, in lanes of a chunk each (continuous batching: chunks of many images fill a batch, images
that are done leave and others enter). What a draw's row holds and where it stands never changes, so votes are the same bit
for bit whatever the images beside it, their order, the number of workers, or a restart. On a CPU each worker is one thread
that computes alone: small networks gain little from several threads in one operation.

Legend (SO, STN): N(0, sigma^2 I) -> noise; c_i (votes) -> counts; n -> draws.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import torch
from torch import nn

from robust_cli.messages import UserError
from robust_cli.models.classifier import memory_format
from robust_cli.runs.ranks import own_cores
from robust_cli.smoothing.batching import Block, Lanes, Seat, Task
from robust_cli.smoothing.noises import Noise
from robust_cli.smoothing.plans.plan import CHUNK
from robust_cli.smoothing.scores import chunk_sums

EVALUATION_ROWS = {"cpu": 128, "cuda": 1024}  # rows of a forward pass: part of what a vote is, so never a setting
Work = tuple[torch.Tensor, Block]  # an image, float32 [C, H, W], and draws of it
Answer = Callable[[Block, list[int]], Work | None]  # a block's votes by class -> what this image wants next
Scored = Callable[[Block, list[float]], None]  # a block's sums of softmax by class, then of their squares
Counted = list[tuple[Task, list[int], list[float] | None]]


class NoisyVotes:
    """Counts the answers of one fixed classifier under noise. The model must stay in evaluation mode meanwhile."""

    def __init__(self, model: nn.Module, classes: int, noise: Noise, seed: int, device: torch.device | str,
                 precision: str = "fp32", workers: int | None = None) -> None:
        """precision 'fp32' or 'bf16' (autocast): the votes are of the model in that precision; workers: threads that count at
        once (default: one a core on a CPU, two on a GPU, so that one prepares while the other computes), on which no vote
        depends."""
        self.device, self.precision = torch.device(device), precision
        self._format = memory_format(model, self.device)
        self.model = model.to(memory_format=self._format)
        self.classes, self.noise, self.seed = classes, noise, seed
        self.rows = EVALUATION_ROWS[self.device.type]
        self.workers = workers or (own_cores() if self.device.type == "cpu" else 2)
        self.evaluations = 0  # rows that went through the model, padding and idle lanes included
        self._thread = threading.local()

    def serve(self, work: Iterable[Work], answer: Answer, scored: Scored | None = None) -> None:
        """Count all of ``work`` and what ``answer`` asks for after each block, in batches made of all images under way.

        ``work`` is taken from only as fast as batches have room; ``answer`` is called in the calling thread, block by block of
        an image, images in no fixed order. ``scored``, where it is given, is called with a block just before ``answer``; the
        votes are the same with it and without. Raises UserError where the model answers nan: its argmax would be a class, but
        is nobody's vote; with ``scored`` where it answers infinity, too, which has no softmax.
        """
        assert not any(part.training for part in self.model.modules()), "votes are of a model in evaluation mode"
        lanes, fresh, running = Lanes(self.rows // CHUNK), iter(work), set[Future[Counted]]()
        with ThreadPoolExecutor(self.workers, initializer=self._begin) as pool:
            try:
                while True:
                    self._fill(lanes, fresh)
                    while not lanes.empty and len(running) < (2 if lanes.depth else 1) * self.workers:
                        running.add(pool.submit(self._count, lanes.batch(), scored is not None))
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._hand_on(future.result(), answer, scored, lanes)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self, lanes: Lanes, fresh: Iterator[Work]) -> None:
        """Begin images until enough full batches wait for all workers."""
        batches = 2 * self.workers
        while lanes.depth < batches and lanes.waiting < 4 * batches * self.rows // CHUNK:
            following = next(fresh, None)
            if following is None:
                return
            lanes.add(self._task(*following))

    def _task(self, image: torch.Tensor, block: Block) -> Task:
        return Task(image, block, [0] * self.classes)

    def _hand_on(self, counted: Counted, answer: Answer, scored: Scored | None, lanes: Lanes) -> None:
        self.evaluations += self.rows
        for task, counts, sums in counted:
            *votes, broken = counts
            if broken or (sums is not None and any(map(math.isnan, sums))):
                raise UserError(f"votes: expected numbers from the model, found {'nan' if broken else 'infinity'} on image "
                                f"{task.block.index} under noise of {self.noise.noise_std:g} ({task.block.purpose}); its weights "
                                f"are broken or overflow in {self.precision}: set precision=fp32, or train again")
            if task.add(votes, sums):
                if scored is not None:
                    scored(task.block, task.scores)
                following = answer(task.block, task.counts)
                if following is not None:
                    lanes.add(self._task(*following))

    @torch.inference_mode()
    def _count(self, batch: list[Seat | None], scored: bool) -> Counted:
        """The votes of a batch by chunk, with the number of answers that are not numbers as a last class; and its sums of
        softmax where they are wanted."""
        seats = [(lane, *seat) for lane, seat in enumerate(batch) if seat is not None]
        noisy = self._buffer(seats[0][1].image.shape)
        counted = torch.zeros(len(batch), CHUNK, dtype=torch.int64)
        for lane, task, chunk in seats:
            block = task.block
            self.noise.write(noisy[lane * CHUNK : (lane + 1) * CHUNK], task.image, self.seed, block.purpose, block.index, chunk)
            counted[lane, : block.counted(chunk)] = 1
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.model(noisy)
        answers = torch.where(logits.isnan().any(1), self.classes, logits.argmax(1)).view(len(batch), CHUNK)
        votes = torch.zeros(len(batch), self.classes + 1, dtype=torch.int64, device=self.device)
        table = votes.scatter_add_(1, answers, counted.to(self.device, non_blocking=True)).tolist()
        sums = chunk_sums(logits, counted).tolist() if scored else [None] * len(batch)
        return [(task, table[lane], sums[lane]) for lane, task, _ in seats]

    def _buffer(self, shape: torch.Size) -> torch.Tensor:
        """Room for a batch, one a thread. Lanes that stand idle hold what was there before, which nobody counts."""
        whole = (self.rows, *shape)
        if getattr(self._thread, "shape", None) != whole:
            self._thread.shape = whole
            self._thread.noisy = torch.zeros(whole, device=self.device).to(memory_format=self._format)
        buffer: torch.Tensor = self._thread.noisy
        return buffer

    def _begin(self) -> None:
        if self.device.type == "cpu":
            torch.set_num_threads(1)

    def decide(self, images: torch.Tensor, indices: Sequence[int], purpose: str, votes: int) -> torch.Tensor:
        """Fresh votes on (adversarial) images, int64 [n, classes]. ``purpose`` names what they decide, and keys them."""
        found = torch.zeros(len(images), self.classes, dtype=torch.int64)
        rows = {int(index): row for row, index in enumerate(indices)}

        def keep(block: Block, counts: list[int]) -> None:
            found[rows[block.index]] = torch.tensor(counts)

        self.serve(((images[row], Block(index, purpose, 0, 0, votes)) for index, row in rows.items()), keep)
        return found

    def draws_per_second(self, image: torch.Tensor) -> float:
        """Speed on this machine, measured on draws that count for nothing."""
        def work(first: int, rounds: int) -> Iterator[Work]:
            return ((image, Block(k, "estimate", 0, 0, self.rows)) for k in range(first, first + rounds * self.workers))

        self.serve(work(0, 1), lambda block, counts: None)
        before, start = self.evaluations, time.perf_counter()
        self.serve(work(1000, 8), lambda block, counts: None)
        drawn, self.evaluations = self.evaluations - before, 0
        return drawn / (time.perf_counter() - start)
