"""The command line with stub bodies, in a folder of its own: what composing does, without torch."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from robust_cli import cli
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder


@dataclass
class Ended:
    code: int
    out: str
    err: str


class Robust:
    """Runs command lines in this process; ``seen`` holds what the bodies were given."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.capsys = home, capsys
        self.seen: list[tuple[DictConfig, RunFolder]] = []
        self.fail: Callable[[DictConfig, RunFolder], None] = lambda config, folder: None

    def __call__(self, *words: str) -> Ended:
        self.capsys.readouterr()
        code = cli.main(words)
        return Ended(code, *self.capsys.readouterr())

    def done(self, *words: str) -> RunFolder:
        """The folder of a command that must succeed."""
        ended = self(*words)
        assert ended.code == 0, ended.err
        return self.seen[-1][1]

    def folders(self) -> list[str]:
        """Names of all run folders under outputs."""
        return sorted(file.parent.name for file in self.home.glob("outputs/**/config.yaml"))


def _body(robust: Robust, command: str) -> Callable[[DictConfig, RunFolder], None]:
    def body(config: DictConfig, folder: RunFolder) -> None:
        robust.seen.append((config, folder))
        robust.fail(config, folder)
        about = {"command": command, **OmegaConf.to_container(config.choices), "seed": config.seed}
        if command == "train":
            about["training_noise_std"] = config.regime.get("noise_std")
        else:
            about["train_run"] = config.run
        folder.write_about(about)
        folder.metrics.write_text("rows\n")

    return body


@pytest.fixture
def robust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Robust:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.delenv("ROBUST_DATA", raising=False)
    runner = Robust(tmp_path, capsys)
    for name in ("train", "certify", "attack"):
        command = importlib.import_module(f"robust_cli.commands.{name}").main
        monkeypatch.setattr(command, "body", _body(runner, name))
    return runner


def refuse(config: Any, folder: Any) -> None:
    raise UserError("data: none here")


def write_run(path: Path, config: dict[str, Any] | str, command: str = "train", state: str = "complete",
              about: dict[str, Any] | None = None) -> Path:
    """A run folder written by hand."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    (path / "status.json").write_text(json.dumps({"state": state, "command": command}))
    (path / "about.json").write_text(json.dumps(about if about is not None else {"training_noise_std": 0.5}))
    return path


@pytest.fixture
def good() -> dict[str, Any]:
    """A training run's config as ours are."""
    return {
        "seed": 0, "training": {"epochs": 3},
        "dataset": {"_target_": "robust_cli.datasets.digits.Digits", "augment": "none"},
        "model": {"_target_": "robust_cli.models.cnn_small.CnnSmall"},
        "regime": {"_target_": "robust_cli.regimes.stability.Stability", "noise_std": 0.5},
        "choices": {"dataset": "digits", "model": "cnn_small", "regime": "stability"},
    }


pytest.write_run, pytest.refuse = write_run, refuse  # type: ignore[attr-defined]
