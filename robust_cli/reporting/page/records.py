"""What stands beside the results: the training runs, where every run comes from, and what a reader should be warned of."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from robust_cli.reporting.attacked import distrust
from robust_cli.reporting.attacked.leaking import label_leaking
from robust_cli.reporting.certified import accuracy as certified
from robust_cli.reporting.certified import alike, exact
from robust_cli.reporting.lines.facets import EXACT, NETWORK
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.reading.about import of_network
from robust_cli.reporting.reading.load import Certified, Run, Runs, Trained

_ABOUT = ("regime", "model", "dataset", "subset", "images", "precision", "device", "noise", "noise_std", "sampling", "shard",
           "samples", "classifier", "model_fingerprint")


def provenance(run: Run) -> tuple[str, list[tuple[str, str]]]:
    """The name of a run's folder, and its record as pairs of words."""
    of_run = {k: run.about.get(k) for k in _ABOUT}
    if isinstance(run, Certified) and of_network(run.about):
        of_run |= {"samples": EXACT, "classifier": NETWORK}
    pairs = {"command": run.about.get("command") or run.folder.command, **of_run, **run.provenance}
    return run.folder.path.name, [(key.replace("_", " "), _words(key, value)) for key, value in pairs.items()
                                  if value not in (None, "", [])]


def _words(key: str, value: Any) -> str:
    if key == "command_line" and isinstance(value, list):
        return shlex.join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _what_collapses(line: Line[Certified]) -> str:
    """The setting of a training that asks for too much, too early."""
    return "radius" if line.is_deterministic else "weight of its noise term"


def warnings(runs: Runs, lines: Sequence[Line[Certified]]) -> list[str]:
    """Sentences about what makes a number of this report less than it seems."""
    found = [*runs.warnings, *(f"{run.folder.path.name}: {text}" for run in runs.trained if (text := run.about.get("warning")))]
    for line in lines:
        for run, table in zip(line.runs, line.tables, strict=True):
            named = certified.collapsed(table, int(str(run.about.get("classes", 0))))
            if named is not None:
                what = "network" if line.is_deterministic else "smoothed classifier"
                found.append(f"{run.folder.path.name}: the {what} names only {named} of "
                             f"{run.about['classes']} classes; its training has collapsed "
                             f"(a smaller or slowly rising {_what_collapses(line)} may help).")
    found += exact.warnings(lines)
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
