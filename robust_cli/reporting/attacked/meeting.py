"""How far the images of an attack run are from one image into which all of them could be turned.

Within a ball that holds it, whatever the classifier answers on that image is wrong for all classes but one.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from robust_cli.reporting.reading.load import Attacked

_BLOCK = 256


def distances_to_meeting(run: Attacked, indices: np.ndarray, norm: str) -> pd.Series:
    """By image index the distance in pixel units, float64, to the meeting image: the middle of each pixel's range (linf) or its
    mean (l1, l2) over the images. Infinite in a norm that is none of these."""
    at = run.positions(indices)
    blocks = [at[start:start + _BLOCK] for start in range(0, len(at), _BLOCK)]
    originals = run.originals()
    if norm not in ("l1", "l2", "linf") or not blocks:
        return pd.Series(np.inf, index=indices)
    if norm == "linf":
        low = np.min([pixels(originals[block]).min(0) for block in blocks], axis=0)
        meeting = (low + np.max([pixels(originals[block]).max(0) for block in blocks], axis=0)) / 2
    else:
        meeting = np.sum([pixels(originals[block]).sum(0) for block in blocks], axis=0) / len(at)
    order = {"l1": 1.0, "l2": 2.0, "linf": np.inf}[norm]
    apart = [np.linalg.norm((pixels(originals[block]) - meeting).reshape(len(block), -1), ord=order, axis=1) for block in blocks]
    return pd.Series(np.concatenate(apart), index=indices)


def pixels(stored: np.ndarray) -> np.ndarray:
    """Stored images, bytes or float32, as float64 in [0, 1]."""
    return stored.astype(np.float64) / (255.0 if stored.dtype == np.uint8 else 1.0)
