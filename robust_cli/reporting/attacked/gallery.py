"""Pictures of adversarial images: original, adversarial, and the difference between them magnified."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robust_cli.reporting.attacked.meeting import pixels
from robust_cli.reporting.figures import Picture
from robust_cli.reporting.reading.load import CLEAN, Attacked

IMAGES = 8  # in a picture
PICTURES = 3  # of a run
_SHORT = 8  # characters of a label and an answer that fit on one line


def gallery_figure(run: Attacked, attack: str, budget: float, count: int = IMAGES) -> Figure:
    """A column each for ``count`` images of a stored attack, fooled ones first: original, adversarial, difference.

    budget: infinity for an attack without one. Above: label -> answer. The difference of each image is magnified by the factor
    below it, so that its largest |change| fills the range; grey is no change. Raises UserError where the images are not stored.
    """
    rows = _chosen(run, attack, budget, count)
    at = run.positions(rows["index"].to_numpy())
    originals, adversarial = pixels(run.originals()[at]), pixels(run.adversarial(attack, budget)[at])
    figure = Figure(figsize=(0.6 + 0.95 * max(len(rows), 4), 3.6))
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, max(len(rows), 1), squeeze=False, gridspec_kw={"wspace": 0.08, "hspace": 0.06})
    for axes, name in zip(grid[:, 0], ("original", "adversarial", "difference"), strict=True):
        axes.set_ylabel(name, fontsize=9)
    for column, (_, row) in zip(grid.T, rows.iterrows(), strict=False):
        _column(column, _words(run, int(row["label"]), int(row["predicted"])), originals[0], adversarial[0])
        originals, adversarial = originals[1:], adversarial[1:]
    return figure


def _chosen(run: Attacked, attack: str, budget: float, count: int) -> pd.DataFrame:
    """The rows to show: fooled before standing before wrong when clean, and of each label one before a second of any."""
    rows = run.of(attack)
    rows = rows[rows["budget"] == budget]
    right = rows["index"].isin(_right(run))
    rows = rows.assign(turn=np.where(right & (rows["robust"] == 0), 0, np.where(right, 1, 2)))
    rows = rows.assign(repeat=rows.groupby(["turn", "label"]).cumcount())
    return rows.sort_values(["turn", "repeat", "index"])[:count]


def _right(run: Attacked) -> pd.Series:
    clean = run.of(CLEAN)
    return clean.loc[clean["robust"] == 1, "index"]


def _words(run: Attacked, label: int, answer: int) -> str:
    names = [str(name) for name in run.about.get("class_names") or range(int(run.about["classes"]))]
    none = "tie" if run.about.get("classifier") == "smoothed" else "none"
    said = names[answer] if answer >= 0 else none
    return f"{names[label]} -> {said}" if len(names[label] + said) <= _SHORT else f"{names[label]}\n-> {said}"


def _column(column: Sequence[Axes], title: str, original: np.ndarray, adversarial: np.ndarray) -> None:
    """original, adversarial: float64 [C, H, W] in [0, 1]."""
    difference = adversarial - original
    largest = float(np.abs(difference).max())
    factor = 0.5 / largest if largest > 0 else 1.0
    for axes, image in zip(column, (original, adversarial, 0.5 + factor * difference), strict=True):
        shown = image.transpose(1, 2, 0) if len(image) == 3 else image.mean(0)
        axes.imshow(np.clip(shown, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
    column[0].set_title(title, fontsize=9)
    column[2].set_xlabel(f"x {factor:.3g}" if largest > 0 else "no change", fontsize=9)


def galleries(run: Attacked) -> list[Picture]:
    """At most three pictures of a run's own attacks, of those whose images are stored: for each norm the strongest attack at the
    smallest budget that fools enough images for a picture, and of attacks without budgets the one whose examples are nearest."""
    fooled = _fooled(run)
    found = [_best(fooled[(fooled["norm"] == norm) & np.isfinite(fooled["budget"])]) for norm in fooled["norm"].unique()]
    nearest = _nearest(fooled[np.isinf(fooled["budget"])])
    chosen = [c for c in found if c is not None][:PICTURES - len(nearest)] + nearest
    return [_picture(run, attack, norm, budget) for attack, norm, budget in chosen]


def _fooled(run: Attacked) -> pd.DataFrame:
    """A row for each (attack, norm, budget) with images to show: how many are fooled, and their median distance."""
    rows = run.outcomes[run.outcomes["attack"].isin(run.own) & (run.outcomes["robust"] == 0)]
    rows = rows[rows["index"].isin(_right(run))]
    groups = rows.groupby(["attack", "norm", "budget"], sort=False, as_index=False)
    found = groups.agg(fooled=("index", "size"), l2=("l2", "median"), linf=("linf", "median"))
    stored = [run.folder.originals.exists() and run.folder.adversarial(a, b).exists()
              for a, b in zip(found["attack"], found["budget"], strict=True)]
    return found[np.array(stored, dtype=bool)]


def _best(found: pd.DataFrame) -> tuple[str, str, float] | None:
    enough = found[found["fooled"] >= IMAGES]
    if len(enough):
        found = enough[enough["budget"] == enough["budget"].min()]
    if not len(found):
        return None
    best = found.sort_values("fooled", ascending=False, kind="stable").iloc[0]
    return str(best["attack"]), str(best["norm"]), float(best["budget"])


def _nearest(found: pd.DataFrame) -> list[tuple[str, str, float]]:
    """Of attacks that fool as good as all that any of them does, the one with the smallest median in its first norm, l2 before
    others."""
    found = found[found["fooled"] >= 0.95 * found["fooled"].max()] if len(found) else found
    found = found.assign(other=found["norm"] != "l2").sort_values(["other", "l2"], kind="stable")
    return [(str(row["attack"]), str(row["norm"]), float(row["budget"])) for _, row in found[:1].iterrows()]


def _picture(run: Attacked, attack: str, norm: str, budget: float) -> Picture:
    size = "closest" if np.isinf(budget) else f"{budget:g}"
    at = f"the closest found in {norm}" if np.isinf(budget) else f"at {norm} {budget:g}"
    caption = (f"Images of {attack}, {at} ({run.about.get('regime')}, {run.about.get('model')}): original, adversarial, and the "
               "difference between them, magnified by the factor below (grey: no change). Above: label -> answer.")
    return Picture(f"adversarial_{attack}_{size}", gallery_figure(run, attack, budget), caption)
