"""Transfer: adversarial images made on one model, put before another. A matrix for each attack, norm and budget.

Rows are the classifiers that answer, columns the models on which the images were made. On the diagonal stands the white box: a
run's own attack on its own model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from robust_cli.messages import UserError
from robust_cli.reporting.estimates import estimate
from robust_cli.reporting.load import Attacked
from robust_cli.reporting.tables import EMPTY, Table, percent
from robust_cli.runs.folder import RunFolder

_NOTE = ("Accuracy on the adversarial images in %, with one standard error: right on the clean image and still right. Rows: who "
         "answers; columns: the model on which the images were made. *: white box, the images were made on this very model.")
Target = tuple[str, str, str]  # a classifier that answers: fingerprint, base or smoothed, noise


@dataclass
class _Matrix:
    """Outcomes of one attack at one budget: by (who answers, fingerprint of the model attacked), robust 0/1 by image index."""

    dataset: str
    attack: str
    norm: str
    budget: float
    cells: dict[tuple[Target, str], pd.Series] = field(default_factory=dict)
    white: set[tuple[Target, str]] = field(default_factory=set)

    @property
    def rows(self) -> list[Target]:
        """Models that images were made on first, in the order of the columns."""
        targets = list(dict.fromkeys(target for target, _ in self.cells))
        order = self.columns
        return sorted(targets, key=lambda t: order.index(t[0]) if t[0] in order else len(order))

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(made for _, made in self.cells))


def transfer_tables(runs: Sequence[Attacked]) -> list[Table]:
    """A matrix for each (attack, norm, budget) of which a run has images of another model.

    Accuracy is over the images that all cells of a matrix share, or, where they share none, over each cell's own, whose number
    then stands beside it.
    """
    matrices = _transfers(runs)
    models = _models(runs)
    for matrix in matrices.values():
        _white_boxes(matrix, runs)
    several = len({matrix.dataset for matrix in matrices.values()}) > 1
    return [_table(matrix, models, several) for matrix in matrices.values()]


def _target(run: Attacked) -> Target:
    about = run.about
    return str(about["model_fingerprint"]), str(about.get("classifier")), str(about.get("noise_std") or "")


def _transfers(runs: Sequence[Attacked]) -> dict[tuple[str, str, str, float], _Matrix]:
    """The matrices, with the cells off the diagonal; of two runs with the same cell the first counts."""
    found: dict[tuple[str, str, str, float], _Matrix] = {}
    for run in runs:
        for name, made in (run.about.get("transfer") or {}).items():
            rows = run.of(name)
            for budget in rows["budget"].unique().tolist():
                part = rows[rows["budget"] == budget]
                key = str(run.about.get("dataset")), str(made["attack"]), str(part["norm"].iloc[0]), float(budget)
                cells = found.setdefault(key, _Matrix(*key)).cells
                cells.setdefault((_target(run), str(made["fingerprint"])), part.set_index("index")["robust"])
    return found


def _white_boxes(matrix: _Matrix, runs: Sequence[Attacked]) -> None:
    """Add the runs' own outcomes of the same attack and budget, where their model takes part in the matrix."""
    part = {*matrix.columns, *(fingerprint for fingerprint, _, _ in matrix.rows)}
    for run in runs:
        target = _target(run)
        if target[0] not in part or run.about.get("dataset") != matrix.dataset or matrix.attack not in run.own:
            continue
        rows = run.of(matrix.attack)
        rows = rows[(rows["budget"] == matrix.budget) & (rows["norm"] == matrix.norm)]
        if len(rows) and (target, target[0]) not in matrix.white:
            matrix.cells[target, target[0]] = rows.set_index("index")["robust"]
            matrix.white.add((target, target[0]))


def _models(runs: Sequence[Attacked]) -> dict[str, dict[str, Any]]:
    """What is known of each model by fingerprint: from the runs, from the folders of the sources, or the title they left."""
    found = {str(run.about["model_fingerprint"]): run.about for run in runs}
    for run in runs:
        for made in (run.about.get("transfer") or {}).values():
            if made["fingerprint"] not in found:
                found[str(made["fingerprint"])] = _source(made)
    return found


def _source(made: dict[str, Any]) -> dict[str, Any]:
    try:
        about = RunFolder(str(made.get("source"))).read_about()
    except UserError:
        about = {}
    return about if about.get("model_fingerprint") == made["fingerprint"] else {"regime": made.get("title")}


def _titles(models: dict[str, dict[str, Any]]) -> dict[str, str]:
    """By fingerprint: the regime, with model, noise and seed of the training where they differ, and itself if need be."""
    words = {"model": "{}", "training_noise_std": "noise {}", "train_seed": "seed {}"}
    keys = [key for key in words if len({str(m[key]) for m in models.values() if m.get(key) is not None}) > 1]
    titles = {fingerprint: ", ".join([str(m.get("regime")), *(words[k].format(m[k]) for k in keys if m.get(k) is not None)])
              for fingerprint, m in models.items()}
    twice = [title for title in titles.values() if list(titles.values()).count(title) > 1]
    return {f: f"{title} ({f[:8]})" if title in twice else title for f, title in titles.items()}


def _row_titles(rows: Sequence[Target], titles: dict[str, str]) -> dict[Target, str]:
    """As the columns', with the kind of classifier where the rows are not all of one kind."""
    if len({row[1:] for row in rows}) <= 1:
        return {row: titles[row[0]] for row in rows}
    return {row: f"{titles[row[0]]}, {row[1]}" + (f" {row[2]}" if row[2] else "") for row in rows}


def _table(matrix: _Matrix, models: dict[str, dict[str, Any]], several: bool) -> Table:
    names = _titles({f: models[f] for f in dict.fromkeys([*matrix.columns, *(row[0] for row in matrix.rows)])})
    row_names = _row_titles(matrix.rows, names)
    shared = set.intersection(*(set(cell.index) for cell in matrix.cells.values()))
    rows, data = [], []
    for target in matrix.rows:
        shown = [row_names[target]]
        for made in matrix.columns:
            cell = matrix.cells.get((target, made))
            if cell is None:
                shown.append(EMPTY)
                continue
            accuracy = estimate(cell[cell.index.isin(shared)] if shared else cell)
            white = (target, made) in matrix.white
            shown.append(percent(accuracy) + " *" * white + (f" ({accuracy.images} images)" if not shared else ""))
            data.append({"attack": matrix.attack, "norm": matrix.norm, "budget": matrix.budget, "answers": row_names[target],
                         "made_on": names[made], "fingerprint": target[0], "made_on_fingerprint": made, "white_box": white,
                         "accuracy": accuracy.value, "error": accuracy.error, "images": accuracy.images})
        rows.append(shown)
    size = "closest" if np.isinf(matrix.budget) else f"{matrix.budget:g}"
    at = f"the closest in {matrix.norm}" if np.isinf(matrix.budget) else f"at {matrix.norm} {size}"
    of = f" on {matrix.dataset}" if several else ""
    return Table("_".join(["transfer", *([matrix.dataset] if several else []), matrix.attack, matrix.norm, size]),
                 f"Transfer of {matrix.attack}, {at}{of}", pd.DataFrame(data), ["", *(names[c] for c in matrix.columns)], rows,
                 [_NOTE, _images(matrix, len(shared))])


def _images(matrix: _Matrix, shared: int) -> str:
    sizes = [len(cell) for cell in matrix.cells.values()]
    if not shared:
        return "The cells have no image in common: each is over its own."
    return f"All cells are over the same {shared} images" + (f", of up to {max(sizes)} a cell." if max(sizes) > shared else ".")
