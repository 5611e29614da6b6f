"""A part of some images, so that several processes or machines can share a run."""

from __future__ import annotations

import re

from robust_cli.messages import UserError

EXPECTED = "k/n with 1 <= k <= n, such as 2/8"


def parsed(shard: str) -> tuple[int, int] | None:
    """(k, n) of the shard 'k/n'; None where the text is none."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", shard)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        return None
    return int(found[1]), int(found[2])


def positions(shard: str | None, images: int) -> range:
    """The positions that shard 'k/n' takes of ``images`` images: every n-th, from the k-th; all of them for None.

    Every image is in exactly one of 1/n .. n/n. Raises UserError unless 1 <= k <= n and there is an image for it.
    """
    if shard is None:
        return range(images)
    found = parsed(shard)
    if found is None:
        raise UserError(f"shard: expected {EXPECTED}, got {shard!r}")
    part, parts = found
    if part > images:
        raise UserError(f"shard: expected at most {images} parts of {images} images, got {shard}")
    return range(part - 1, images, parts)
