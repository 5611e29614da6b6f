"""Trainings with noise beside one another: accuracy and robustness to Gaussian noise (GNR) of each, joined from their runs.

Source: AMR (ICLR 2020 submission), its comparison of the moment regulariser with augmentation by fixed noisy copies; sigma ->
training_noise_std, alpha -> weight, N -> folds. An attack run that took the measure `NoiseRobustness` and the training run whose
weights it has are one row, joined by the model's fingerprint; runs that differ in nothing but their seeds are one row together.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robust_cli.reporting.estimates import Estimate, over_runs
from robust_cli.reporting.lines.facets import REGIME, Facets, of_run
from robust_cli.reporting.lines.titles import titles
from robust_cli.reporting.measured.measurements import of_kind
from robust_cli.reporting.reading.load import Attacked, Runs, Trained

BASELINE = "standard"
_TUNED = f"{REGIME}weight"  # of several weights of a loss's second term the best stands for the method, as in AMR's script
_NOISE = "training_noise_std"


@dataclass(frozen=True)
class Pair:
    """A training run and what was measured of its network."""

    trained: Trained
    attacked: Attacked
    gnr: Estimate
    largest: float


@dataclass(frozen=True)
class Entry:
    """One training, or the same with several seeds. test, gnr: shares of 1; method: what it is called whatever its noise and its
    weight; largest: the largest noise of the measure; noise_std, weight: None where the regime has none."""

    method: str
    regime: str
    noise_std: float | None
    weight: float | None
    test: Estimate
    gnr: Estimate
    pairs: tuple[Pair, ...]

    @property
    def title(self) -> str:
        """The method with its noise and its weight."""
        noise = "" if self.noise_std is None else f", noise {self.noise_std:g}"
        return f"{self.method}{noise}" + ("" if self.weight is None else f", weight {self.weight:g}")

    @property
    def about(self) -> dict[str, Any]:
        return self.pairs[0].trained.about

    def mean(self, name: str) -> float:
        """The mean over its runs of a number in their about.json, or of the last one in metrics.csv; NaN where there is none."""
        found = [_number(pair.trained, name) for pair in self.pairs]
        return sum(found) / len(found)


@dataclass(frozen=True)
class Group:
    """The trainings of one model on one data set, measured up to the same noise."""

    dataset: str
    model: str
    largest: float
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        return f"{self.dataset}_{self.model}"

    @property
    def baseline(self) -> Entry | None:
        """Plain training; of several the most accurate."""
        plain = [entry for entry in self.entries if entry.regime == BASELINE]
        return max(plain, key=lambda entry: entry.test.value, default=None)

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(entry.method for entry in self.entries))

    def tuned(self) -> list[Entry]:
        """Of entries that differ in their weight alone the most accurate, as AMR's script picks; of equals the smaller weight."""
        best: dict[tuple[str, float | None], Entry] = {}
        for entry in sorted(self.entries, key=lambda e: -1.0 if e.weight is None else e.weight):
            key = (entry.method, entry.noise_std)
            if key not in best or entry.test.value > best[key].test.value:
                best[key] = entry
        return [entry for entry in self.entries if best[entry.method, entry.noise_std] is entry]


def _number(run: Trained, name: str) -> float:
    value = run.about.get(name)
    if value is None and name in run.metrics and len(run.metrics):
        value = run.metrics[name].iloc[-1]
    return math.nan if value is None else float(value)


def groups(runs: Runs) -> list[Group]:
    """For each data set, model and largest noise of the measure the trainings that have both numbers, where there are several."""
    found: dict[tuple[str, str, float], list[Pair]] = {}
    for pair in _pairs(runs):
        about = pair.trained.about
        found.setdefault((str(about["dataset"]), str(about["model"]), pair.largest), []).append(pair)
    made = [Group(*key, tuple(sorted(_entries(pairs), key=_order))) for key, pairs in found.items()]
    return [group for group in made if len(group.entries) > 1]


def _order(entry: Entry) -> tuple[Any, ...]:
    """The baseline first, then by method, with numbers as numbers, noise and weight."""
    parts = re.split(r"[ ,]+", entry.method)
    words = [(0, float(part), "") if re.fullmatch(r"\d+(\.\d+)?", part) else (1, 0.0, part) for part in parts]
    return entry.regime != BASELINE, words, entry.noise_std or 0.0, entry.weight or 0.0


def unmatched(runs: Runs) -> list[str]:
    """A sentence on runs with the measure whose training run is not among those given, where there are runs to compare."""
    known = {str(run.about.get("model_fingerprint")) for run in runs.trained}
    taken = [run for run in runs.attacked if of_kind(run, "NoiseRobustness")]
    absent = [run.folder.path.name for run in taken if str(run.about.get("model_fingerprint")) not in known]
    return [f"{', '.join(absent)}: GNR was measured, but no training run here has these weights in this precision, so they have "
            "no test accuracy and stand in no comparison of trainings; name their training runs too."
            ] if absent and len(taken) > 1 else []


def _pairs(runs: Runs) -> list[Pair]:
    """Each training with the first measure of its network; none without a test accuracy."""
    trained = {str(run.about["model_fingerprint"]): run for run in runs.trained if run.about.get("test_accuracy") is not None}
    found: dict[str, Pair] = {}
    for run in runs.attacked:
        fingerprint = str(run.about["model_fingerprint"])
        for _, frame in of_kind(run, "NoiseRobustness")[:1]:
            if fingerprint in trained:
                one = frame.iloc[-1]
                gnr = Estimate(one["gnr"] / 100, one["gnr_error"] / 100, int(one["images"]))
                found.setdefault(fingerprint, Pair(trained[fingerprint], run, gnr, float(one["noise_std"])))
    return list(found.values())


def _entries(pairs: Sequence[Pair]) -> list[Entry]:
    seeds: dict[str, list[Pair]] = {}
    for pair in pairs:
        seeds.setdefault(json.dumps(pair.trained.training, sort_keys=True, default=str), []).append(pair)
    methods = _methods([group[0].trained for group in seeds.values()])
    return [_entry(method, group) for method, group in zip(methods, seeds.values(), strict=True)]


def _methods(runs: Sequence[Trained]) -> list[str]:
    """A run's method: what tells it from the others, its noise and its weight left aside."""
    facets: list[Facets] = [{key: words for key, words in of_run(run).items() if key not in (_NOISE, _TUNED)} for run in runs]
    return titles(facets)


def _entry(method: str, pairs: Sequence[Pair]) -> Entry:
    run = pairs[0].trained
    noise, weight = run.about.get(_NOISE), (run.training or {}).get("regime.weight")
    return Entry(method, str(run.about["regime"]), None if noise is None else float(noise),
                 None if weight is None else float(weight), over_runs([_test(pair.trained) for pair in pairs]),
                 over_runs([pair.gnr for pair in pairs]), tuple(pairs))


def _test(run: Trained) -> Estimate:
    accuracy, images = float(run.about["test_accuracy"]), int(run.about.get("test_images") or 0)
    return Estimate(accuracy, math.sqrt(accuracy * (1 - accuracy) / images) if images else math.nan, images)
