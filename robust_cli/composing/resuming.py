"""Going on with a run: its saved config is what counts, and what was typed besides must agree with it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from robust_cli.composing.catalogue import choice_of
from robust_cli.composing.names import PARTS
from robust_cli.composing.saved_run import read_checked
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder

# May differ from the saved run: no result depends on them. `batch_size` is that of attack, not training's.
_MOVABLE = ("dataset.root", "dataset.download", "model.weights", "model.file")  # a model's file is known by its checksum
FREE = ("resume", "trust", "cluster", "batch_size", "workers", *_MOVABLE)
_ABSENT = object()


def latest_unfinished(outputs: Path | str, command: str) -> RunFolder:
    """The run of a command that began last of those that are not complete. Raises UserError when there is none."""
    runs = [RunFolder(status.parent) for status in Path(outputs).glob("**/status.json")]
    open_ended = [run for run in runs if run.command == command and run.state != "complete" and run.config.exists()]
    if not open_ended:
        raise UserError(f"resume=latest: no unfinished {command} run under {outputs}/; name a folder, resume=<folder>")
    return max(open_ended, key=lambda run: run.config.stat().st_mtime)


def resumed(plain: dict[str, Any], command: str, overrides: Sequence[str], allowed: Collection[str]) -> dict[str, Any]:
    """The config of the run in ``plain["resume"]``, after comparing it with the overrides that were typed.

    Raises UserError where they disagree, and when more samples are asked of a finished certify run.
    """
    folder = RunFolder(plain["resume"])
    saved = read_checked(folder, plain["trust"], allowed, "resume")
    if folder.command != command:
        raise UserError(f"resume={folder}: is a run of robust {folder.command or '?'}; go on with it by that command")
    paths = typed_paths(overrides)
    if command == "certify" and "sampling" not in saved:
        raise UserError(f"resume={folder}: was begun by an earlier version of robust, which drew other noise; its votes and new "
                        "ones do not add up: certify anew")
    if command == "certify" and "samples" in paths:
        _refuse_optional_stopping(plain, saved, folder)
    for path in paths:
        _compare(plain, _as_now(saved), path, folder)
    result = copy.deepcopy(saved) | {"resume": plain["resume"], "trust": plain["trust"], "cluster": plain["cluster"]}
    for path in paths:
        if path in ("batch_size", "workers", "device", *_MOVABLE):
            _put(result, path, _at(plain, path))
    return result


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """None when two configs of a run agree in all that a result can depend on, else the first key that differs."""
    for path, (left, right) in _differences(_as_now(one), _as_now(other), ""):
        if not (_is_free(path) or (path == "device" and "auto" in (left, right))):  # what auto comes to, `record` compares
            return "{} is {} there, {} now".format(*_told(path, left, right))
    return None


def _as_now(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as this version would have it: older ones do not say where the noise comes in, which was the image."""
    smoothing = config.get("smoothing")
    return {**config, "smoothing": {"layer": (smoothing.get("layer") if isinstance(smoothing, Mapping) else None) or "input"}}


def _refuse_optional_stopping(plain: Mapping[str, Any], saved: Mapping[str, Any], folder: RunFolder) -> None:
    before, now = saved.get("samples"), plain["samples"]
    if folder.state == "complete" and isinstance(before, int) and now > before:
        raise UserError(f"resume={folder}: samples is {before} in this finished run, got {now}: adding votes after seeing the "
                        "result is optional stopping, and its certificates would not hold; certify anew with another seed")


def typed_paths(overrides: Sequence[str]) -> list[str]:
    """Paths of the config that overrides set; '' for an experiment, which may set any."""
    paths = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key == "experiment":
            paths.append("")
        elif not key.startswith("hydra"):
            paths.append(override.package or key.replace("/", "."))
    return paths


def _compare(plain: Mapping[str, Any], saved: Mapping[str, Any], path: str, folder: RunFolder) -> None:
    pairs = _differences(_at(saved, path), _at(plain, path), path) if path else _composed_differences(saved, plain)
    for place, (before, now) in pairs:
        if place == "device" and before == "auto":
            before = _device_of(folder) or now
        if before != now and not _is_free(place):
            name, there, here = _told(place, before, now)
            raise UserError(f"resume={folder}: {name} is {there} in that run, got {here}; leave it out to go on "
                            "with the run as it is, or start a new one")


def _device_of(folder: RunFolder) -> str:
    """What device=auto came to when a run began; '' where it did not come to that."""
    found = folder.read_record().get("device") if folder.provenance.exists() else ""
    return str(found or "").partition(" ")[0]


def _told(place: str, before: Any, now: Any) -> tuple[str, str, str]:
    """A key and its two values in words; of a group's class the choice that it is."""
    group, _, key = place.partition(".")
    if key == "_target_":
        there, here = (choice_of(group, value) if isinstance(value, str) else _word(value) for value in (before, now))
        return group, there, here
    return place, _word(before), _word(now)


def _composed_differences(saved: Mapping[str, Any], plain: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Where a whole composed config differs. What a run fills in later (null, certify's data and model) is not compared."""
    later = () if "regime" in plain else PARTS
    for place, (before, now) in _differences(saved, plain, ""):
        filled = now is None or now is _ABSENT or before is _ABSENT or place.partition(".")[0] in later
        if not filled:
            yield place, (before, now)


def _is_free(path: str) -> bool:
    return any(path == free or path.startswith(f"{free}.") for free in FREE)


def _word(value: Any) -> str:
    return "not set" if value is _ABSENT else "null" if value is None else str(value)


def _at(node: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return _ABSENT
        node = node[key]
    return node


def _put(node: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    if value is not _ABSENT and value is not None:
        node[last] = value


def _differences(one: Any, other: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """(path, the two values) of every leaf in which two plain nodes differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*one, *other]):
            place = f"{path}.{key}" if path else str(key)
            yield from _differences(one.get(key, _ABSENT), other.get(key, _ABSENT), place)
    elif one is _ABSENT or other is _ABSENT or one != other:
        yield path, (one, other)
