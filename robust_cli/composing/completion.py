"""Bash completion of what Hydra does not know: commands, flags, words of a setting, and run folders behind `run=` and others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from robust_cli.composing.schema import words_of
from robust_cli.runs.folder import RunFolder

_KEYS = ("run=", "resume=", "training.init_from=")
_HYDRA = ("train", "certify", "attack")
_RUN_FLAGS = ("--cfg", "--config-dir", "--help", "--info", "--multirun")
FLAGS = {
    **dict.fromkeys(_HYDRA, _RUN_FLAGS),
    "report": ("--help", "--output", "--tsv-dataset", "--tsv-failure-probability", "--tsv-noise-std", "--tsv-samples"),
    "merge": ("--help", "--output"),
    "list": ("--config-dir", "--help"),
}


def candidates(line: str, commands: Sequence[str]) -> list[str] | None:
    """What may stand at the end of a command line that begins with `robust`; None where Hydra knows better."""
    words = line.split()
    current = "" if line.endswith(" ") or not words else words[-1]
    before = words[:-1] if current else words
    if len(before) <= 1:
        return [command for command in commands if command.startswith(current)]
    command = before[1]
    if current.startswith("-"):
        return [flag for flag in FLAGS.get(command, ()) if flag.startswith(current)]
    if command in ("report", "merge"):
        return _folders(current)
    for key in _KEYS:
        if current.startswith(key):
            latest = [f"{key}latest"] if "latest".startswith(current[len(key):]) else []
            return latest + [key + folder for folder in _folders(current[len(key):])]
    if command not in _HYDRA:
        return []
    key, equals, start = current.partition("=")
    if equals and key in (known := words_of(command)):
        return [f"{key}={word}" for word in known[key] if word.startswith(start)]
    return None


def cleaned(found: str, command: str) -> str:
    """Hydra's candidates without the keys that name classes, but for the one of a model of one's own."""
    typable = ("model._target_=",) if command != "train" else ()
    return " ".join(word for word in found.split() if word in typable or "_target_=" not in word)


def _folders(start: str) -> list[str]:
    """Run folders, and folders on the way to them, whose path begins so; from outputs/ when nothing is typed yet."""
    start = start or "outputs/"
    parent = Path(os.path.expanduser(os.path.dirname(start) or "."))
    prefix = os.path.dirname(start)
    found = []
    for child in sorted(parent.iterdir()) if parent.is_dir() else []:
        name = os.path.join(prefix, child.name)
        if child.is_dir() and name.startswith(start) and not child.name.startswith("."):
            found.append(name if RunFolder(child).status.exists() else name + "/")
    return found
