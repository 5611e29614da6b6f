"""Named subsets: some of a split's images, chosen by a short text that results record."""

from __future__ import annotations

import re

import numpy as np
import torch

from robust_cli.datasets.images import Images
from robust_cli.messages import UserError, Wrong
from robust_cli.runs.streams import stream

_FORMS = "all, first:N, every:K (each K-th image, from the first on) or random:N, with a whole number from 1"


def choose(images: Images, spec: str, seed: int) -> Images:
    """The images that ``spec`` names, in their order; each keeps its index in the data set.

    ``all``; ``first:N``; ``every:K``: positions 0, K, 2K, ...; ``random:N``: N different images, all sets of N equally likely,
    by ``seed`` alone. Raises Wrong("subset", ...) on another text, or on a number larger than there are images.
    """
    if not isinstance(images, Images):
        raise UserError(f"dataset: expected its split() to return robust_cli.datasets.images.Images, got {type(images).__name__}")
    if spec == "all":
        return images
    match = re.fullmatch(r"(first|every|random):([1-9][0-9]{0,17})", spec)
    if match is None:
        raise Wrong("subset", _FORMS, spec)
    form, number = match[1], int(match[2])
    if number > len(images):
        raise Wrong("subset", f"a number up to the {len(images)} images there are", spec)
    return images.select(torch.from_numpy(_positions(form, number, len(images), seed)), spec)


def _positions(form: str, number: int, total: int, seed: int) -> np.ndarray:
    if form == "first":
        return np.arange(number)
    if form == "every":
        return np.arange(0, total, number)
    return np.sort(stream(seed, "subset").choice(total, number, replace=False))
