"""What certifying cost: draws an image, beside the number that a plan without stopping takes, and why images stopped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.reading.load import Certified
from robust_cli.reporting.tables import EMPTY, Table, number

_NOTE = ("Draws an image: all rows that the network evaluated for it, selection and padding included. Saved x: `samples` "
         "over their mean. Stopped: complete: all was proven or the fixed number reached; futile: more draws would hardly prove "
         "more; cap: the largest number was reached; skipped: the class selected is wrong (label-aware); tolerance: the "
         "radius was known closely enough.")


def costs_tables(lines: Sequence[Line[Certified]]) -> list[Table]:
    """A row a run (or several seeds of one), whatever the number of its certificates; nothing where no run drew and recorded
    its draws."""
    groups: dict[tuple[int, ...], list[Line[Certified]]] = {}
    for line in lines:
        if not line.is_deterministic and all(table["draws"].notna().all() for table in line.tables):
            groups.setdefault(tuple(map(id, line.runs)), []).append(line)
    rows, data = [], []
    for group in groups.values():
        title, samples = _title(group), group[0].about.get("samples")
        draws = np.concatenate([table["draws"].to_numpy(dtype=np.float64) for table in group[0].tables])
        if not len(draws):
            continue
        stops = pd.concat([table["stopped"] for table in group[0].tables]).value_counts()
        reasons = ", ".join(f"{reason} {count}" for reason, count in stops.items())
        factor = float(str(samples)) / draws.mean() if samples and draws.mean() > 0 else np.nan
        rows.append([title, str(len(draws)), EMPTY if samples is None else str(samples), number(draws.mean(), 0),
                     number(float(np.median(draws)), 0), number(draws.max(), 0), number(factor, 2), reasons])
        data.append({"line": title, "images": len(draws), "samples": samples, "mean_draws": draws.mean(),
                     "median_draws": np.median(draws), "largest_draws": draws.max(), "factor": factor,
                     **{f"stopped_{reason}": count for reason, count in stops.items()}})
    if not rows:
        return []
    columns = ["", "images", "samples", "mean draws", "median", "largest", "saved x", "stopped"]
    return [Table("costs", "Draws an image, and why images stopped", pd.DataFrame(data), columns, rows, [_NOTE])]


def _title(group: Sequence[Line[Certified]]) -> str:
    """A run's title: that of its line, or of the first of them with the number of the others."""
    return group[0].title + (f" (and {len(group) - 1} more of the same draws)" if len(group) > 1 else "")
