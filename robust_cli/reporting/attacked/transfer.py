"""Transfer: adversarial images made on one model, put before another. A matrix for each attack, norm and budget.

Rows are the classifiers that answer, columns the models on which the images were made. On the diagonal stands the white box: a
run's own attack on its own model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd

from robust_cli.messages import UserError
from robust_cli.reporting.estimates import estimate
from robust_cli.reporting.lines.facets import TRAINING, of_model
from robust_cli.reporting.lines.titles import titles
from robust_cli.reporting.reading.about import noise_layer
from robust_cli.reporting.reading.load import Attacked
from robust_cli.reporting.tables import EMPTY, Table, percent
from robust_cli.runs.folder import RunFolder

_NOTE = ("Accuracy on the adversarial images in %, with one standard error: right on the clean image and still right. Rows: who "
         "answers; columns: the model on which the images were made. *: white box, the images were made on this very model.")
_WORDED = 5  # columns with words above them
_Model = tuple[dict[str, Any], dict[str, Any] | None]  # its about.json, and the settings of its training where they are known
Target = tuple[str, str, str, str, str]  # a classifier that answers: fingerprint, base or smoothed, noise, its kind, its place


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
    kind, place = (str(about.get("noise") or "gaussian"), noise_layer(about)) if about.get("noise_std") else ("", "")
    return str(about["model_fingerprint"]), str(about.get("classifier")), str(about.get("noise_std") or ""), kind, place


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
    part = {*matrix.columns, *(target[0] for target in matrix.rows)}
    for run in runs:
        target = _target(run)
        if target[0] not in part or run.about.get("dataset") != matrix.dataset or matrix.attack not in run.own:
            continue
        rows = run.of(matrix.attack)
        rows = rows[(rows["budget"] == matrix.budget) & (rows["norm"] == matrix.norm)]
        if len(rows) and (target, target[0]) not in matrix.white:
            matrix.cells[target, target[0]] = rows.set_index("index")["robust"]
            matrix.white.add((target, target[0]))


def _models(runs: Sequence[Attacked]) -> dict[str, _Model]:
    """What is known of each model by fingerprint: from the runs, from the folders of the sources, or the title they left."""
    found = {str(run.about["model_fingerprint"]): (run.about, run.training) for run in runs}
    for run in runs:
        for made in (run.about.get("transfer") or {}).values():
            if made["fingerprint"] not in found:
                found[str(made["fingerprint"])] = (_source(made), None)
    return found


def _source(made: dict[str, Any]) -> dict[str, Any]:
    try:
        about = RunFolder(str(made.get("source"))).read_about()
    except UserError:
        about = {}
    return about if about.get("model_fingerprint") == made["fingerprint"] else {"regime": made.get("title")}


def _titles(models: dict[str, _Model]) -> dict[str, str]:
    """By fingerprint: the regime, with the settings of the training that differ; the seed, and itself, if need be."""
    facets = [of_model(about, training) for about, training in models.values()]
    values = {key: {f[key] for f in facets if key in f} for f in facets for key in f}
    told = [key for key in values if key == "regime" or (len(values[key]) > 1 and _of_training(key))]
    called = [title or "unknown" for title in titles([{key: f[key] for key in told if key in f} for f in facets])]
    seeds = [str(about.get("train_seed", "")) for about, _ in models.values()]
    alike = [{seed for other, seed in zip(called, seeds, strict=True) if other == title and seed} for title in called]
    seeded = [f"{title}, seed {seed}" if seed and len(among) > 1 else title
              for title, seed, among in zip(called, seeds, alike, strict=True)]
    return {f: f"{title} ({f[:8]})" if seeded.count(title) > 1 else title for f, title in zip(models, seeded, strict=True)}


def _of_training(key: str) -> bool:
    return key in ("model", "training_noise_std") or key.startswith(TRAINING)


def _lettered(columns: Sequence[str]) -> bool:
    """Whether column headings are letters that the rows explain: words that stand beside one another would be too many."""
    return len(columns) > _WORDED and len(columns) <= len(ascii_uppercase)


def _row_titles(rows: Sequence[Target], titles: dict[str, str]) -> dict[Target, str]:
    """As the columns', with the kind of classifier where the rows are not all of one kind."""
    if len({row[1:] for row in rows}) <= 1:
        return {row: titles[row[0]] for row in rows}
    return {row: f"{titles[row[0]]}, {_answering(*row[1:])}" for row in rows}


def _answering(classifier: str, noise: str, kind: str, place: str) -> str:
    """A kind of classifier in words; Gaussian noise on the image goes without saying."""
    unusual = f" {kind}" * (kind not in ("", "gaussian")) + f" in the {place} layer" * (place not in ("", "input"))
    return f"{classifier} {noise}".rstrip() + unusual


def _table(matrix: _Matrix, models: dict[str, _Model], several: bool) -> Table:
    names = _titles({f: models[f] for f in dict.fromkeys([*matrix.columns, *(row[0] for row in matrix.rows)])})
    row_names = _row_titles(matrix.rows, names)
    shared = set.intersection(*(set(cell.index) for cell in matrix.cells.values()))
    heads = dict(zip(matrix.columns, ascii_uppercase, strict=False)) if _lettered(matrix.columns) else {}
    rows, data = [], []
    for target in matrix.rows:
        shown = [f"{heads[target[0]]}: {row_names[target]}" if target[0] in heads else row_names[target]]
        for made in matrix.columns:
            cell = matrix.cells.get((target, made))
            if cell is None:
                shown.append(EMPTY)
                continue
            accuracy = estimate(cell[cell.index.isin(shared)] if shared else cell)
            white = (target, made) in matrix.white
            shown.append(percent(accuracy) + " *" * white + (f" ({accuracy.images} images)" if not shared else ""))
            data.append({"dataset": matrix.dataset, "attack": matrix.attack, "norm": matrix.norm, "budget": matrix.budget,
                         "answers": row_names[target],
                         "made_on": names[made], "fingerprint": target[0], "made_on_fingerprint": made, "white_box": white,
                         "accuracy": accuracy.value, "error": accuracy.error, "images": accuracy.images})
        rows.append(shown)
    size = "closest" if np.isinf(matrix.budget) else f"{matrix.budget:g}"
    at = f"the closest in {matrix.norm}" if np.isinf(matrix.budget) else f"at {matrix.norm} {size}"
    of = f" on {matrix.dataset}" if several else ""
    return Table("_".join(["transfer", *([matrix.dataset] if several else []), matrix.attack, matrix.norm, size]),
                 f"Transfer of {matrix.attack}, {at}{of}", pd.DataFrame(data),
                 ["", *(heads.get(c, names[c]) for c in matrix.columns)], rows,
                 [_NOTE, _images(matrix, len(shared)), *_unseen(matrix, heads, names)])


def _unseen(matrix: _Matrix, heads: dict[str, str], names: dict[str, str]) -> list[str]:
    """What the letters of columns stand for that no row explains."""
    answering = {target[0] for target in matrix.rows}
    left = [f"{head}: {names[made]}" for made, head in heads.items() if made not in answering]
    return [f"Columns without a row: {'; '.join(left)}."] if left else []


def _images(matrix: _Matrix, shared: int) -> str:
    sizes = [len(cell) for cell in matrix.cells.values()]
    if not shared:
        return "The cells have no image in common: each is over its own."
    return f"All cells are over the same {shared} images" + (f", of up to {max(sizes)} a cell." if max(sizes) > shared else ".")
