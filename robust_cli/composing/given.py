"""A model of the user's own in place of a run: its words, checked and made whole before anything is built. Imports no torch."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from robust_cli.composing.names import chosen, safe
from robust_cli.messages import UserError
from robust_cli.runs.folder import shown

REGIME = "own"
RESERVED = ("weights", "entry", "mean", "std")  # of a model's node: how it is filled, and no settings of its class
INCLUDED = "included"
PROGRAMS = ("robust_cli.models.foreign.TorchScript", "robust_cli.models.exported.Exported")  # with their weights in their file
_NEEDED = "model=NAME (see `robust list model`) or model._target_=my_package.MyNet"


def is_asked(plain: Mapping[str, Any]) -> bool:
    """Whether a composed config names a model of one's own, or a data set for it."""
    return any(value is not None for value in plain["model"].values()) or "_target_" in plain["dataset"]


def refuse_beside_run(plain: Mapping[str, Any], relocates: bool) -> None:
    """Raise UserError where a run's model or data set is chosen anew. ``relocates``: its weights may lie elsewhere by now."""
    if "_target_" in plain["dataset"]:
        raise UserError("dataset: comes from the run and cannot be chosen here; another one is another run, `robust train`")
    other = set(plain["dataset"]) - {"root"}
    if other:
        raise UserError(f"dataset.{min(other)}: only dataset.root of a run may be changed")
    named = {key for key, value in plain["model"].items() if value is not None}
    if named - ({"weights", "file"} if relocates else set()):
        raise UserError("model: comes from the run and cannot be chosen here; for a model of your own leave run= out and say "
                        f"dataset=NAME and {_NEEDED}")


def settled(plain: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """What a typed model of one's own adds to a command's config. Raises UserError for what is missing or does not fit."""
    model, dataset = dict(plain["model"]), dict(plain["dataset"])
    if not isinstance(model.get("_target_"), str):
        raise UserError(f"model: expected the class of your model, {_NEEDED}")
    if "_target_" not in dataset:
        raise UserError("dataset: expected the data set that the model is for, dataset=NAME; see `robust list dataset`")
    if dataset.get("root") is None:
        dataset.pop("root", None)
    _check_filling(model)
    names = chosen(choices, {"dataset": dataset, "model": model}) | {"regime": REGIME}
    names["model"] = _model_name(names["model"], model)
    return {"run": None, "dataset": dataset, "model": model, "choices": names, "model_sha256": checksum(model)}


def _check_filling(model: Mapping[str, Any]) -> None:
    if model["_target_"] in PROGRAMS:
        if model.get("file") in (None, "???"):
            raise UserError("model.file: expected the model's file, model.file=net.pt")
        if model.get("weights") is not None or model.get("entry") is not None:
            raise UserError("model.weights: expected null, since the model's file holds its weights")
    elif model.get("weights") is None:
        raise UserError("model.weights: expected the file of the model's weights, model.weights=w.pth; where its class brings "
                        f"them itself: model.weights={INCLUDED}")
    mean, std = model.get("mean"), model.get("std")
    if (mean is None) != (std is None):
        lacking, there = ("mean", "std") if mean is None else ("std", "mean")
        raise UserError(f"model.{lacking}: expected numbers, as model.{there} has them; both, or neither")
    for key, least in (("mean", -math.inf), ("std", 0.0)):
        numbers = model.get(key)
        if numbers is not None and not (isinstance(numbers, list) and numbers and all(_is_number(n, least) for n in numbers)):
            positive = " > 0" if key == "std" else ""
            raise UserError(f"model.{key}: expected a list of numbers{positive}, one a channel, got {numbers!r}")
    entry = model.get("entry")
    if entry is not None and not isinstance(entry, str):
        raise UserError(f"model.entry: expected the name of a state dict in the file, got {entry!r}")


def _is_number(value: Any, least: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least < value < math.inf


def _model_name(name: str, model: Mapping[str, Any]) -> str:
    """The choice or class with the name of its file, so that models of one architecture are told apart."""
    name = str(model["name"]) if name == "torchvision" and model.get("name") else name
    place = file_of(model)
    return safe(f"{name}-{Path(place[1]).name.partition('.')[0]}") if place else safe(name)


def file_of(model: Mapping[str, Any]) -> tuple[str, str] | None:
    """The key and the path of the file that a model of one's own comes from; None where its class brings its weights."""
    key = "file" if model["_target_"] in PROGRAMS else "weights"
    return None if model.get(key) in (None, INCLUDED) else (f"model.{key}", str(model[key]))


def checksum(model: Mapping[str, Any]) -> str | None:
    """SHA-256 (hex) of the model's file, None where there is none. Raises UserError."""
    found = file_of(model)
    if found is None:
        return None
    key, path = found
    try:
        if not Path(path).is_file():
            raise UserError(f"{key}={path}: expected a file, {'found a folder' if Path(path).is_dir() else 'no such file'}")
        stat = Path(path).stat()
        return _sha256(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{key}={path}: cannot be read ({error.strerror})") from error


@functools.lru_cache(maxsize=64)
def _sha256(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_unchanged(model: Mapping[str, Any], expected: Any, folder: Any, typed: Mapping[str, Any]) -> None:
    """Raise UserError unless the file of a saved run's own model is there and as it was. ``typed``: the model's words of now."""
    place = file_of(model)
    if place is not None and typed.get(place[0].partition(".")[2]) is None and not Path(place[1]).exists():
        key, path = place
        raise UserError(f"{key}={path}: expected a file, no such file; that is where the config of {shown(folder)} has it, "
                        f"{key}=<file> says where it lies now")
    if (found := checksum(model)) != expected:
        assert found is not None
        key, path = place or ("model", "")
        raise UserError(f"{key}={path}: changed since {folder} (SHA-256 {str(expected)[:8]} then, {found[:8]} now); give that "
                        f"file back or say where it lies, {key}=<file>; or start a new run with the other model")


def moved(model: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """A saved run's model with the place of its file that is typed now, if any."""
    return dict(model) | {key: plain["model"][key] for key in ("weights", "file") if plain["model"].get(key) is not None}


def trusted_now(plain: Mapping[str, Any]) -> Collection[str]:
    """The class that the command line, or a config of the user's, names for this command."""
    target = plain["model"].get("_target_") if isinstance(plain.get("model"), Mapping) else None
    return {target} if isinstance(target, str) else set()
