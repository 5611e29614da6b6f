"""Robust accuracy against budget and what belongs beside it, from outcome rows of one attack.

A frame here has one row per (budget, image) of one attack, and budget 0 for the clean outcome. ``robust`` is 1 only where the
image is classified as its label clean and after the attack, so accuracy is over all images of the subset. A closest-example
attack, whose rows have budget infinity, is counted at the budgets of its norm: fooled, at a distance within the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from robust_cli.reporting.certified.accuracy import points
from robust_cli.reporting.estimates import Estimate, estimate, over_runs
from robust_cli.reporting.reading.load import CLEAN, Attacked

Frames = Sequence[pd.DataFrame]
COLUMNS = ["budget", "index", "label", "robust", "l2", "linf", "forward", "backward"]
PAPERS_VOTES = 10
FEW_VOTES = 100  # with fewer, what is attacked is the classifier that takes so many votes, not the smoothed one it stands for
TOLERANCE = 1e-6  # relative, on a budget, as the evaluation grants it to attacks with one


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


def target(about: dict[str, Any]) -> str:
    """What was attacked, in words."""
    if about.get("classifier") != "smoothed":
        return "the base classifier"
    votes = about.get("decision_votes")
    papers = " (the papers' choice)" if votes == PAPERS_VOTES else ""
    layer = (about.get("smoothing") or {}).get("layer") or "input"
    where = "" if layer == "input" else f", noise in the {layer} layer"
    if isinstance(votes, int) and votes < FEW_VOTES:
        return f"the classifier with {votes} votes{papers}{where}"
    return f"the smoothed classifier, decided by {votes} votes{where}"


def is_closest(run: Attacked, attack: str) -> bool:
    """Whether an attack of a run looked for the closest examples, without a budget."""
    return bool(np.isinf(run.of(attack)["budget"]).all())


def frame(run: Attacked, attack: str) -> pd.DataFrame:
    """One attack's rows with the clean rows of its images as budget 0; those of a closest-example attack at every budget."""
    rows, clean = run.of(attack), run.of(CLEAN)
    rows = rows[rows["budget"] > 0]
    clean = clean[clean["index"].isin(rows["index"])]
    if is_closest(run, attack):
        budgets = run.about.get("budgets") or {}  # of a norm in which only another run's images are measured there are none
        rows = _within(rows, clean, budgets.get(rows["norm"].iloc[0]) or [])
    return pd.concat([clean.assign(budget=0.0), rows])[COLUMNS].sort_values(["budget", "index"], ignore_index=True)


def _within(rows: pd.DataFrame, clean: pd.DataFrame, budgets: Sequence[float]) -> pd.DataFrame:
    """The rows of closest examples at each budget; an image robust at a budget that its example exceeds. Its cost is the whole
    search's at each of them."""
    right = clean.set_index("index")["robust"].loc[rows["index"]].to_numpy() == 1
    distance, fooled = rows[rows["norm"].iloc[0]].to_numpy(), rows["robust"].to_numpy() == 0
    parts = [rows.assign(budget=float(b), robust=(right & ~(fooled & (distance <= b * (1 + TOLERANCE)))).astype(int))
             for b in budgets]
    return pd.concat(parts) if parts else rows[:0]


def measured(norm: str) -> str:
    """The column of distances to show for attacks of a norm: its own, or l2 where rows hold none of it (l1, std)."""
    return norm if norm in COLUMNS else "l2"


def worst_case(frames: Frames, norm: str) -> pd.DataFrame:
    """Per image and budget the worst over attacks, at the budgets that every attack was given.

    An image is robust only if every attack failed on it; its distance is the smallest of the successful examples; costs add up.
    """
    budgets = set.intersection(*(set(f["budget"]) for f in frames))
    rows = pd.concat(frames)
    rows = rows[rows["budget"].isin(budgets)].sort_values(["budget", "index", "robust", measured(norm)])
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
    distances = np.concatenate([_successful(f, budget)[measured(norm)].to_numpy(dtype=np.float64) for f in frames])
    mean, median = (float(np.mean(distances)), float(np.median(distances))) if len(distances) else (np.nan, np.nan)
    return Cell(budget, accuracy(frames, budget), len(distances), mean, median, float(rows["forward"].mean()),
                float(rows["backward"].mean()))


def _successful(f: pd.DataFrame, budget: float) -> pd.DataFrame:
    """Rows of images that are right when clean and fooled at this budget."""
    clean = f[(f["budget"] == 0) & (f["robust"] == 1)]["index"]
    return f[(f["budget"] == budget) & (f["robust"] == 0) & f["index"].isin(clean)]
