"""The one training loop. It knows no method: a regime says what is minimised, the loop does the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robust_cli.datasets.images import Images
from robust_cli.messages import UserError
from robust_cli.regimes.batch import Regime
from robust_cli.runs.console import say, track
from robust_cli.runs.folder import RunFolder
from robust_cli.runs.signals import deferred
from robust_cli.training.evaluation import accuracy, collapse, objective, predictions
from robust_cli.training.settings import Precision, Training
from robust_cli.training.trainer import Trainer


@dataclass(frozen=True)
class FitResult:
    """How a training run ended. Accuracies are in [0, 1], of the final weights on clean images; None without validation."""

    epochs: int  # epochs done
    steps: int
    seconds: float  # spent in epochs, those before a resumption included
    kept_epoch: int  # the epoch, counted from 1, whose weights the model has now
    stopped_early: bool
    train_accuracy: float  # on at most 1000 training images, evenly spaced
    validation_loss: float | None  # of the regime's whole objective
    validation_accuracy: float | None
    precision: Precision  # fp32 or bf16, what auto came to
    warning: str | None  # a line (already said) when the model looks collapsed


def fit(model: torch.nn.Module, regime: Regime, train: Images, validation: Images | None, settings: Training, *, seed: int,
        device: torch.device, precision: Precision, augment: str, folder: RunFolder) -> FitResult:
    """Train ``model`` in place; it ends on ``device``, in evaluation mode, with the weights that ``settings.keep`` names.

    Writes folder.metrics (a row per epoch) and folder.checkpoint, and goes on from the latter where it exists. ``precision``
    auto is resolved here; ``augment`` is none or crop_flip. Raises Wrong for settings that do not fit the data; UserError
    when a setting needs a validation split, when the checkpoint is damaged or another run's, and when the loss or the
    weights are no longer finite (the last good checkpoint is kept). A signal to stop saves a checkpoint after the step under way.
    """
    check_validation(settings, validation is not None)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    trainer = Trainer(model, regime, train, validation, settings, seed, device, precision, augment, folder)
    if not trainer.done:
        with track(trainer.images_left, "train", "images") as bar, deferred() as between_steps:
            while not trainer.done:
                trainer.train_epoch(bar, between_steps)
    trainer.finish()
    return _result(trainer)


def check_validation(settings: Training, has_validation: bool) -> None:
    """Raises UserError when a setting needs a validation split and there is none."""
    if settings.needs_validation and not has_validation:
        raise UserError(f"{settings.needs_validation}: expected a validation split, found none; set dataset.validation=0.1")


def _result(trainer: Trainer) -> FitResult:
    model, size, device = trainer.model, trainer.settings.batch_size, trainer.device
    labels = trainer.sample.labels.cpu()
    predicted = predictions(model, trainer.sample, size, device)
    warning = collapse(predicted, labels, trainer.regime, trainer.step)
    if warning:
        say(f"warning: {warning}")
    held = trainer.validation
    return FitResult(
        epochs=trainer.epoch, steps=trainer.step, seconds=trainer.seconds, kept_epoch=trainer.kept_epoch,
        stopped_early=trainer.stopping.stop and trainer.epoch < trainer.settings.epochs,
        train_accuracy=float((predicted == labels).double().mean()),
        validation_loss=None if held is None else objective(model, trainer.regime, held, size, trainer.seed, trainer.total),
        validation_accuracy=None if held is None else accuracy(model, held, size, device),
        precision=trainer.precision, warning=warning)
