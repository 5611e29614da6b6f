"""A killed run that goes on ends as if it had not been killed: weights to the last bit, and rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_problem import Averaging, Run, network, stripes
from torch import nn

from robust_cli.messages import UserError
from robust_cli.regimes.batch import Batch, Losses, Progress, Regime
from robust_cli.regimes.stability import Stability
from robust_cli.runs.folder import RunFolder
from robust_cli.training import checkpoints
from robust_cli.training.settings import Keep, Optimizer, Schedule, Training


class Killed(BaseException):
    """Stands for a kill: nothing in the loop may catch it."""


class Killing:
    """A regime that dies at one step, before or after the gradient is taken."""

    noise_std = None

    def __init__(self, regime: Regime, step: int) -> None:
        self.regime, self.step = regime, step

    def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
        if progress.step == self.step and model.training:
            raise Killed
        return self.regime.loss(model, batch, progress)


class KillingAveraging(Averaging):
    def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
        if progress.step == 17 and model.training:
            raise Killed
        return super().loss(model, batch, progress)


def rows(folder: RunFolder) -> list[dict[str, str]]:
    with folder.metrics.open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


SGD = {"optimizer": Optimizer.sgd, "learning_rate": 0.05, "nesterov": True, "weight_decay": 1e-3}
CASES = {
    "adam_one_cycle": Training(epochs=5, batch_size=16, learning_rate=5e-3),
    "sgd_cosine": Training(epochs=5, batch_size=16, schedule=Schedule.cosine, **SGD),  # type: ignore[arg-type]
    "sgd_steps": Training(epochs=5, batch_size=16, schedule=Schedule.steps, milestones=[1, 4], **SGD),  # type: ignore[arg-type]
    "plateau_best": Training(epochs=8, batch_size=16, schedule=Schedule.plateau, schedule_patience=0, schedule_factor=0.5,
                             learning_rate=0.02, early_stopping_patience=3, keep=Keep.best_validation),
    "constant_sparse_checkpoints": Training(epochs=5, batch_size=16, schedule=Schedule.constant, checkpoint_every=3,
                                            drop_last=True, channels_last=False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_as_the_uninterrupted_one(run: Run, name: str) -> None:
    """Dropout, batch statistics, momentum, schedule, plateau, stopping and the regime's noise all go on."""
    settings, regime = CASES[name], Stability(noise_std=0.2, weight=0.3)
    whole, expected, folder = run("whole", settings, regime, augment="crop_flip")
    kill = 3 * (whole.steps // whole.epochs) + 1
    with pytest.raises(Killed):
        run("cut", settings, Killing(regime, kill), augment="crop_flip")
    found, model, again = run("cut", settings, regime, model=network(seed=99), augment="crop_flip")
    assert_same(expected, model)
    assert rows(folder) == rows(again)
    assert len(rows(again)) == whole.epochs
    compared = ("epochs", "steps", "kept_epoch", "stopped_early", "train_accuracy", "validation_loss", "warning")
    assert all(getattr(whole, key) == getattr(found, key) for key in compared)


def test_the_plateau_case_uses_what_it_claims_to(run: Run) -> None:
    result, _, folder = run("a", CASES["plateau_best"], Stability(noise_std=0.2, weight=0.3), augment="crop_flip")
    assert len({row["learning_rate"] for row in rows(folder)}) > 1
    assert result.kept_epoch < result.epochs


def test_a_kill_before_the_first_checkpoint_starts_anew(run: Run) -> None:
    settings = Training(epochs=2, batch_size=16)
    _, expected, folder = run("whole", settings)
    with pytest.raises(Killed):
        run("cut", settings, Killing(Stability(), 2))
    _, model, again = run("cut", settings)
    assert_same(expected, model)
    assert rows(folder) == rows(again)


def test_a_row_after_the_checkpoint_and_a_torn_line_are_dropped(run: Run, tmp_path: Path) -> None:
    settings = Training(epochs=4, batch_size=16)
    complete = rows(run("whole", settings, Stability())[2])
    with pytest.raises(Killed):
        run("cut", settings, Killing(Stability(), 9))
    folder = RunFolder(tmp_path / "cut")
    assert len(rows(folder)) == 2
    with folder.metrics.open("a", encoding="utf-8") as file:
        file.write("3,12,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1\n4,16,0.")
    run("cut", settings, Stability())
    assert rows(folder) == complete


def test_a_finished_run_is_only_read(run: Run) -> None:
    settings = Training(epochs=3, batch_size=16)
    first, expected, folder = run("a", settings)
    before = folder.metrics.read_bytes(), folder.checkpoint.read_bytes()
    second, model, _ = run("a", settings, model=network(seed=5))
    assert_same(expected, model)
    assert first == second
    assert before == (folder.metrics.read_bytes(), folder.checkpoint.read_bytes())


def test_the_state_of_a_regime_goes_on(run: Run) -> None:
    settings = Training(epochs=5, batch_size=16)
    _, expected, folder = run("whole", settings, Averaging())
    with pytest.raises(Killed):
        run("cut", settings, KillingAveraging())
    _, model, again = run("cut", settings, Averaging())
    assert_same(expected, model)
    assert rows(folder) == rows(again)


def test_a_full_disk_keeps_the_checkpoint_before(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Training(epochs=3, batch_size=16)
    _, expected, _ = run("whole", settings)
    real, calls = torch.save, iter([True, False, True, True, True])

    def full(content: object, file: Any) -> None:
        if not next(calls):
            file.write(b"half")
            raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed\nmore")
        real(content, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write the checkpoint .*file write failed\); the one before") as caught:
        run("cut", settings)
    assert "\n" not in str(caught.value)
    _, model, folder = run("cut", settings)
    assert_same(expected, model)
    assert [file.name for file in folder.path.iterdir() if "part" in file.name] == []


def _damage() -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "text", b"not a checkpoint"
    yield "pickle", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."


@pytest.mark.parametrize(("name", "content"), list(_damage()))
def test_a_damaged_checkpoint_is_one_line(run: Run, name: str, content: bytes) -> None:
    _, _, folder = run("a", Training(epochs=1, batch_size=16))
    folder.checkpoint.write_bytes(content)
    with pytest.raises(UserError, match="damaged") as caught:
        run("a", Training(epochs=1, batch_size=16))
    assert "\n" not in str(caught.value)


class Command:
    """Unpickling this makes a file: what a hostile checkpoint would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_hostile_checkpoint_runs_no_code(run: Run, tmp_path: Path) -> None:
    _, _, folder = run("a", Training(epochs=1, batch_size=16))
    torch.save({"version": 1, "epoch": Command(tmp_path / "made")}, folder.checkpoint)
    with pytest.raises(UserError, match="damaged"):
        run("a", Training(epochs=1, batch_size=16))
    assert not (tmp_path / "made").exists()


def test_half_a_checkpoint_is_refused(run: Run) -> None:
    _, _, folder = run("a", Training(epochs=1, batch_size=16))
    content = folder.checkpoint.read_bytes()
    folder.checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged"):
        run("a", Training(epochs=1, batch_size=16))


@pytest.mark.parametrize(("change", "named"), [
    ({"settings": Training(epochs=4, batch_size=16)}, "training.epochs=4"), ({"seed": 4}, "seed=4"),
    ({"train": stripes(49)}, "images=49"), ({"augment": "crop_flip"}, "augment=crop_flip"),
    ({"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}, "this model")])
def test_another_runs_checkpoint_is_refused(run: Run, change: dict[str, Any], named: str) -> None:
    settings = Training(epochs=1, batch_size=16)
    run("a", settings)
    with pytest.raises(UserError, match=named) as caught:
        run("a", **{"settings": settings, **change})
    assert "\n" not in str(caught.value)


def test_threads_and_checkpoint_frequency_may_change() -> None:
    assert checkpoints.identity(Training()) == checkpoints.identity(Training(threads=1, checkpoint_every=5))
