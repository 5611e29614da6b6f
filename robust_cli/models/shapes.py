"""What an architecture can be built for."""

from __future__ import annotations

from collections.abc import Sequence

from robust_cli.messages import check


def check_shape(shape: Sequence[int], classes: int, smallest: int) -> tuple[int, int, int]:
    """Channels, height and width as integers. Raises Wrong unless both sides have ``smallest`` pixels and classes >= 2."""
    whole = len(shape) == 3 and all(int(side) == side and side >= 1 for side in shape)
    check(whole, "shape", "channels, height and width, whole numbers from 1", list(shape))
    channels, height, width = (int(side) for side in shape)
    check(min(height, width) >= smallest, "shape", f"images of at least {smallest}x{smallest} pixels for this model", list(shape))
    check(classes >= 2, "classes", "at least 2 classes", classes)
    return channels, height, width
