"""The closest examples found by attacks without a budget: how far away they are.

An image that is wrong when clean is at distance 0. One for which no example was found has none: it counts as infinitely far
away in the medians and takes no part in the means.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from robust_cli.reporting.attacked import accuracy as attacked
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.reading.load import CLEAN, Attacked
from robust_cli.reporting.tables import EMPTY, Table, number

MEASURES = {"l2": "l2", "linf": "linf", "squared": "mean squared error", "relative": "relative l2"}
_NOTE = (
    "Over all images: one that is wrong when clean is at distance 0. Success: images with an adversarial example or wrong when "
    "clean. Images without one count as infinitely far away in the medians ('none found' where half of them are) and are "
    "left out of the means, so means compare only between attacks that always succeed. Mean squared error: |d|^2 over the "
    "number of pixels and channels; relative l2: |d| / |x| (its mean is DeepFool's rho). Passes are means per image.")


def measures(run: Attacked, attack: str) -> pd.DataFrame:
    """One attack's images with columns index, l2, linf, squared, relative (infinite where none was found), forward, backward."""
    rows, clean = run.of(attack), run.of(CLEAN).set_index("index")["robust"]
    right = clean.loc[rows["index"]].to_numpy() == 1
    found = rows[["index", "l2", "linf", "forward", "backward"]].copy()
    originals = run.originals()
    found["squared"] = found["l2"] ** 2 / np.prod(originals.shape[1:])
    found["relative"] = found["l2"] / np.maximum(_lengths(originals, run.positions(rows["index"].to_numpy())), 1e-12)
    found.loc[right & (rows["robust"].to_numpy() == 1), list(MEASURES)] = np.inf
    found.loc[~right, list(MEASURES)] = 0.0
    return found


def _lengths(originals: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The l2 norm of each stored image in pixel units, [n]."""
    scale = 255.0 if originals.dtype == np.uint8 else 1.0
    return np.array([np.linalg.norm(originals[p].astype(np.float64).ravel()) / scale for p in positions])


def closest_table(lines: Sequence[Line[Attacked]]) -> Table | None:
    """A row for each attack without a budget, runs of several seeds pooled; none where there is no such attack."""
    rows, data = [], []
    for line in lines:
        if line.is_worst_case or not line.is_own or not attacked.is_closest(line.runs[0], line.part):
            continue
        found = pd.concat([measures(run, line.part) for run in line.runs])
        success = float(np.isfinite(found["l2"]).mean())
        numbers = {f"{kind}_{name}": value for name in MEASURES for kind, value in _averages(found[name].to_numpy()).items()}
        costs = {name: float(found[name].mean()) for name in ("forward", "backward")}
        rows.append([line.title, line.norm, str(len(found)), f"{100 * success:.1f}", *map(_shown, numbers, numbers.values()),
                     *(number(value, 0) for value in costs.values())])
        data.append({"line": line.title, "norm": line.norm, "images": len(found), "success": success, **numbers, **costs})
    if not rows:
        return None
    words = [f"{kind} of {measure}" if " " in measure else f"{kind} {measure}" for measure in MEASURES.values()
             for kind in ("mean", "median")]
    columns = ["", "norm", "images", "success %", *words, "forward", "backward"]
    return Table("closest", "Closest adversarial examples", pd.DataFrame(data), columns, rows, [_NOTE])


def _averages(values: np.ndarray) -> dict[str, float]:
    finite = values[np.isfinite(values)]
    middle = np.sort(values)[[(len(values) - 1) // 2, len(values) // 2]]  # np.median makes nan of two infinities
    median = float(middle.mean()) if np.isfinite(middle).all() else np.inf
    return {"mean": float(finite.mean()) if len(finite) else np.nan, "median": median}


def _shown(name: str, value: float) -> str:
    if np.isinf(value):
        return "none found"
    return number(value, 6 if name.endswith("squared") else 4) if np.isfinite(value) else EMPTY
