"""The optimiser and the schedule of its learning rate, from the settings.

With t the steps done, T all steps planned, e the epochs done, lr the setting learning_rate:

    constant    lr
    one_cycle   rises along a cosine from lr/25 to lr over the first warmup_fraction of the steps, then falls along one to
                lr/250000 (Smith and Topin 2018, in torch's two-phase form); momentum and betas stay as set
    cosine      lr (1 + cos(pi t / T)) / 2
    steps       lr * schedule_factor ^ (number of milestones <= e)
    plateau     times schedule_factor after more than schedule_patience epochs in a row without a validation loss (of the
                whole objective) that is better than the best by 1e-4 of it; NaN counts as not better. Source: AMR, its
                training grid
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim import lr_scheduler

from robust_cli.messages import UserError
from robust_cli.training.settings import Keep, Optimizer, Schedule, Training


def optimizer_for(parameters: Iterable[torch.nn.Parameter], settings: Training) -> torch.optim.Optimizer:
    """Adam (epsilon 1e-8, no amsgrad) or SGD (dampening 0) over the parameters that are trained."""
    trained = [p for p in parameters if p.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer is Optimizer.adam:
        first, second = settings.betas
        return torch.optim.Adam(trained, lr=rate, betas=(first, second), weight_decay=decay, fused=True)
    return torch.optim.SGD(trained, lr=rate, momentum=settings.momentum, nesterov=settings.nesterov, weight_decay=decay,
                           fused=True)


class LearningRate:
    """One of torch's schedules, told when a step and when an epoch has ended. With several ``phases`` (which divide the epochs
    evenly) each begins with it anew."""

    def __init__(self, optimizer: torch.optim.Optimizer, settings: Training, steps_per_epoch: int, phases: int = 1) -> None:
        """Raises UserError where the phases do not divide the epochs, or a setting compares losses of several phases."""
        _check_phases(settings, phases)
        self._optimizer, self._settings, self._kind = optimizer, settings, settings.schedule
        self._epochs, self._steps_per_epoch = settings.epochs // phases, steps_per_epoch
        self._done = 0  # epochs
        self._begin()

    def _begin(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate
            group.pop("initial_lr", None)
        self._schedule = _schedule(self._optimizer, self._settings, self._epochs * self._steps_per_epoch)

    @property
    def now(self) -> float:
        """The rate of the step to come."""
        return float(self._optimizer.param_groups[0]["lr"])

    def step_ended(self) -> None:
        """Move the schedules that go by steps."""
        if self._kind in (Schedule.one_cycle, Schedule.cosine):
            self._schedule.step()

    def epoch_ended(self, validation_loss: float | None) -> None:
        """Move the schedules that go by epochs; after a phase's last one begin anew."""
        self._done += 1
        if self._done % self._epochs == 0 and self._done < self._settings.epochs:
            self._begin()
        elif isinstance(self._schedule, lr_scheduler.ReduceLROnPlateau):
            assert validation_loss is not None
            self._schedule.step(validation_loss)
        elif self._kind is Schedule.steps:
            self._schedule.step()

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps (the rate itself is in the optimiser's state)."""
        return {**self._schedule.state_dict(), "phases_epochs": self._done}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from a checkpoint."""
        self._done = int(str(state.get("phases_epochs", 0)))
        self._schedule.load_state_dict({key: value for key, value in state.items() if key != "phases_epochs"})


def _check_phases(settings: Training, phases: int) -> None:
    if settings.epochs % phases:
        raise UserError(f"training.epochs: expected a multiple of {phases}, the number of stages to train, each of which has as "
                        f"many, got {settings.epochs}")
    if phases > 1 and (settings.keep is not Keep.last or settings.early_stopping_patience):
        setting = "training.keep" if settings.keep is not Keep.last else "training.early_stopping_patience"
        raise UserError(f"{setting}: expected its default with {phases} stages to train, whose validation losses do not compare: "
                        "each is of the images that those before left; leave it out")


def _schedule(optimizer: torch.optim.Optimizer, settings: Training, steps: int) -> lr_scheduler.LRScheduler:
    match settings.schedule:
        case Schedule.one_cycle:
            return lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps,
                                           pct_start=settings.warmup_fraction, cycle_momentum=False)
        case Schedule.cosine:
            return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        case Schedule.steps:
            return lr_scheduler.MultiStepLR(optimizer, settings.milestones, gamma=settings.schedule_factor)
        case Schedule.plateau:
            return lr_scheduler.ReduceLROnPlateau(optimizer, factor=settings.schedule_factor,
                                                  patience=settings.schedule_patience)
        case Schedule.constant:
            return lr_scheduler.ConstantLR(optimizer, factor=1.0)
