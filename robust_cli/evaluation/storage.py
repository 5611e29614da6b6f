"""The files of an attack run: the subset attacked, the rows' columns, and the adversarial images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from robust_cli.datasets.images import Images
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder

CLEAN = "none"  # the attack's name in the rows of clean outcomes, whose norm is empty and whose budget is 0
FIXED = ("attack", "norm", "budget", "index", "label", "predicted", "robust", "l2", "linf", "forward", "backward")


def columns(classes: int) -> list[str]:
    """The columns of outcomes.csv.

    predicted: the class, -1 on a tie of votes or where the network's answer is not a number; robust: 0 or 1; l2, linf: distance
    of the stored image, float64; forward, backward: the attack's passes for that image, noisy copies counted; votes: empty
    for a base classifier.
    """
    return [*FIXED, *(f"votes_{k}" for k in range(classes))]


def rows_there(outcomes: Path) -> list[str]:
    """The attack's name of every row that a run has written, none where it has not begun."""
    if not outcomes.exists():
        return []
    return [line.split(",", 1)[0] for line in outcomes.read_text(encoding="utf-8").splitlines()[1:]]


def keep_originals(images: Images, folder: RunFolder) -> None:
    """Write the subset and its indices into the folder, or raise UserError if others are there."""
    for path, tensor in ((folder.originals, images.pixels), (folder.indices, images.indices)):
        array = tensor.cpu().numpy()
        if not path.exists():
            part = path.with_name(path.name + ".part")
            with part.open("wb") as file:
                np.save(file, array)
            os.replace(part, path)
        elif not np.array_equal(_stored(path), array):
            raise UserError(f"{path}: expected the images of this run, found others; begin a new run instead of resuming it")


def _stored(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: expected the images of this run, found a damaged file ({error}); begin a new run") from error


def open_images(path: Path, shape: tuple[int, ...], begun: bool) -> np.memmap[Any, Any]:
    """A file of float32 images to write into, made anew unless rows of it exist (``begun``).

    Raises UserError if they do and the file is damaged or has another shape.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not begun:
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    try:
        found = np.lib.format.open_memmap(path, mode="r+")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected the images of the rows in outcomes.csv, cannot read them ({error})") from error
    if found.shape != shape or found.dtype != np.float32:
        raise UserError(f"{path}: expected float32 {list(shape)}, found {found.dtype} {list(found.shape)}")
    return found
