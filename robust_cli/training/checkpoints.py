"""Checkpoints: written whole or not at all, read without running any code that the file may hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from robust_cli.messages import UserError
from robust_cli.training.settings import Training

_FREE = {"threads", "checkpoint_every", "init_from"}  # settings that may change between a kill and its resumption
VERSION = 1


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors, numbers and text; a kill, or a full disk, leaves the checkpoint before. Raises UserError on the latter."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            torch.save({"version": VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot write the checkpoint ({str(error).splitlines()[0]}); the one before, if any, is kept; "
                        "make room and go on with resume=<this folder>") from error


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's content, tensors on the CPU. Raises UserError when the file is damaged or is no checkpoint."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise UserError(f"{path}: expected a checkpoint of training, found a damaged file ({type(error).__name__}); "
                        "delete it to begin this run anew") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise UserError(f"{path}: expected a checkpoint of training (version {VERSION}), found another file; "
                        "delete it to begin this run anew")
    return content


def identity(settings: Training, **more: object) -> dict[str, Any]:
    """What has to be the same when a run goes on, as plain values by name."""
    kept = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in _FREE}
    return {**{f"training.{name}": _plain(value) for name, value in kept.items()},
            **{name: _plain(value) for name, value in more.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, list | tuple) else value


def check_identity(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises UserError naming the first thing in which the checkpoint's run differs from this one."""
    for name, value in expected.items():
        if found.get(name) != value:
            raise UserError(f"{path}: expected a checkpoint with {name}={value}, found {name}={found.get(name)}; "
                            "resume with the settings it was made with, or train into a new folder")
