"""What STN prints beside ours: certified accuracy at a radius."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from robust_cli.reporting.certified import accuracy as certified
from robust_cli.reporting.certified import levels
from robust_cli.reporting.certified import tables as certified_tables
from robust_cli.reporting.certified.tables import SPREAD
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.published.printed import published
from robust_cli.reporting.reading.about import noise_layer, of_votes
from robust_cli.reporting.reading.load import Certified
from robust_cli.reporting.tables import Table, percent

STN = "STN (Li et al. 2019), Table 1"


def beside_ours(lines: Sequence[Line[Certified]]) -> Table | None:
    """STN's certified accuracies with ours at the same radius, for data sets where one of our regimes is among its methods; of
    ours those of its classifier alone, decided by votes under noise on the image."""
    rows, data, shown = [], [], []
    for dataset, printed in published("stn_table1").groupby("dataset", sort=False):
        ours = [line for line in lines if line.about.get("dataset") == dataset and line.norm == "l2"
                and not line.about.get("published") and of_votes(line.about, line.part) and noise_layer(line.about) == "input"]
        methods = {str(m).split()[0] for m in printed["method"]}
        if not any(line.about.get("regime") in methods for line in ours):
            continue
        shown += ours
        for row in printed.to_dict("records"):
            rows.append([row["method"], STN, dataset, f"{row['radius_l2']:g}", f"{row['certified_accuracy']:.1f}",
                         f"{row['natural_accuracy']:.1f}", row["remark"]])
            data.append({**row, "source": STN})
        for radius in printed["radius_l2"].unique():
            for line in ours:
                (accuracy,), natural = certified_tables.tested(line, [float(radius)]), certified.natural(line.tables)
                remark = f"{accuracy.images} images, {line.facets.get('samples', 'n not said')}"
                rows.append([line.title, "this report", dataset, f"{radius:g}", percent(accuracy), percent(natural), remark])
                data.append({"dataset": dataset, "method": line.title, "radius_l2": radius, "remark": remark,
                             "certified_accuracy": 100 * accuracy.value, "natural_accuracy": 100 * natural.value,
                             "source": "this report"})
    if not rows:
        return None
    return Table("published", "Published numbers beside ours", pd.DataFrame(data),
                 ["", "source", "data set", "radius", "certified %", "natural %", "remark"],
                 [[str(c) for c in row] for row in rows],
                 ["Published numbers are as printed, in % of the full test set; other networks, other intervals.", SPREAD,
                  *levels.notes(shown, np.unique([row["radius_l2"] for row in data]))])
