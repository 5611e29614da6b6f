"""How the process keeps the memory that it frees."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's mallopt


def keep_freed_memory() -> None:
    """Ask glibc to keep freed buffers for the next layer instead of giving them back to the system.

    By default every large output of a layer is memory fresh from the system, whose pages it has to fill with zeros first:
    measured here, a tenth to a third of a forward pass on a CPU. One arena, since those of other threads are limited to 64 MB.
    Without glibc nothing is done.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_ARENA_MAX, 1)
