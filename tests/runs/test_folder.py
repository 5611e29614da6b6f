"""Run folders are claimed once, found again, and speak plainly when they are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder, claim, latest


def finished(path: Path, command: str, state: str = "complete", age: float = 0) -> RunFolder:
    path.mkdir(parents=True)
    run = RunFolder(path)
    run.config.write_text("seed: 0\n")
    os.utime(run.config, (1e9 - age, 1e9 - age))
    run.set_state(state, command)
    return run


def test_two_claims_never_share_a_folder(tmp_path: Path) -> None:
    names = [claim(tmp_path, "12-00-00_train").path.name for _ in range(3)]
    assert names == ["12-00-00_train", "12-00-00_train-2", "12-00-00_train-3"]


def test_latest_is_the_last_complete_train_run_sweeps_included(tmp_path: Path) -> None:
    finished(tmp_path / "2026-01-01/old", "train", age=50)
    job = finished(tmp_path / "2026-01-02/sweep/seed_1", "train", age=10)
    finished(tmp_path / "2026-01-02/certify", "certify", age=1)
    finished(tmp_path / "2026-01-02/failed", "train", "failed: loss is nan", age=0)
    finished(tmp_path / "2026-01-02/running", "train", "running", age=0)
    assert latest(tmp_path).path == job.path


def test_latest_without_a_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `robust train` first"):
        latest(tmp_path)


@pytest.mark.parametrize("content", [None, "", "[1, 2]", "{not json", b"\xff\xfe"])
def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, content: str | bytes | None) -> None:
    for name, read in (("about.json", "read_about"), ("config.yaml", "read_config")):
        if content is not None:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match="expected a run folder") as caught:
            getattr(RunFolder(tmp_path), read)()
        assert "\n" not in str(caught.value)
