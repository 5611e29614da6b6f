"""What STN prints beside ours: certified accuracy at a radius, of the provable defence that it quotes and of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from robust_cli.reporting.certified import accuracy as certified
from robust_cli.reporting.certified import exact, levels
from robust_cli.reporting.certified import tables as certified_tables
from robust_cli.reporting.certified.tables import SPREAD
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.published.printed import OURS, published
from robust_cli.reporting.reading.about import noise_layer, of_softmax
from robust_cli.reporting.reading.load import Certified
from robust_cli.reporting.tables import Table, percent

STN = "STN (Li et al. 2019), Table 1"
_NEAR = 1e-3  # relative: a radius asked for that stands for the printed one (0.1412 for 36/255, sqrt(784 / pi) / 10 for 1.58)
_NOTE = ("Published numbers are as printed, in % of the full test set; other networks, other intervals. lp_dual: the provable "
         "defence of Wong et al. (2018), which STN quotes; its cascade's count is a claim (Mangal et al. 2023).")
_SHARED = "Ours are of the {} images that all of our lines have in common."
_APART = "Ours are not of the same images: compare them by the paired differences."


def beside_ours(lines: Sequence[Line[Certified]]) -> Table | None:
    """STN's certified accuracies with ours at the same radius, on the same images where ours share them, for data sets where one
    of our regimes is among its methods; of ours those of its classifiers alone: decided by votes under noise on the image, or the
    network itself."""
    rows: list[list[object]] = []
    data: list[dict[str, Any]] = []
    shown: list[Line[Certified]] = []
    notes: list[str] = []
    for dataset, printed in published("stn_table1").groupby("dataset", sort=False):
        ours = [line for line in lines if line.about.get("dataset") == dataset and line.norm == "l2"
                and not line.about.get("published") and not of_softmax(line.about, line.part)
                and noise_layer(line.about) == "input"]
        methods = {str(m).split()[0] for m in printed["method"]}
        if not any(line.about.get("regime") in methods for line in ours):
            continue
        ours, note = _on_the_same_images(ours)
        shown, notes = shown + ours, notes + note
        for row in _records(printed):
            rows.append([row["method"], STN, dataset, f"{row['radius_l2']:g}", f"{row['certified_accuracy']:.1f}",
                         f"{row['natural_accuracy']:.1f}", row["remark"]])
            data.append({**row, "claimed": "cascade" in row["method"], "source": STN})
        for found in (_measured(line, float(radius)) for radius in printed["radius_l2"].unique() for line in ours):
            rows.append([found["method"], OURS, dataset, f"{found['radius_l2']:g}", *found.pop("cells"), found["remark"]])
            data.append({"dataset": dataset, **found, "source": OURS})
    if not rows:
        return None
    columns = np.unique([row["radius_l2"] for row in data])
    return Table("published", "Published numbers beside ours", pd.DataFrame(data),
                 ["", "source", "data set", "radius", "certified %", "natural %", "remark"],
                 [[str(c) for c in row] for row in rows],
                 [_NOTE, *dict.fromkeys(notes), SPREAD, *exact.notes(shown), *levels.notes(shown, columns)])


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _measured(line: Line[Certified], radius: float) -> dict[str, Any]:
    """One line's certified accuracy at a printed radius, or at the nearly equal one that it was asked for, with its cells."""
    asked = levels.preset(line)
    at = asked if asked is not None and abs(asked / radius - 1) < _NEAR else radius
    (accuracy,), natural = certified_tables.tested(line, [at]), certified.natural(line.tables)
    remark = f"{accuracy.images} images, {line.facets.get('samples', 'n not said')}" + ", claimed" * line.is_claim
    remark += f"; asked for {asked:.6g}" if asked is not None and asked != radius else ""
    return {"method": line.title, "radius_l2": radius, "certified_accuracy": 100 * accuracy.value,
            "certified_error": 100 * accuracy.error, "natural_accuracy": 100 * natural.value,
            "natural_error": 100 * natural.error, "images": accuracy.images, "claimed": line.is_claim, "remark": remark,
            "cells": [percent(accuracy), percent(natural)]}


def _on_the_same_images(lines: Sequence[Line[Certified]]) -> tuple[list[Line[Certified]], list[str]]:
    """The lines on the images that all of them have, where those are at least half of the fewest, and what is to be said."""
    images = [frozenset(table["index"]) for line in lines for table in line.tables]
    common = frozenset.intersection(*images)
    if len(set(images)) == 1:
        return list(lines), []
    if 2 * len(common) < min(map(len, images)):
        return list(lines), [_APART]
    return [replace(line, tables=tuple(table[table["index"].isin(common)].reset_index(drop=True) for table in line.tables))
            for line in lines], [_SHARED.format(len(common))]
