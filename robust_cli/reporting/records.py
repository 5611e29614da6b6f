"""What stands beside the results: the training runs, where every run comes from, and what a reader should be warned of."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from typing import Any

import pandas as pd

from robust_cli.reporting import alike, certified, distrust
from robust_cli.reporting.leaking import label_leaking
from robust_cli.reporting.lines import Line
from robust_cli.reporting.load import Certified, Run, Runs, Trained
from robust_cli.reporting.tables import EMPTY, Table

_ABOUT = ("regime", "model", "dataset", "subset", "images", "precision", "device", "noise", "noise_std", "sampling", "shard",
           "samples", "model_fingerprint")


def training_titles(runs: Sequence[Trained]) -> list[str]:
    """Regime, with model, data set, noise and seed where they differ between the runs."""
    keys = [key for key in ("dataset", "model", "training_noise_std", "seed") if len({str(r.about.get(key)) for r in runs}) > 1]
    words = {"training_noise_std": "noise {}", "seed": "seed {}"}
    return [", ".join([str(run.about.get("regime")),
                       *(words.get(k, "{}").format(run.about[k]) for k in keys if run.about.get(k) is not None)]) for run in runs]


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


def provenance(run: Run) -> tuple[str, list[tuple[str, str]]]:
    """The name of a run's folder, and its record as pairs of words."""
    pairs = {"command": run.about.get("command") or run.folder.command, **{k: run.about.get(k) for k in _ABOUT}, **run.provenance}
    return run.folder.path.name, [(key.replace("_", " "), _words(key, value)) for key, value in pairs.items()
                                  if value not in (None, "", [])]


def _words(key: str, value: Any) -> str:
    if key == "command_line" and isinstance(value, list):
        return shlex.join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return value if isinstance(value, str) else json.dumps(value, default=str)


def warnings(runs: Runs, lines: Sequence[Line[Certified]]) -> list[str]:
    """Sentences about what makes a number of this report less than it seems."""
    found = [*runs.warnings, *(f"{run.folder.path.name}: {text}" for run in runs.trained if (text := run.about.get("warning")))]
    for line in lines:
        for run, table in zip(line.runs, line.tables, strict=True):
            named = certified.collapsed(table, int(str(run.about.get("classes", 0))))
            if named is not None:
                found.append(f"{run.folder.path.name}: the smoothed classifier names only {named} of "
                             f"{run.about['classes']} classes; its training has collapsed "
                             "(a smaller or slowly rising weight of its noise term may help).")
    found += [f"{run.folder.path.name}: {doubt}" for run in runs.certified for doubt in run.about.get("doubts") or []]
    for attack in runs.attacked:
        name, looked = attack.folder.path.name, attack.about.get("doubts") or []
        found += [f"{name}: {sentence}" for sentence in [*map(str, looked), *distrust.doubts(attack), *label_leaking(attack)]]
    unknown = [run.folder.path.name for run in runs.all()
               if not isinstance(run, Trained) and run.training is None and run.about.get("train_run")]
    if len(unknown) > 1:
        found.append("The training runs behind " + ", ".join(unknown) + " are not at hand: seeds of theirs are not joined. "
                     "Name their folders too.")
    return list(dict.fromkeys([*found, *alike.warnings(runs.certified)]))
