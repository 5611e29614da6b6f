"""Learning rates against closed forms, early stopping against counting by hand, optimisers against one step on paper."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from robust_cli.training.schedules import LearningRate, optimizer_for
from robust_cli.training.settings import Optimizer, Schedule, Training
from robust_cli.training.stopping import Stopping

STEPS, EPOCHS = 10, 6


def rates(settings: Training, losses: list[float] | None = None) -> list[float]:
    """The learning rate of every step of a run of 6 epochs of 10 steps."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = optimizer_for([weight], settings)
    schedule, found = LearningRate(optimizer, settings, STEPS), []
    for epoch in range(EPOCHS):
        for _ in range(STEPS):
            optimizer.step()
            found.append(schedule.now)
            schedule.step_ended()
        schedule.epoch_ended(losses[epoch] if losses else None)
    return found


def settings(schedule: Schedule, **more: Any) -> Training:
    return Training(epochs=EPOCHS, learning_rate=0.2, schedule=schedule, **more)


def test_constant() -> None:
    assert rates(settings(Schedule.constant)) == [0.2] * 60


def test_cosine() -> None:
    expected = [0.1 * (1 + math.cos(math.pi * t / 60)) for t in range(60)]
    assert rates(settings(Schedule.cosine)) == pytest.approx(expected, rel=1e-9)


def test_one_cycle_rises_to_its_peak_and_falls() -> None:
    """Between two rates a and b the cosine is b + (a - b)(1 + cos(pi s)) / 2; the peak is at step 0.3 * 60 - 1 = 17."""

    def between(a: float, b: float, share: float) -> float:
        return b + (a - b) * (1 + math.cos(math.pi * share)) / 2

    low, high, end = 0.2 / 25, 0.2, 0.2 / 250_000
    expected = [between(low, high, t / 17) if t <= 17 else between(high, end, (t - 17) / 42) for t in range(60)]
    found = rates(settings(Schedule.one_cycle))
    assert found == pytest.approx(expected, rel=1e-9)
    assert max(found) == pytest.approx(0.2)


def test_one_cycle_leaves_the_betas_alone() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    chosen = settings(Schedule.one_cycle, betas=[0.7, 0.9])
    optimizer = optimizer_for([weight], chosen)
    LearningRate(optimizer, chosen, STEPS)
    assert optimizer.param_groups[0]["betas"] == (0.7, 0.9)


def test_steps_fall_after_their_milestones() -> None:
    found = rates(settings(Schedule.steps, milestones=[2, 5], schedule_factor=0.5))
    assert found == pytest.approx([0.2] * 20 + [0.1] * 30 + [0.05] * 10)


@pytest.mark.parametrize(("losses", "falls"), [
    ([5, 4, 3, 2, 1, 0.5], []), ([1, 1, 1, 1, 1, 1], [3]), ([1, math.nan, math.nan, 2, 0.5, 1], [3]),
    ([1, 2, 2, 0.9, 2, 2], []), ([1, 0.99995, 0.99995, 2, 2, 2], [3])])
def test_plateau_falls_when_its_patience_is_exceeded(losses: list[float], falls: list[int]) -> None:
    """With patience 2 the third epoch in a row without a better loss (by 1e-4 of the best) lowers the rate; NaN is worse."""
    found = rates(settings(Schedule.plateau, schedule_patience=2, schedule_factor=0.9), losses)
    expected = [0.2 * 0.9 ** sum(epoch > fall for fall in falls) for epoch in range(EPOCHS) for _ in range(STEPS)]
    assert found == pytest.approx(expected)


def test_early_stopping_counts_epochs_above_the_best() -> None:
    """A tie starts the count again and is no better epoch; NaN counts."""
    stopping = Stopping(patience=3)
    losses = [1.0, 1.2, 1.1, 1.0, 1.5, math.nan, 0.9, 1.0, 1.0, math.inf]
    seen = [(stopping.update(loss, epoch), stopping.waited, stopping.stop) for epoch, loss in enumerate(losses, 1)]
    assert [s[0] for s in seen] == [True, False, False, False, False, False, True, False, False, False]
    assert [s[1] for s in seen] == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3]
    assert [s[2] for s in seen] == [False] * 9 + [True]
    assert (stopping.best, stopping.best_epoch) == (0.9, 7)


def test_patience_zero_never_stops() -> None:
    stopping = Stopping(patience=0)
    for epoch in range(100):
        stopping.update(float(epoch), epoch)
    assert not stopping.stop


def _step(chosen: Training, gradients: list[float]) -> float:
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = optimizer_for([weight], chosen)
    for gradient in gradients:
        weight.grad = torch.tensor([float(gradient)])
        optimizer.step()
    return float(weight.detach())


def test_sgd_on_paper() -> None:
    """Gradients 1, 1 with decay 0.5: w = 2, then g = 1 + 1 = 2; Nesterov steps g + 0.9 v."""
    plain = Training(optimizer=Optimizer.sgd, learning_rate=0.1, momentum=0.9, weight_decay=0.5)
    w1 = 2 - 0.1 * 2
    assert _step(plain, [1, 1]) == pytest.approx(w1 - 0.1 * (0.9 * 2 + 1 + 0.5 * w1))
    nesterov = Training(optimizer=Optimizer.sgd, learning_rate=0.1, momentum=0.9, nesterov=True)
    assert _step(nesterov, [1]) == pytest.approx(2 - 0.1 * 1.9)


def test_adam_on_paper() -> None:
    """The first step has the size of the learning rate; the second uses the corrected means."""
    chosen = Training(learning_rate=0.1, betas=[0.8, 0.9])
    assert _step(chosen, [5]) == pytest.approx(1.9, rel=1e-6)
    m, v = (0.8 * 0.2 * 5 + 0.2 * 1) / (1 - 0.64), (0.9 * 0.1 * 25 + 0.1 * 1) / (1 - 0.81)
    assert _step(chosen, [5, 1]) == pytest.approx(1.9 - 0.1 * m / math.sqrt(v), rel=1e-5)


def test_frozen_parameters_are_not_trained() -> None:
    free, fixed = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1), requires_grad=False)
    assert optimizer_for([free, fixed], Training()).param_groups[0]["params"] == [free]
