"""A regime in several phases: each has the whole schedule of the learning rate, and a run stopped at any border goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_problem import Run, network
from torch import nn

from robust_cli.messages import UserError
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.standard import Standard
from robust_cli.training.schedules import LearningRate, optimizer_for
from robust_cli.training.settings import Keep, Optimizer, Schedule, Training

STEPS = 5
PLATEAU = [3.0, 3.0, 2.0, 2.0, 2.0, 2.0]  # validation losses of a phase of 6 epochs


def settings(schedule: Schedule, epochs: int = 6, **more: Any) -> Training:
    milestones = {"milestones": [2, 5]} if schedule is Schedule.steps else {}
    return Training(epochs=epochs, learning_rate=0.2, schedule=schedule, schedule_patience=1, schedule_factor=0.5, **milestones,
                    **more)


class Clock:
    """An optimiser and its learning rate, told of steps and epochs."""

    def __init__(self, chosen: Training, phases: int, losses: list[float] | None = None) -> None:
        self.weight = nn.Parameter(torch.zeros(1))
        self.optimizer = optimizer_for([self.weight], chosen)
        self.rate, self.losses = LearningRate(self.optimizer, chosen, STEPS, phases), losses

    def run(self, first: int, last: int) -> list[float]:
        """The rates of the steps from one to another; an epoch ends after its last step."""
        found = []
        for step in range(first, last):
            self.optimizer.step()
            found.append(self.rate.now)
            self.rate.step_ended()
            if (step + 1) % STEPS == 0:
                epoch = (step + 1) // STEPS
                self.rate.epoch_ended(None if self.losses is None else self.losses[epoch - 1])
        return found

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "rate": self.rate.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])


def losses_of(schedule: Schedule, phases: int) -> list[float] | None:
    return PLATEAU * phases if schedule is Schedule.plateau else None


@pytest.mark.parametrize("schedule", Schedule)
def test_each_phase_has_the_rates_of_a_run_of_its_own(schedule: Schedule) -> None:
    """All of them, the first as much as the third; plateau forgets the best loss and its patience."""
    alone = Clock(settings(schedule), 1, losses_of(schedule, 1)).run(0, 6 * STEPS)
    found = Clock(settings(schedule, 18), 3, losses_of(schedule, 3)).run(0, 18 * STEPS)
    assert found == pytest.approx(alone * 3)
    assert schedule is Schedule.constant or len(set(alone)) > 1


def test_the_cosine_on_paper() -> None:
    expected = [0.1 * (1 + math.cos(math.pi * t / 30)) for t in range(30)]
    assert Clock(settings(Schedule.cosine, 12), 2).run(0, 60) == pytest.approx(expected * 2, rel=1e-9)


@pytest.mark.parametrize("schedule", Schedule)
@pytest.mark.parametrize("stop", [*range(25, 36), 45, 59, 60])
def test_a_clock_that_was_stopped_around_a_border_goes_on(schedule: Schedule, stop: int, tmp_path: Path) -> None:
    """In the middle of an epoch, at the end of one, and at the end of a phase, after 30 and 60 steps: bit for bit."""
    chosen, losses = settings(schedule, 18), losses_of(schedule, 3)
    expected = Clock(chosen, 3, losses).run(0, 90)
    cut, again = Clock(chosen, 3, losses), Clock(chosen, 3, losses)
    assert cut.run(0, stop) == expected[:stop]
    torch.save(cut.state(), tmp_path / "state.pt")
    again.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.run(stop, 90) == expected[stop:]


@pytest.mark.parametrize("schedule", Schedule)
def test_one_phase_is_the_schedule_as_ever(schedule: Schedule) -> None:
    chosen, losses = settings(schedule), losses_of(schedule, 1)
    assert Clock(chosen, 1, losses).run(0, 30) == pytest.approx(_plain(chosen, losses))


def _plain(chosen: Training, losses: list[float] | None) -> list[float]:
    """From the formulas."""
    total, found, patience, best, rate = 6 * STEPS, [], 0, math.inf, 0.2
    for t in range(total):
        epoch = t // STEPS
        match chosen.schedule:
            case Schedule.cosine:
                rate = 0.1 * (1 + math.cos(math.pi * t / total))
            case Schedule.steps:
                rate = 0.2 * 0.5 ** sum(milestone <= epoch for milestone in chosen.milestones)
            case Schedule.one_cycle:
                peak = 0.3 * total - 1
                low, share = (0.2 / 25, t / peak) if t <= peak else (0.2 / 250_000, 1 - (t - peak) / (total - 1 - peak))
                rate = low + (0.2 - low) * (1 - math.cos(math.pi * share)) / 2
        found.append(rate)
        if losses is not None and (t + 1) % STEPS == 0:
            better = losses[epoch] < best * (1 - 1e-4)
            best, patience = min(best, losses[epoch]), 0 if better else patience + 1
            if patience > chosen.schedule_patience:
                rate, patience = rate * 0.5, 0
    return found


def test_a_checkpoint_of_before_there_were_phases_is_of_one() -> None:
    """It holds the schedule alone."""
    chosen = settings(Schedule.cosine)
    expected, cut, again = Clock(chosen, 1).run(0, 30), Clock(chosen, 1), Clock(chosen, 1)
    cut.run(0, 12)
    old = cut.state()
    assert old["rate"].pop("phases_epochs") == 2
    again.load(old)
    assert again.run(12, 30) == expected[12:]


# ---- What does not go with several phases -------------------------------------------------------------------------------------

@pytest.mark.parametrize(("more", "said"), [
    ({"epochs": 7}, r"^training\.epochs: expected a multiple of 3, .* got 7$"), ({"epochs": 2}, r"^training\.epochs: .* got 2$"),
    ({"keep": Keep.best_validation}, r"^training\.keep: expected its default with 3 stages"),
    ({"early_stopping_patience": 2}, r"^training\.early_stopping_patience: expected its default with 3 stages")])
def test_what_does_not_go_together_is_one_line(more: dict[str, Any], said: str) -> None:
    chosen = Training(**({"epochs": 6} | more))
    optimizer = optimizer_for([nn.Parameter(torch.zeros(1))], chosen)
    with pytest.raises(UserError, match=said):
        LearningRate(optimizer, chosen, STEPS, 3)
    LearningRate(optimizer, chosen, STEPS, 1)


# ---- In the loop --------------------------------------------------------------------------------------------------------------

class Killed(BaseException):
    """Stands for a kill: nothing in the loop may catch it."""


class InTwo:
    """Cross entropy in two phases, in the second with a penalty on the last layer; dies at one step of training."""

    noise_std = None
    phases = 2

    def __init__(self, kill: int | None = None) -> None:
        self.kill, self.stage = kill, 0

    def plan(self, epochs: int) -> str:
        return f"{epochs} epochs in two"

    def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
        if not progress.validating:
            if progress.step == self.kill:
                raise Killed
            self.stage = 2 * progress.step // progress.total
        found = Standard().loss(model, batch, progress).total
        last = sum((weight.square().sum() for weight in list(model.parameters())[-2:]), torch.zeros(()))
        return Losses(found + 0.01 * self.stage * last, {"stage": torch.tensor(float(self.stage))})

    def state_dict(self) -> dict[str, Any]:
        return {"stage": self.stage}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stage = state["stage"]


CASES = {"adam_one_cycle": Training(epochs=4, batch_size=16, learning_rate=5e-3),
         "sgd_cosine": Training(epochs=4, batch_size=16, schedule=Schedule.cosine, optimizer=Optimizer.sgd, learning_rate=0.05),
         "steps": Training(epochs=4, batch_size=16, schedule=Schedule.steps, milestones=[1]),
         "plateau": Training(epochs=4, batch_size=16, schedule=Schedule.plateau, schedule_patience=0, learning_rate=0.02)}


@pytest.mark.parametrize("kill", [7, 8, 9, 13])
@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_as_the_uninterrupted_one(run: Run, name: str, kill: int) -> None:
    """4 steps an epoch, 8 a phase: killed before, at and after the border, and in the second phase."""
    _, expected, folder = run("whole", CASES[name], InTwo())
    with pytest.raises(Killed):
        run("cut", CASES[name], InTwo(kill))
    _, model, again = run("cut", CASES[name], InTwo(), model=network(seed=99))
    for (key, value), other in zip(expected.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    rows = [[cell for column, cell in enumerate(line.split(",")) if column != 2]
            for which in (folder, again) for line in which.metrics.read_text().splitlines()]
    assert rows[: len(rows) // 2] == rows[len(rows) // 2 :]


def test_the_rates_in_the_metrics_begin_anew(run: Run) -> None:
    *_, folder = run("whole", CASES["sgd_cosine"], InTwo())
    header, *lines = (line.split(",") for line in folder.metrics.read_text().splitlines())
    rates = [float(line[header.index("learning_rate")]) for line in lines]
    assert rates[:2] == rates[2:]
    assert rates[0] > rates[1]


def test_epochs_that_do_not_fit_are_refused_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.epochs: expected a multiple of 2"):
        run("whole", replace(CASES["steps"], epochs=5), InTwo())
    assert not list((tmp_path / "whole").iterdir())
