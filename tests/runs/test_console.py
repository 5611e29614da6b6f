"""What a run says: on a terminal, in its log, and where nobody listens."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from robust_cli.runs.console import log_to, say


def test_a_reader_who_has_gone_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody, log_to(tmp_path / "log.txt"):
        monkeypatch.setattr(sys, "stdout", nobody)
        say("one")
        say("two")
    assert [line.split(" ", 1)[1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["one", "two"]
