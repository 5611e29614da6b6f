"""A real kill -9, or a signal to stop, in the middle, and the same files as without it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robust_cli.runs.folder import RunFolder

WAIT = 120  # seconds until something must have happened, generous for a busy machine
TRAIN = ("train", "training.epochs=30", "subset=first:800", "dataset.validation=0.1", "training.batch_size=32")


def start(folder: Path, *words: str, limit: int = -1) -> subprocess.Popen[bytes]:
    """A command in a process of its own, whose files may have ``limit`` bytes."""
    place = [f"hydra.run.dir={folder}"] if not any(w.startswith("resume=") for w in words) else []
    return subprocess.Popen([sys.executable, "-m", "robust_cli.cli", *words, *place], cwd=folder.parent,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
                            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))


def finish(folder: Path, *words: str) -> None:
    process = start(folder, *words)
    _, errors = process.communicate(timeout=10 * WAIT)
    assert process.returncode == 0, errors.decode()


def until(process: subprocess.Popen[bytes], path: Path, lines: int) -> None:
    """Wait until the file has so many lines."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"


def killed_when(process: subprocess.Popen[bytes], path: Path, lines: int) -> None:
    """Kill as soon as the file has so many lines."""
    until(process, path, lines)
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2], ids=lambda number: number.name)
def test_a_signal_saves_in_the_middle_of_an_epoch_and_training_goes_on(whole: RunFolder, tmp_path: Path, number: int) -> None:
    """The checkpoint is of the step under way: the run that goes on says how far the epoch had come."""
    cut = RunFolder(tmp_path / "cut")
    process = start(cut.path, *TRAIN, "training.checkpoint_every=100")
    until(process, cut.metrics, 4)
    time.sleep(0.01)  # into the next epoch
    process.send_signal(number)
    _, errors = process.communicate(timeout=WAIT)
    name = signal.Signals(number).name
    assert errors.decode() == f"robust train: stopped by {name}; to go on: robust train resume=cut\n"
    assert process.returncode == 128 + number
    assert cut.checkpoint.exists()
    assert not cut.model.exists()
    finish(cut.path, "train", f"resume={cut}")
    assert cut.model.read_bytes() == whole.model.read_bytes()
    assert without_seconds(cut.metrics) == without_seconds(whole.metrics)


def test_a_signal_ends_certifying_with_how_to_go_on(whole: RunFolder, tmp_path: Path) -> None:
    words = ("certify", f"run={whole}", "noise_std=0.5", "subset=first:40", "certificate=[neyman_pearson]", "samples=3000")
    reference, cut = RunFolder(tmp_path / "reference"), RunFolder(tmp_path / "cut")
    process = start(cut.path, *words)
    until(process, cut.votes, 8)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=WAIT)
    assert errors.decode() == "robust certify: stopped by SIGTERM; to go on: robust certify resume=cut\n"
    assert process.returncode == 143
    finish(cut.path, "certify", f"resume={cut}")
    finish(reference.path, *words)
    assert cut.certificates.read_bytes() == reference.certificates.read_bytes()


PLANS = [("sampling=fixed", "samples=300", "selection_samples=20"), ("sampling=sequential", "samples=3000"),
         ("sampling=anytime", "samples=3000")]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan[0])
def test_certifying_goes_on_to_the_same_votes(whole: RunFolder, tmp_path: Path, plan: tuple[str, ...]) -> None:
    words = ("certify", f"run={whole}", "noise_std=0.5", "subset=first:12", "certificate=[neyman_pearson]", *plan)
    reference, cut = RunFolder(tmp_path / "reference"), RunFolder(tmp_path / "cut")
    finish(reference.path, *words)
    killed_when(start(cut.path, *words), cut.votes, 8)
    assert not cut.certificates.exists()
    finish(cut.path, "certify", f"resume={cut}")
    assert cut.votes.read_bytes() == reference.votes.read_bytes()
    assert cut.certificates.read_bytes() == reference.certificates.read_bytes()


def test_two_processes_do_not_write_into_one_run(whole: RunFolder, tmp_path: Path) -> None:
    words = ("certify", f"run={whole}", "noise_std=0.5", "subset=first:40", "certificate=[neyman_pearson]", "samples=20000")
    first = start(tmp_path / "run", *words)
    end = time.monotonic() + WAIT
    while time.monotonic() < end and not RunFolder(tmp_path / "run").votes.exists():
        time.sleep(0.01)
    second = start(tmp_path / "run", "certify", f"resume={tmp_path / 'run'}")
    _, errors = second.communicate(timeout=WAIT)
    assert first.poll() is None, "the first ended before the second could meet it"
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "another process is writing into this run" in errors.decode()
    assert errors.decode().count("\n") == 1


def test_a_full_disk_is_one_line_and_loses_nothing(whole: RunFolder, tmp_path: Path) -> None:
    """Here the system allows files of 8 KiB."""
    words = ("certify", f"run={whole}", "noise_std=0.5", "subset=first:12", "certificate=[neyman_pearson]", "samples=2000")
    reference, full = RunFolder(tmp_path / "reference"), RunFolder(tmp_path / "full")
    finish(reference.path, *words)
    process = start(full.path, *words, limit=8192)
    _, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 2
    assert errors.decode().count("\n") == 1, errors.decode()
    assert "what was written before is kept" in errors.decode()
    assert full.votes.read_bytes().count(b"\n") > 8
    finish(full.path, "certify", f"resume={full}")
    assert full.votes.read_bytes() == reference.votes.read_bytes()
    assert full.certificates.read_bytes() == reference.certificates.read_bytes()
