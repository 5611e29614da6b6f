"""A workplace away from the checkout, and one trained run that the tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from invoking import robust

from robust_cli.runs.folder import RunFolder


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A stability-trained run on the embedded digits, good enough to certify and attack."""
    place, here = tmp_path_factory.mktemp("trained"), Path.cwd()
    os.chdir(place)
    try:
        return robust("train", "training.epochs=12", "training.batch_size=64", "training.learning_rate=0.003").folder
    finally:
        os.chdir(here)
