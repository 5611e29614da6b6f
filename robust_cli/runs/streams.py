"""Random streams by key: (seed, purpose, index, block), never by process or by order of use.

numpy's Philox is counter-based. The seed and the purpose make its 128-bit key (BLAKE2b); the index and the block are the
two upper words of its 256-bit counter, so two streams of one key cannot overlap in fewer than 2^128 draws, and all 64 bits
of the seed, the index and the block count.
"""

from __future__ import annotations

import hashlib

import numpy as np


def _key(seed: int, purpose: str) -> bytes:
    return hashlib.blake2b(f"{int(seed)}/{purpose}".encode(), digest_size=16).digest()


def stream(seed: int, purpose: str, index: int = 0, block: int = 0) -> np.random.Generator:
    """The numpy generator of one key. The same key gives the same numbers on any machine; index and block are >= 0."""
    counter = np.array([0, 0, block, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=np.frombuffer(_key(seed, purpose), dtype=np.uint64)))


def key64(seed: int, purpose: str, index: int = 0, block: int = 0) -> int:
    """A 64-bit seed of one key, for generators that take a number and keep all of it (CUDA's Philox)."""
    return int.from_bytes(_key(seed, f"{purpose}/{int(index)}/{int(block)}")[:8], "little")
