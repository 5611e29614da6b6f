"""A run folder's config, which somebody else may have written: read as plain data, and checked before anything is built.

Nothing of it is resolved or imported here. A target may be built only when our shipped configs (or those that the user
gives with -cd) name it, letter for letter, or the user trusts it by name (``trust=[my_package.MyClass]``).
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from robust_cli.composing.catalogue import conf_folder, targets
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder

_LARGEST = 200_000  # bytes of a config; ours have about 3000
_DEEPEST = 20
_REFUSED_KEYS = ("_args_", "_partial_", "_recursive_", "_convert_")


@dataclass(frozen=True)
class SavedRun:
    """A run to be used: its plain, checked nodes, and what its about.json says.

    Of a training run; or of a certify or attack run of a model of one's own, which has no regime.
    """

    folder: RunFolder
    dataset: dict[str, Any]
    model: dict[str, Any]
    regime: dict[str, Any]
    choices: dict[str, str]
    about: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def is_own(self) -> bool:
        """Whether its model is one of the user's own, for which there is no training run."""
        return not self.regime

    @property
    def training_noise_std(self) -> float | None:
        """Noise of the training, pixel units; None where it had none, and for a model of one's own."""
        if self.is_own:
            return None
        if "training_noise_std" not in self.about:
            raise UserError(f"{self.folder}/about.json: damaged, it has no training_noise_std; take a copy, or train again")
        noise = self.about["training_noise_std"]
        if noise is not None and (isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 < noise < math.inf):
            raise UserError(f"{self.folder}/about.json: expected training_noise_std > 0 or null, got {noise!r}")
        return noise

    @property
    def layer(self) -> str:
        """Where the noise came in, in the training or in the run of a model of one's own. Older runs do not say: at the image."""
        if self.is_own:
            smoothing = self.config.get("smoothing")
            found = smoothing.get("layer") if isinstance(smoothing, Mapping) else None
        else:
            found = self.about.get("training_layer")
        if found not in (None, "input", "first"):
            raise UserError(f"{self.folder}: expected its noise at the input or after the first layer, got {found!r}")
        return found or "input"


def load_run(path: Path | str, trust: Collection[str] = (), allowed: Collection[str] | None = None, key: str = "run",
             own: bool = False) -> SavedRun:
    """A complete training run. ``allowed`` are the targets that may be built (default: those of the shipped configs).

    ``key`` is the setting that named the folder, for the messages. ``own``: a certify or attack run of a model of one's own
    will do as well. Raises UserError for a folder that is no run, one of another command, one that is not complete, and a
    config that is damaged or wants to run foreign code.
    """
    folder = RunFolder(path)
    config = read_checked(folder, trust, allowed, key)
    is_own = own and folder.command in ("certify", "attack") and "model_sha256" in config
    if folder.command != "train" and not is_own:
        raise UserError(f"{key}={path}: expected the folder of a training run, this is one of robust {folder.command or '?'}"
                        + _its_train_run(folder, key))
    if folder.state != "complete":
        raise UserError(f"{key}={path}: expected a complete run, this one's state is {folder.state!r}; "
                        f"go on with it: robust {folder.command} resume={path}")
    parts: dict[str, dict[str, Any]] = {"regime": {}} if is_own else {}
    for part in ("dataset", "model") if is_own else ("dataset", "model", "regime"):
        node = config.get(part)
        if not isinstance(node, dict) or "_target_" not in node:
            raise UserError(f"{folder.config}: damaged, it has no {part} with a _target_")
        parts[part] = node
    return SavedRun(folder, **parts, choices=_names(config), about=folder.read_about(), config=config)


def read_checked(folder: RunFolder, trust: Collection[str], allowed: Collection[str] | None, key: str) -> dict[str, Any]:
    """The config of any run folder, checked to be plain data without foreign targets. Raises UserError."""
    if not folder.path.is_dir():
        raise UserError(f"{key}={folder}: {_no_folder(folder.path, key)}")
    if not folder.config.is_file() or not folder.status.is_file():
        raise UserError(f"{key}={folder}: not a run folder (no config.yaml and status.json in it); "
                        "name one that robust train, certify or attack has written")
    config = _parsed(folder.config)
    permitted = set(targets([conf_folder()]) if allowed is None else allowed) | set(trust)
    _check(config, permitted, folder.config)
    return config


def _parsed(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _LARGEST:
            raise UserError(f"{file}: expected a config of at most {_LARGEST} bytes, got {file.stat().st_size}")
        text = file.read_text(encoding="utf-8")
        config = yaml.safe_load(text) if _is_modest(text) else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: damaged, expected the YAML that robust wrote ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(config, dict):
        raise UserError(f"{file}: damaged, expected keys with values such as robust writes")
    return config


def _is_modest(text: str) -> bool:
    """No aliases, which can repeat a node any number of times, and no nesting that ours never has. Reads lazily."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST or isinstance(event, yaml.AliasEvent):
            return False
    return True


def _walk(node: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Every (path, key, value) of dicts and lists, however deep."""
    entries = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        place = f"{path}.{key}" if path else str(key)
        yield place, str(key), value
        yield from _walk(value, place)


def _check(config: dict[str, Any], permitted: set[str], file: Path) -> None:
    for place, key, value in _walk(config, ""):
        if "${" in key or (isinstance(value, str) and "${" in value):
            raise UserError(f"{file}: {place}: a saved config has no interpolations, got {value!r}; robust has not written it")
        if key in _REFUSED_KEYS:
            raise UserError(f"{file}: {place}: a saved config has no {key}; robust has not written it")
        if key == "_target_" and not (isinstance(value, str) and value in permitted):
            raise UserError(f"{file}: {place}: {value!r} is none of the classes that robust ships; if you know it and trust it: "
                            f"trust=[{value}], or -cd the folder whose config names it")


def _no_folder(path: Path, key: str) -> str:
    """What stands there instead, or what is there of a similar name."""
    if path.exists():
        return f"is a file; expected the folder of a run, {key}={path.parent}?"
    beside = list(path.parent.iterdir()) if os.access(path.parent, os.R_OK | os.X_OK) else []
    names = [*(child.name for child in beside if child.is_dir()), "latest"]
    near = difflib.get_close_matches(path.name, names, n=3)
    return f"no such folder; did you mean {' or '.join(near)}?" if near else "no such folder"


def _its_train_run(folder: RunFolder, key: str) -> str:
    try:
        origin = folder.read_about().get("train_run")
    except UserError:
        origin = None
    return f"; its training run: {key}={origin}" if origin else ""


def _names(config: Mapping[str, Any]) -> dict[str, str]:
    found = config.get("choices")
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, Mapping) else {}
