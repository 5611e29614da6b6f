"""A run of the training loop on the small problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_problem import Run, network, stripes
from torch import nn

from robust_cli.regimes.batch import Regime
from robust_cli.regimes.standard import Standard
from robust_cli.runs.folder import RunFolder
from robust_cli.training.loop import FitResult, fit
from robust_cli.training.settings import Precision, Training


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Train in the folder ``name`` of the test's own folder."""

    def run(name: str, settings: Training, regime: Regime = Standard(), model: nn.Module | None = None,
            **more: Any) -> tuple[FitResult, nn.Module, RunFolder]:
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir(exist_ok=True)
        model = network() if model is None else model
        given = {"train": stripes(50), "validation": stripes(21, seed=1), "seed": 3, "device": torch.device("cpu"),
                 "precision": Precision.auto, "augment": "none", **more}
        result = fit(model, regime, given.pop("train"), given.pop("validation"), settings, folder=folder, **given)
        return result, model, folder

    return run
