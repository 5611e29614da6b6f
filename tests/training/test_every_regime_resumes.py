"""Every shipped regime, stopped by a signal in the middle of an epoch, goes on to the weights that it would have had."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from small_problem import stripes
from torch import nn

from robust_cli.composing.build import build
from robust_cli.composing.schema import register
from robust_cli.models.classifier import classifier
from robust_cli.regimes.batch import Batch, Copying, Losses, Phased, Progress, Stateful
from robust_cli.regimes.lp_dual import LpDual
from robust_cli.runs.folder import RunFolder
from robust_cli.runs.signals import Stopped, listening
from robust_cli.training.loop import fit
from robust_cli.training.settings import Precision, Training

CONF = Path(__file__).resolve().parents[2] / "conf"
NAMES = sorted(file.stem for file in (CONF / "regime").glob("*.yaml"))
SETTINGS = Training(epochs=3, batch_size=16, learning_rate=5e-3, checkpoint_every=2)
FEW = {"steps": 2, "draws": 2}  # of attacks in training: what is tested does not depend on their number


class Layers(nn.Module):
    """Convolution, ReLU, dropout, dense: what every regime takes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2),
                                    nn.Linear(64, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return classifier(Layers(), [0.4], [0.3])


def made(name: str) -> Any:
    """The regime as its config composes it."""
    register()
    OmegaConf.register_new_resolver("robust_job", lambda *_: "", replace=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = OmegaConf.to_container(compose("train", [f"regime={name}"]).regime, resolve=True)
    assert isinstance(node, dict)
    for key in ("attack",):
        if isinstance(node.get(key), dict):
            node[key] |= {setting: few for setting, few in FEW.items() if setting in node[key]}
    return build(OmegaConf.create(node), "regime")


class Stopping:
    """The regime, with a signal to the process at one step of training."""

    def __init__(self, regime: Any, step: int) -> None:
        self.regime, self.step, self.noise_std = regime, step, regime.noise_std

    @property
    def copies_an_epoch(self) -> int:
        return self.regime.copies_an_epoch if isinstance(self.regime, Copying) else 1

    @property
    def phases(self) -> int:
        return self.regime.phases if isinstance(self.regime, Phased) else 1

    def plan(self, epochs: int) -> str:
        return f"{epochs} epochs"

    def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
        if progress.step == self.step and model.training:
            os.kill(os.getpid(), signal.SIGTERM)
        found: Losses = self.regime.loss(model, batch, progress)
        return found

    def state_dict(self) -> dict[str, Any]:
        return self.regime.state_dict() if isinstance(self.regime, Stateful) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        raise AssertionError("this one is not resumed")


@pytest.fixture(autouse=True)
def default_handler() -> Any:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_stopped_run_ends_as_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    def run(folder: str, regime: Any, seed: int) -> nn.Module:
        (tmp_path / folder).mkdir(exist_ok=True)
        model = network(seed)
        fit(model, regime, stripes(48), stripes(20, seed=1), SETTINGS, seed=3, device=torch.device("cpu"),
            precision=Precision.fp32, augment="none", folder=RunFolder(tmp_path / folder))
        return model

    expected = run("whole", made(name), 0)
    with pytest.raises(Stopped), listening():
        run("cut", Stopping(made(name), 4), 0)
    saved = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)
    assert (saved["epoch"], saved["step"]) == (1, 5) or isinstance(made(name), Copying)
    found = run("cut", made(name), 99)
    for (key, tensor), other in zip(expected.state_dict().items(), found.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), key
    rows = [[cell for column, cell in enumerate(line.split(",")) if column != 2]
            for which in ("whole", "cut") for line in (tmp_path / which / "metrics.csv").read_text().splitlines()]
    assert rows[: len(rows) // 2] == rows[len(rows) // 2 :]


@pytest.mark.parametrize(("given", "step", "stage"), [(0, 5, 0), (0, 6, 1), (0, 10, 1), (1, 7, 2)])
def test_a_cascade_stopped_in_any_stage_ends_as_the_uninterrupted_one(given: int, step: int, stage: int, tmp_path: Path) -> None:
    """Four epochs of 3 steps for two stages: stopped in the last step of the first stage, in the first of the second and in
    the middle of that; and with a stage that is given. What the stages before certify is not asked again."""
    stages = 2 + given
    settings = Training(epochs=4, batch_size=16, learning_rate=5e-3, checkpoint_every=3)

    def regime() -> LpDual:
        return LpDual("l2", 0.06, stages=stages, given_stages=given)

    def run(folder: str, mine: Any, seed: int) -> tuple[nn.Module, float | None]:
        (tmp_path / folder).mkdir(exist_ok=True)
        made = iter(range(seed, seed + stages))
        model = regime().network(lambda: network(next(made)))
        result = fit(model, mine, stripes(48), stripes(20, seed=1), settings, seed=3, device=torch.device("cpu"),
                     precision=Precision.fp32, augment="none", folder=RunFolder(tmp_path / folder))
        return model, result.validation_loss

    whole = regime()
    expected, loss = run("whole", whole, 0)
    with pytest.raises(Stopped), listening():
        run("cut", Stopping(regime(), step), 0)
    saved = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)
    assert (saved["step"], saved["regime"]["stage"], int(saved["weights"]["used"])) == (step + 1, stage, stage + 1)
    again = regime()
    found, _ = run("cut", again, 99)
    assert run("cut", regime(), 99)[1] == loss, "of a run that is complete, on what is left to the last stage"
    assert expected.in_use == found.in_use == stages
    for (key, tensor), other in zip(expected.state_dict().items(), found.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), key
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    rows = [[cell for column, cell in enumerate(line.split(",")) if column != 2]
            for which in ("whole", "cut") for line in (tmp_path / which / "metrics.csv").read_text().splitlines()]
    assert rows[: len(rows) // 2] == rows[len(rows) // 2 :]
    left = [float(row[rows[0].index("left")]) for row in rows[1:5]]
    assert left[0] == left[1] == 1 - (given > 0) * (1 - left[0])
    assert left[3] < left[0]
    assert given or left[3] > 0, "the second stage has something to train on"


def test_every_regime_is_here() -> None:
    """The configs are read, not a list of names: a regime that is added is tested."""
    assert {"standard", "stability", "noise_augmentation"} <= set(NAMES)
    for name in NAMES:
        assert yaml.safe_load((CONF / "regime" / f"{name}.yaml").read_text())
