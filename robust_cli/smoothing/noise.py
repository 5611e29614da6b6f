"""torch generators by key (seed, purpose, index, block), and the Gaussian noise drawn from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from robust_cli.runs.streams import key64, stream

_WORDS = 624  # the size of the Mersenne twister's state, in 32-bit words
_FIRST_WORD = 24  # where they begin in a CPU generator's state: after its seed, two flags and a position
_STATE_BYTES = 5056


def keyed_generator(device: torch.device | str, seed: int, purpose: str, index: int = 0, block: int = 0) -> torch.Generator:
    """A generator on ``device`` whose whole state comes from the key.

    A CPU generator keeps 32 bits of its seed, so ``manual_seed`` makes streams collide; here all 624 words of its state are
    drawn from the key's Philox stream instead, which is a bijection of (index, block) for one seed and purpose. A CUDA
    generator (Philox) keeps 64 bits and is seeded with a 64-bit hash of the key. CPU and CUDA streams differ.
    """
    device = torch.device(device)
    generator = torch.Generator(device)
    if device.type != "cpu":
        return generator.manual_seed(key64(seed, purpose, index, block))
    generator.manual_seed(0)
    state = generator.get_state()
    if state.numel() != _STATE_BYTES:
        raise RuntimeError(f"torch {torch.__version__} keeps another generator state ({state.numel()} bytes) than this expects")
    words = stream(seed, purpose, index, block).integers(0, 2**32, _WORDS, dtype=np.uint32).astype(np.uint64)
    state[_FIRST_WORD : _FIRST_WORD + 8 * _WORDS] = torch.from_numpy(words.view(np.uint8))
    return generator.set_state(state)


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
