"""Robust accuracy against budget and what belongs beside it, from outcome rows of one attack.

A frame here has one row per (budget, image) of one attack, and budget 0 for the clean outcome. ``robust`` is 1 only where the
image is classified as its label clean and after the attack, so accuracy is over all images of the subset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from robust_cli.reporting.certified import points
from robust_cli.reporting.estimates import Estimate, estimate, over_runs
from robust_cli.reporting.load import CLEAN, Attacked

Frames = Sequence[pd.DataFrame]
COLUMNS = ["budget", "index", "label", "robust", "l2", "linf", "forward", "backward"]
PAPERS_VOTES = 10


@dataclass(frozen=True)
class Cell:
    """One attack at one budget. Distances are of successful examples, NaN where there are none; costs: means per image."""

    budget: float
    accuracy: Estimate
    successes: int
    mean_distance: float
    median_distance: float
    forward: float
    backward: float


def target(about: dict[str, object]) -> str:
    """What was attacked, in words."""
    if about.get("classifier") != "smoothed":
        return "the base classifier"
    votes = about.get("decision_votes")
    papers = " (the papers' choice)" if votes == PAPERS_VOTES else ""
    return f"the smoothed classifier, decided by {votes} votes{papers}"


def frame(run: Attacked, attack: str) -> pd.DataFrame:
    """One attack's rows with the clean rows of its images as budget 0."""
    rows, clean = run.of(attack), run.of(CLEAN)
    rows = rows[rows["budget"] > 0]
    clean = clean[clean["index"].isin(rows["index"])]
    return pd.concat([clean.assign(budget=0.0), rows])[COLUMNS].sort_values(["budget", "index"], ignore_index=True)


def worst_case(frames: Frames, norm: str) -> pd.DataFrame:
    """Per image and budget the worst over attacks, at the budgets that every attack was given.

    An image is robust only if every attack failed on it; its distance is the smallest of the successful examples; costs add up.
    """
    budgets = set.intersection(*(set(f["budget"]) for f in frames))
    rows = pd.concat(frames)
    rows = rows[rows["budget"].isin(budgets)].sort_values(["budget", "index", "robust", norm])
    groups = rows.groupby(["budget", "index"], as_index=False)
    worst = groups.first()
    worst[["forward", "backward"]] = groups[["forward", "backward"]].sum()[["forward", "backward"]]
    clean = worst["budget"] == 0
    worst.loc[clean, ["forward", "backward"]] /= len(frames)
    return worst[COLUMNS]


def curve(frames: Frames) -> pd.DataFrame:
    """Robust accuracy at each budget: columns budget, accuracy, error, images, runs."""
    budgets = sorted(set.intersection(*(set(f["budget"]) for f in frames)))
    return points("budget", budgets, [accuracy(frames, b) for b in budgets])


def accuracy(frames: Frames, budget: float) -> Estimate:
    """Robust accuracy at one budget, of one run or of runs that differ in their seeds."""
    return over_runs([estimate(f.loc[f["budget"] == budget, "robust"].to_numpy()) for f in frames])


def cells(frames: Frames, norm: str) -> list[Cell]:
    """The rows of an attack table: every budget above 0, runs of several seeds pooled for distances and costs."""
    budgets = curve(frames)["budget"]
    return [_cell(frames, float(b), norm) for b in budgets if b > 0]


def _cell(frames: Frames, budget: float, norm: str) -> Cell:
    rows = pd.concat([f[f["budget"] == budget] for f in frames])
    distances = np.concatenate([_successful(f, budget)[norm].to_numpy(dtype=np.float64) for f in frames])
    mean, median = (float(np.mean(distances)), float(np.median(distances))) if len(distances) else (np.nan, np.nan)
    return Cell(budget, accuracy(frames, budget), len(distances), mean, median, float(rows["forward"].mean()),
                float(rows["backward"].mean()))


def _successful(f: pd.DataFrame, budget: float) -> pd.DataFrame:
    """Rows of images that are right when clean and fooled at this budget."""
    clean = f[(f["budget"] == 0) & (f["robust"] == 1)]["index"]
    return f[(f["budget"] == budget) & (f["robust"] == 0) & f["index"].isin(clean)]
