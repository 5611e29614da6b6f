"""Bash completion of what Hydra does not know: the commands, and run folders behind `report`, `run=` and `resume=`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from robust_cli.runs.folder import RunFolder

_KEYS = ("run=", "resume=", "training.init_from=")


def candidates(line: str, commands: Sequence[str]) -> list[str] | None:
    """What may stand at the end of a command line that begins with `robust`; None where Hydra knows better."""
    words = line.split()
    current = "" if line.endswith(" ") or not words else words[-1]
    before = words[:-1] if current else words
    if len(before) <= 1:
        return [command for command in commands if command.startswith(current)]
    if before[1] == "report":
        return _folders(current)
    for key in _KEYS:
        if current.startswith(key):
            latest = [f"{key}latest"] if key != "resume=" and "latest".startswith(current[len(key):]) else []
            return latest + [key + folder for folder in _folders(current[len(key):])]
    return None if before[1] in ("train", "certify", "attack") else []


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
