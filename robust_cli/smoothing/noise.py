"""torch generators and 64-bit words by key (seed, purpose, index, block), a chunk's layout, and an attack's streams."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch

from robust_cli.runs.streams import key64, stream
from robust_cli.smoothing.plans.plan import CHUNK

_WORDS = 624  # the size of the Mersenne twister's state, in 32-bit words
_FIRST_WORD = 3  # where they begin in a CPU generator's state, a 64-bit cell each: after its seed, two flags and a position
_STATE_CELLS = 632


class _Tools(threading.local):
    """What a thread reuses from key to key: making them anew costs ten times what setting them does."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=0)
        self.philox_state = self.philox.state
        self.twister = torch.Generator().manual_seed(0).get_state()
        if self.twister.numel() != 8 * _STATE_CELLS:
            raise RuntimeError(f"torch {torch.__version__} keeps another generator state ({self.twister.numel()} bytes) "
                               "than this expects")
        self.words = self.twister.numpy().view(np.uint64)[_FIRST_WORD : _FIRST_WORD + _WORDS]
        self.generators: dict[torch.device, torch.Generator] = {}
        self.room: dict[tuple[torch.device, int], torch.Tensor] = {}


_tools = _Tools()


@lru_cache(maxsize=256)
def _philox_key(seed: int, purpose: str) -> np.ndarray:
    key: np.ndarray = stream(seed, purpose).bit_generator.state["state"]["key"]
    return key


def keyed_words(seed: int, purpose: str, index: int = 0, block: int = 0) -> np.random.Philox:
    """The bit generator of `runs.streams.stream` for the key, whose ``random_raw`` gives its 64-bit words.

    It is the calling thread's own: the thread's next call sets it to another key.
    """
    tools = _tools
    state = tools.philox_state
    state["state"]["counter"][:] = 0, 0, block, index
    state["state"]["key"] = _philox_key(seed, purpose)
    tools.philox.state = state
    return tools.philox


def keyed_generator(device: torch.device | str, seed: int, purpose: str, index: int = 0, block: int = 0) -> torch.Generator:
    """A generator on ``device`` whose whole state comes from the key.

    A CPU generator keeps 32 bits of its seed, so ``manual_seed`` makes streams collide; here all 624 words of its state are
    drawn from the key's Philox stream instead, which is a bijection of (index, block) for one seed and purpose. A CUDA
    generator (Philox) keeps 64 bits and is seeded with a 64-bit hash of the key. CPU and CUDA streams differ.
    """
    return _keyed(torch.Generator(device), seed, purpose, index, block)


def own_generator(device: torch.device, seed: int, purpose: str, index: int = 0, block: int = 0) -> torch.Generator:
    """`keyed_generator` at a fifth of its cost, for draws made at once: the calling thread's own, until its next call."""
    generator = _tools.generators.get(device)
    if generator is None:
        generator = _tools.generators[device] = torch.Generator(device)
    return _keyed(generator, seed, purpose, index, block)


def _keyed(generator: torch.Generator, seed: int, purpose: str, index: int, block: int) -> torch.Generator:
    if generator.device.type != "cpu":
        return generator.manual_seed(key64(seed, purpose, index, block))
    _tools.words[:] = keyed_words(seed, purpose, index, block).random_raw(_WORDS // 2).view(np.uint32)
    return generator.set_state(_tools.twister)


def scratch(device: torch.device, shape: Sequence[int], which: int = 0) -> torch.Tensor:
    """Room for float32 [*shape], contiguous and uninitialised: the calling thread's own, one for each ``which``."""
    size = math.prod(shape)
    room = _tools.room.get((device, which))
    if room is None or len(room) < size:
        with torch.inference_mode(False):  # a tensor made in inference mode could not be used outside it
            room = _tools.room[device, which] = torch.empty(size, device=device)
    return room[:size].view(*shape)


def fill_rows(out: torch.Tensor, fill: Callable[[torch.Tensor], object]) -> None:
    """Fill float32 [rows <= CHUNK, C, H, W] of any memory format with the first rows of what ``fill`` writes.

    ``fill`` gets a contiguous [CHUNK, H, W, C]: always a whole chunk, channels innermost, so that what a row holds depends
    neither on the number of rows nor on their format.
    """
    assert len(out) <= CHUNK, f"{len(out)} rows of a chunk of {CHUNK}"
    rows = out.permute(0, 2, 3, 1)
    if len(rows) == CHUNK and rows.is_contiguous():
        fill(rows)
        return
    whole = scratch(out.device, (CHUNK, *rows.shape[1:]))
    fill(whole)
    rows.copy_(whole[: len(rows)])


class ImageDraws:
    """One stream for each image of a batch, so that what an image gets does not depend on the images beside it.

    The streams go on from call to call: an image sees the same numbers whenever the same calls are made for it.
    """

    def __init__(self, device: torch.device | str, seed: int, purpose: str, indices: Sequence[int]) -> None:
        """``indices``: the images' indices in their data set, which key their streams."""
        self.device, self.indices = torch.device(device), [int(i) for i in indices]
        self._generators = [keyed_generator(device, seed, purpose, i) for i in self.indices]

    def __len__(self) -> int:
        return len(self._generators)

    def select(self, positions: Sequence[int]) -> ImageDraws:
        """The draws of some of the images (by position), sharing their streams: for images that stay in an attack."""
        chosen = object.__new__(ImageDraws)
        chosen.device, chosen.indices = self.device, [self.indices[int(p)] for p in positions]
        chosen._generators = [self._generators[int(p)] for p in positions]
        return chosen

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal draws, float32 [images, *shape]."""
        out = torch.empty(len(self), *shape, device=self.device)
        for row, generator in zip(out, self._generators, strict=True):
            row.normal_(generator=generator)
        return out

    def uniform(self, *shape: int) -> torch.Tensor:
        """Uniform draws in [0, 1), float32 [images, *shape]."""
        out = torch.empty(len(self), *shape, device=self.device)
        for row, generator in zip(out, self._generators, strict=True):
            row.uniform_(generator=generator)
        return out


class StepDraws(ImageDraws):
    """All images of a training step from one stream, at a fraction of the cost: what an image gets depends on those beside it.

    For attacks inside training, where the batch itself is keyed by the seed and the step.
    """

    def __init__(self, device: torch.device | str, seed: int, purpose: str, step: int, images: int, block: int = 0) -> None:
        self.device, self.indices = torch.device(device), list(range(images))
        self._generator = keyed_generator(device, seed, purpose, step, block)

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, positions: Sequence[int]) -> StepDraws:
        """For some of the images, going on with the same stream."""
        chosen = object.__new__(StepDraws)
        chosen.device, chosen.indices, chosen._generator = self.device, list(range(len(positions))), self._generator
        return chosen

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal draws, float32 [images, *shape]."""
        return torch.randn(len(self), *shape, generator=self._generator, device=self.device)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Uniform draws in [0, 1), float32 [images, *shape]."""
        return torch.rand(len(self), *shape, generator=self._generator, device=self.device)
