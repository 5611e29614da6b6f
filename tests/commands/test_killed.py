"""A real kill -9 in the middle, and the same files as without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robust_cli.runs.folder import RunFolder

WAIT = 120  # seconds until something must have happened, generous for a busy machine
TRAIN = ("train", "training.epochs=30", "subset=first:800", "dataset.validation=0.1", "training.batch_size=32")


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    place = [f"hydra.run.dir={folder}"] if not any(w.startswith("resume=") for w in words) else []
    return subprocess.Popen([sys.executable, "-m", "robust_cli.cli", *words, *place], cwd=folder.parent,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(folder: Path, *words: str) -> None:
    process = start(folder, *words)
    _, errors = process.communicate(timeout=10 * WAIT)
    assert process.returncode == 0, errors.decode()


def killed_when(process: subprocess.Popen[bytes], path: Path, lines: int) -> None:
    """Kill as soon as the file has so many lines."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("killed") / "whole"
    finish(folder, *TRAIN)
    return RunFolder(folder)


def without_seconds(metrics: Path) -> list[list[str]]:
    rows = [line.split(",") for line in metrics.read_text().splitlines()]
    clock = rows[0].index("seconds")
    return [row[:clock] + row[clock + 1:] for row in rows]


def test_training_goes_on_to_the_same_weights(whole: RunFolder, tmp_path: Path) -> None:
    cut = RunFolder(tmp_path / "cut")
    killed_when(start(cut.path, *TRAIN), cut.metrics, 6)
    assert cut.state == "running"
    assert not cut.model.exists()
    finish(cut.path, "train", f"resume={cut}")
    assert cut.model.read_bytes() == whole.model.read_bytes()
    assert without_seconds(cut.metrics) == without_seconds(whole.metrics)


def test_certifying_goes_on_to_the_same_votes(whole: RunFolder, tmp_path: Path) -> None:
    words = ("certify", f"run={whole}", "noise_std=0.5", "samples=300", "selection_samples=20", "subset=first:12")
    reference, cut = RunFolder(tmp_path / "reference"), RunFolder(tmp_path / "cut")
    finish(reference.path, *words)
    killed_when(start(cut.path, *words), cut.votes, 8)
    assert not cut.certificates.exists()
    finish(cut.path, "certify", f"resume={cut}")
    assert cut.votes.read_bytes() == reference.votes.read_bytes()
    assert cut.certificates.read_bytes() == reference.certificates.read_bytes()
