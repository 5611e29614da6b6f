"""The measures that attack runs took besides outcomes: their tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from robust_cli.messages import UserError
from robust_cli.reporting.attacked.meeting import pixels
from robust_cli.reporting.figures import Picture
from robust_cli.reporting.measured import curves as measured
from robust_cli.reporting.measured.covariances import functions_figure, matrices_figure
from robust_cli.reporting.reading.load import Attacked
from robust_cli.reporting.tables import Table

Frames = Sequence[pd.DataFrame]
# By the class of a measure: its figure, its table and what the figure shows.
_SHOWN: dict[str, tuple[Callable[[Frames, Sequence[str]], Figure], Callable[[Frames, Sequence[str]], Table], str]] = {
    "NoiseRobustness": (measured.noise_figure, measured.noise_table,
                        "How often the answer stays the same under noise of one length (its area: GNR), and accuracy there."),
    "GradientNorms": (measured.gradient_figure, measured.gradient_table,
                      "Mean l2 length of the loss gradient at each gradient that an attack takes (SO, Figure 2 left)."),
    "SoftmaxPath": (measured.softmax_figure, measured.softmax_table,
                    "Softmax probability of the label and of the class answered, on the way to the adversarial image (SGR, "
                    "Figure 6)."),
}
_FUNCTIONS = ("Covariance of perturbations by distance of two pixels, beside the data's (SGR, Figure 2); dotted: exp(-r / decay "
              "length) of long-range correlated noise.")
_MATRICES = "Covariance matrices of perturbations at the largest budget and of the images, central half (SGR, Figure 1)."

_IMAGES = "the images"


def tables(runs: Sequence[Attacked], titles: Sequence[str]) -> list[Table]:
    """A table for each kind of measure, over all runs that took it."""
    found = []
    for kind, (_, table, _) in _SHOWN.items():
        taken = [(frame, title) for run, title in zip(runs, titles, strict=True) for _, frame in of_kind(run, kind)]
        if taken:
            found.append(table(*map(list, zip(*taken, strict=True))))
    return found


def pictures(run: Attacked) -> list[Picture]:
    """A picture for each measure of one run, two for covariances."""
    found = []
    for kind, (figure, _, caption) in _SHOWN.items():
        found += [Picture(name, figure([frame], [""]), caption) for name, frame in of_kind(run, kind)]
    for name, frame in of_kind(run, "Covariances"):
        found.append(Picture(f"{name}_functions", functions_figure(frame), _FUNCTIONS))
        found.append(Picture(f"{name}_matrices", matrices_figure(_perturbations(run), (_IMAGES,)), _MATRICES))
    return found


def of_kind(run: Attacked, kind: str) -> list[tuple[str, pd.DataFrame]]:
    """(name, rows) of a run's measures of one class; none where nothing could be measured."""
    taken: dict[str, Any] = run.about.get("measures") or {}
    names = [name for name, target in taken.items() if str(target).rsplit(".", 1)[-1] == kind]
    return [(name, frame) for name in names if len(frame := _rows(run, name))]


def _rows(run: Attacked, name: str) -> pd.DataFrame:
    path = run.folder.table(name)
    try:
        return pd.read_csv(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected the rows of measure.{name} ({error}); "
                        f"go on with the run, resume={run.folder}") from error


def _perturbations(run: Attacked) -> dict[str, np.ndarray]:
    """What each attack of the run added at its largest budget, images it did not move left out; and the images themselves."""
    originals = pixels(run.originals())
    found = {}
    for name in (name for name in run.names if "@" not in name):
        delta = run.adversarial(name, float(run.of(name)["budget"].max())) - originals
        moved = delta[np.abs(delta).max(axis=(1, 2, 3)) > 0]
        if len(moved):
            found[name] = moved
    return {**found, _IMAGES: originals}
