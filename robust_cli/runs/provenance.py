"""Where a result comes from: command line, commit, versions, hardware, data, seed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import robust_cli

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "hydra-core", "omegaconf", "scikit-learn", "safetensors")


def _commit() -> str | None:
    """The commit of an editable install, with '+changes' when the tree is not clean; None in a wheel."""
    root = Path(robust_cli.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        head, changes = (subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True,
                                        timeout=10).stdout.strip()
                         for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]))
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changes else "")


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def gather(command_line: list[str], seed: int, data_checksum: str, device: str, threads: int) -> dict[str, Any]:
    """The record of a run that begins now."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "command_line": command_line,
        "started": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "robust": robust_cli.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": versions,
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": device,
        "threads": threads,
        "data_sha256": data_checksum,
        "seed": seed,
    }
