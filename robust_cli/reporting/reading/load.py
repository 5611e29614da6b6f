"""Run folders read for a report: what each run says about itself, and its rows as data frames. Nothing in them is executed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from robust_cli.messages import UserError
from robust_cli.reporting.reading.about import DETERMINISTIC
from robust_cli.runs.folder import RunFolder

CERTIFICATES = ("certificate", "bounds", "index", "label", "predicted", "majority", "p1_lower", "p2_upper", "radius")
OUTCOMES = ("attack", "norm", "budget", "index", "label", "predicted", "robust", "l2", "linf", "forward", "backward")
_OF_ALL = ("dataset", "model", "regime", "seed", "model_fingerprint", "classes")
_NEEDED = {"train": _OF_ALL, "certify": (*_OF_ALL, "noise_std", "failure_probability", "samples", "certificates"),
           "attack": (*_OF_ALL, "classifier", "attacks")}
CLEAN = "none"  # the attack of the rows that hold each image's clean outcome
DERIVED = "@"  # in the names of rows that are no attack on this run's classifier: <attack>@<fingerprint>, images made on another
# model, and <attack>@8bit, its images rounded to 8 bits
# What certificates.csv of older runs lacks: Gaussian noise and l2 was all there was, and every image went to its end.
_LATER: dict[str, str | float] = {"norm": "l2", "prediction": math.nan, "draws": math.nan, "stopped": "complete"}
_WORDS = dict.fromkeys(("certificate", "attack", "norm", "stopped"), str)
_FLOATS = ("radius", "p1_lower", "p2_upper", "budget", "l2", "linf")  # read to the last bit
# Settings that say where and how fast a run works, or its seed: runs that differ only in these differ in nothing but the seed.
_NO_MATTER = {"seed", "device", "root", "download", "threads", "checkpoint_every", "resume", "outputs", "output", "run"}


@dataclass(frozen=True)
class Trained:
    """A training run: metrics has one row an epoch."""

    folder: RunFolder
    about: dict[str, Any]
    provenance: dict[str, Any]
    metrics: pd.DataFrame
    training: dict[str, Any] | None = None


@dataclass(frozen=True)
class Certified:
    """A certification: table has one row per (certificate, image); training holds the train run's settings where found.

    The columns norm, prediction, draws and stopped are always there: l2, NaN, NaN and complete where an older run has none;
    label_aware says of every row whether the run may have skipped images for their labels, positive whether a class that is
    named is proven whatever its radius, as one of a table's (not so the class that a network itself answers).
    """

    folder: RunFolder
    about: dict[str, Any]
    provenance: dict[str, Any]
    table: pd.DataFrame
    training: dict[str, Any] | None = None

    @property
    def names(self) -> list[str]:
        """The certificates, in the order of the rows."""
        return list(self.table["certificate"].unique())

    def of(self, certificate: str) -> pd.DataFrame:
        """The rows of one certificate, by image."""
        rows = self.table[self.table["certificate"] == certificate]
        return rows.sort_values("index", ignore_index=True)

    def norm(self, certificate: str) -> str:
        """The norm of one certificate's radii."""
        return str(self.table.loc[self.table["certificate"] == certificate, "norm"].iloc[0])

    def plan(self) -> dict[str, Any]:
        """What the sampling plan fixed before the first draw; empty where the run says nothing of it."""
        return _json(self.folder.plan)


@dataclass(frozen=True)
class Attacked:
    """An attack run: outcomes has one row per (attack, budget, image). Images are read only when asked for."""

    folder: RunFolder
    about: dict[str, Any]
    provenance: dict[str, Any]
    outcomes: pd.DataFrame
    training: dict[str, Any] | None = None

    @property
    def names(self) -> list[str]:
        """The attacks, without the clean rows, in the order of the rows."""
        return [str(name) for name in self.outcomes["attack"].unique() if name != CLEAN]

    @property
    def own(self) -> list[str]:
        """The attacks on this run's very classifier: no images made on another model, none rounded to 8 bits."""
        return [name for name in self.names if DERIVED not in name]

    def of(self, attack: str) -> pd.DataFrame:
        """The rows of one attack, by budget and image; the clean rows for 'none'."""
        rows = self.outcomes[self.outcomes["attack"] == attack]
        return rows.sort_values(["budget", "index"], ignore_index=True)

    @property
    def vote_columns(self) -> list[str]:
        return [f"votes_{k}" for k in range(int(self.about["classes"]))]

    def positions(self, indices: np.ndarray) -> np.ndarray:
        """Where images of the data set stand in the stored arrays. Raises UserError for an image that is not stored."""
        found = pd.Index(self._array(self.folder.indices)).get_indexer(pd.Index(indices))
        if (found < 0).any():
            raise UserError(f"{self.folder.indices}: expected every image of outcomes.csv, "
                            f"image {indices[found < 0][0]} is missing")
        return found

    def originals(self) -> np.ndarray:
        """Memory-mapped, [N, C, H, W], uint8 or float32."""
        return self._array(self.folder.originals)

    def adversarial(self, attack: str, budget: float) -> np.ndarray:
        """Memory-mapped float32 [N, C, H, W]."""
        return self._array(self.folder.adversarial(attack, budget))

    def _array(self, path: Path) -> np.ndarray:
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: expected a stored array of this attack run ({error})") from error


Run = Trained | Certified | Attacked


@dataclass(frozen=True)
class Runs:
    """All that a report is made of; warnings are whole sentences."""

    trained: list[Trained] = field(default_factory=list)
    certified: list[Certified] = field(default_factory=list)
    attacked: list[Attacked] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def all(self) -> list[Run]:
        return [*self.trained, *self.certified, *self.attacked]


def load(paths: Sequence[Path | str]) -> Runs:
    """Read run folders, and every run below folders that are none themselves; reports are passed over.

    An incomplete run is left out with a warning. Raises UserError (one line) for a folder without a run, a damaged file, an
    image twice in one table, or when nothing complete is left.
    """
    runs = Runs()
    for folder in _folders(paths):
        if folder.command == "report":
            continue
        if folder.state != "complete":
            state = " ".join(folder.state.split())
            runs.warnings.append(f"{folder.path.name} is left out: this {folder.command} run is not complete ({state}).")
            continue
        run = read(folder)
        if isinstance(run, Trained):
            runs.trained.append(run)
        elif isinstance(run, Certified):
            runs.certified.append(run)
        else:
            runs.attacked.append(run)
    if not runs.all():
        raise UserError(" ".join(["report: expected a complete train, certify or attack run, found none.", *runs.warnings]))
    return _with_training(runs)


def _folders(paths: Sequence[Path | str]) -> list[RunFolder]:
    found: dict[Path, RunFolder] = {}
    for path in map(Path, paths):
        inside = [path / "status.json"] if (path / "status.json").exists() else sorted(path.glob("**/status.json"))
        if not inside:
            what = "it holds no run" if path.is_dir() else "there is no such folder"
            raise UserError(f"{path}: expected a run folder or a folder of runs, {what}; "
                            "name folders that robust train, certify or attack has written")
        for status in inside:
            found.setdefault(status.parent.resolve(), RunFolder(status.parent))
    return list(found.values())


def read(folder: RunFolder) -> Run:
    """One complete run. Raises UserError when a file is damaged or its command is none that a report reads."""
    about, provenance = folder.read_about(), _json(folder.provenance)
    absent = [key for key in _NEEDED.get(folder.command, ()) if key not in about]
    if absent:
        raise UserError(f"{folder.about}: damaged, it has no {', '.join(absent)}; take a copy of it, or leave the run out")
    if folder.command == "train":
        return Trained(folder, about, provenance, _csv(folder.metrics, ("epoch",)), _settings(folder))
    if folder.command == "certify":
        table = _csv(folder.certificates, CERTIFICATES)
        for name, value in _LATER.items():
            if name not in table:
                table[name] = value
        table["label_aware"] = bool(about.get("label_aware", False))
        table["positive"] = (table["bounds"] != DETERMINISTIC) & (not about.get("comparable", True))
        _no_twins(table, ["certificate", "index"], folder.certificates)
        _one_norm(table, folder.certificates)
        return Certified(folder, about, provenance, table)
    if folder.command == "attack":
        outcomes = _csv(folder.outcomes, OUTCOMES)
        _no_twins(outcomes, ["attack", "budget", "index"], folder.outcomes)
        return Attacked(folder, about, provenance, outcomes)
    raise UserError(f"{folder.path}: expected a run of train, certify or attack, found {folder.command!r}")


def _float(text: str) -> float:
    return float(text) if text else math.nan


def _csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Rows with their floats exactly as written; empty cells are NaN."""
    try:
        table = pd.read_csv(path, dtype=_WORDS, converters=dict.fromkeys(_FLOATS, _float))
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: expected a table with the columns {','.join(columns)} ({error})") from error
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise UserError(f"{path}: expected the columns {','.join(columns)}, {','.join(missing)} missing; the file is damaged")
    return table


def _no_twins(table: pd.DataFrame, key: list[str], path: Path) -> None:
    twins = table[table.duplicated(key)]
    if len(twins):
        twin = ", ".join(f"{k} {twins.iloc[0][k]}" for k in key)
        raise UserError(f"{path}: expected one row per {', '.join(key)}, found {twin} more than once; make this run again")


def _one_norm(table: pd.DataFrame, path: Path) -> None:
    if (table.groupby("certificate")["norm"].nunique(dropna=False) != 1).any() or table["norm"].isna().any():
        raise UserError(f"{path}: expected one norm for all rows of a certificate; the file is damaged")


def _json(path: Path) -> dict[str, Any]:
    """An object in a file that need not be there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _flat(node: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {path: node}
    return {k: v for key, value in node.items() for k, v in _flat(value, f"{path}.{key}" if path else str(key)).items()}


def _settings(folder: RunFolder) -> dict[str, Any]:
    """A training run's settings by dotted name, without those that say only where it runs and with which seed."""
    return {key: value for key, value in _flat(folder.read_config()).items() if key.split(".")[-1] not in _NO_MATTER}


def _with_training(runs: Runs) -> Runs:
    """Give every certification and attack the settings its model was trained with, from the train run's own folder."""
    known = {run.about.get("model_fingerprint"): run.training for run in runs.trained}
    groups: tuple[list[Any], ...] = (runs.certified, runs.attacked)
    for group in groups:
        for k, run in enumerate(group):
            settings = known.get(run.about.get("model_fingerprint")) or _look_up(run)
            group[k] = replace(run, training=settings)
    return runs


def _trained_in(about: dict[str, Any], train: dict[str, Any]) -> bool:
    """A train run knows its model's fingerprint in fp32 alone; in another precision its seed and its names have to do."""
    keys = ["model_fingerprint"] if about.get("precision") in (None, "fp32") else ["dataset", "model", "regime"]
    return all(about.get(k) == train.get(k) for k in keys) and about.get("train_seed") == train.get("seed")


def _look_up(run: Certified | Attacked) -> dict[str, Any] | None:
    said = Path(str(run.about.get("train_run") or ""))
    for path in (said, run.folder.path.parent / said.name):
        folder = RunFolder(path)
        try:
            if said.name and _trained_in(run.about, folder.read_about()):
                return _settings(folder)
        except (UserError, yaml.YAMLError):
            continue
    return None
