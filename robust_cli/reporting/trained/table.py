"""The training runs: what they are called, and where each ended."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from robust_cli.reporting.lines.facets import of_run
from robust_cli.reporting.lines.titles import titles
from robust_cli.reporting.reading.load import Trained
from robust_cli.reporting.tables import EMPTY, Table


def training_titles(runs: Sequence[Trained]) -> list[str]:
    """Regime with the settings in which the runs differ, with the seed where nothing else tells them apart."""
    found = titles([of_run(run) for run in runs])
    return [f"{title}, seed {run.about.get('seed')}" if found.count(title) > 1 else title
            for run, title in zip(runs, found, strict=True)]


def training_table(runs: Sequence[Trained]) -> Table:
    """The last epoch of each training run."""
    rows, data = [], []
    for run, title in zip(runs, training_titles(runs), strict=True):
        last = run.metrics.iloc[-1] if len(run.metrics) else pd.Series(dtype=float)
        values = [last.get(k, math.nan) for k in ("epoch", "loss", "train_accuracy", "validation_accuracy")]
        test = run.about.get("test_accuracy", math.nan)
        seconds = float(run.metrics["seconds"].sum()) if "seconds" in run.metrics else math.nan
        rows.append([title, str(run.about.get("model")), str(run.about.get("parameters", EMPTY)), _shown(values[0], "{:.0f}"),
                     _shown(values[1], "{:.4g}"), _shown(100 * values[2], "{:.1f}"), _shown(100 * values[3], "{:.1f}"),
                     _shown(100 * test, "{:.1f}"), _shown(seconds, "{:.0f}")])
        data.append({"run": title, "model": run.about.get("model"), "epoch": values[0], "loss": values[1],
                     "train_accuracy": values[2], "validation_accuracy": values[3], "test_accuracy": test,
                     "seconds": seconds})
    return Table("training", "Training", pd.DataFrame(data),
                 ["", "model", "parameters", "last epoch", "loss", "train %", "validation %", "test %", "seconds"], rows,
                 ["Accuracies of the base classifier on images without noise."])


def _shown(value: float, words: str) -> str:
    return EMPTY if value is None or math.isnan(value) else words.format(value)
