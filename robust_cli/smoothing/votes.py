"""Noisy votes: how often a classifier answers each class on an image plus Gaussian noise.

The draws of an image come in blocks keyed by (seed, purpose, image index, block), and every forward pass has one fixed
shape: a block of one image is cut into pieces of `EVALUATION_ROWS` rows, and what the last one holds too much is not counted.
What a draw's row holds and where it stands never changes, so votes are the same bit for bit whatever the images beside it,
their order, the number of workers, or a restart. On a CPU each worker is one thread that computes alone: small networks gain
little from several threads in one operation.

Legend (SO, STN): N(0, sigma^2 I) -> noise_std; c_i (votes) -> counts; n -> draws.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import nn

from robust_cli.messages import UserError
from robust_cli.smoothing.noise import keyed_generator

BLOCK = 1024  # draws of one stream
EVALUATION_ROWS = {"cpu": 128, "cuda": 1024}  # rows of a forward pass: part of what a vote is, so never a setting


@dataclass(frozen=True)
class Block:
    """Some draws of one image: their key, and how many."""

    index: int
    purpose: str
    block: int
    draws: int


def blocks(index: int, purpose: str, draws: int) -> list[Block]:
    """The blocks that make up ``draws`` draws of an image."""
    return [Block(index, purpose, k, min(BLOCK, draws - k * BLOCK)) for k in range((draws + BLOCK - 1) // BLOCK)]


class NoisyVotes:
    """Counts the answers of one fixed classifier under Gaussian noise. The model must stay in evaluation mode meanwhile."""

    def __init__(self, model: nn.Module, classes: int, noise_std: float, seed: int, device: torch.device | str,
                 precision: str = "fp32", workers: int | None = None) -> None:
        """noise_std in pixel units; precision 'fp32' or 'bf16' (autocast): the votes are of the model in that precision;
        workers: threads that count at once (default: one a core on a CPU, one on a GPU); votes do not depend on it."""
        self.device, self.precision = torch.device(device), precision
        self.model = model.to(memory_format=torch.channels_last)
        self.classes, self.noise_std, self.seed = classes, noise_std, seed
        self.rows = EVALUATION_ROWS[self.device.type]
        self.workers = workers or ((os.cpu_count() or 1) if self.device.type == "cpu" else 1)
        self._thread = threading.local()

    @torch.inference_mode()
    def count(self, image: torch.Tensor, block: Block) -> torch.Tensor:
        """Votes of one block: int64 [classes] on the CPU, summing to ``block.draws``. ``image``: float32 [C, H, W].

        Raises UserError where the model answers nan: its argmax would be a class, but is nobody's vote.
        """
        assert not any(part.training for part in self.model.modules()), "votes are of a model in evaluation mode"
        generator = keyed_generator(self.device, self.seed, block.purpose, block.index, block.block)
        counts = torch.zeros(self.classes, dtype=torch.int64, device=self.device)
        broken = torch.zeros((), dtype=torch.bool, device=self.device)
        for start in range(0, block.draws, self.rows):
            logits = self._logits(image, generator)[: block.draws - start]
            counts += torch.bincount(logits.argmax(1), minlength=self.classes)
            broken |= logits.isnan().any()
        if broken:  # looked at once a block: a look waits for the device
            raise UserError(f"votes: expected numbers from the model, found nan on image {block.index} under noise of "
                            f"{self.noise_std:g} ({block.purpose}); its weights are broken or overflow in {self.precision}: "
                            "set precision=fp32, or train again")
        return counts.cpu()

    def _logits(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        noise, noisy = self._buffers(image)
        noise.normal_(generator=generator)
        torch.add(image, noise, alpha=self.noise_std, out=noisy)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.model(noisy)

    def _buffers(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Room for the noise and the noisy images, one pair a thread."""
        shape = (self.rows, *image.shape)
        if getattr(self._thread, "shape", None) != shape:
            self._thread.shape, self._thread.noise = shape, torch.empty(shape, device=self.device)
            self._thread.noisy = torch.empty(shape, device=self.device).to(memory_format=torch.channels_last)
        return self._thread.noise, self._thread.noisy

    def run(self, work: Iterable[tuple[torch.Tensor, Block]]) -> Iterator[tuple[Block, torch.Tensor]]:
        """Votes of many (image, block), in the order asked for."""
        waiting: deque[tuple[Block, Future[torch.Tensor]]] = deque()
        with ThreadPoolExecutor(self.workers, initializer=self._begin) as pool:
            try:
                for image, block in work:
                    waiting.append((block, pool.submit(self.count, image, block)))
                    if len(waiting) > 4 * self.workers:
                        yield _first(waiting)
                while waiting:
                    yield _first(waiting)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        if self.device.type == "cpu":
            torch.set_num_threads(1)

    def decide(self, images: torch.Tensor, indices: Sequence[int], purpose: str, votes: int) -> torch.Tensor:
        """Fresh votes on (adversarial) images, int64 [n, classes]. ``purpose`` names what they decide, and keys them."""
        rows = [(row, block) for row, index in enumerate(indices) for block in blocks(int(index), purpose, votes)]
        found = torch.zeros(len(images), self.classes, dtype=torch.int64)
        for (row, _), (_, counts) in zip(rows, self.run((images[row], block) for row, block in rows), strict=True):
            found[row] += counts
        return found

    def draws_per_second(self, image: torch.Tensor) -> float:
        """Speed on this machine, measured on draws that count for nothing."""
        work = [(image, Block(0, "estimate", k, BLOCK)) for k in range(2 * self.workers)]
        self.count(image, Block(0, "estimate", 2 * self.workers, self.rows))
        start = time.perf_counter()
        drawn = sum(block.draws for block, _ in self.run(work))
        return drawn / (time.perf_counter() - start)


def _first(waiting: deque[tuple[Block, Future[torch.Tensor]]]) -> tuple[Block, torch.Tensor]:
    block, future = waiting.popleft()
    return block, future.result()
