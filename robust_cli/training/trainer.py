"""One training run's state: an epoch of training on it, its checkpoint, its resumption.

Everything random is keyed: the order of the images by (seed, "order", epoch); augmentation, the regime's noise and dropout
by (seed, their name, step). A run that was killed and goes on from its checkpoint therefore ends with the weights that it
would have had (bit for bit on a CPU with the same number of threads).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import torch

from robust_cli.datasets.images import Images
from robust_cli.messages import UserError
from robust_cli.regimes.batch import Batch, Progress, Regime, Stateful
from robust_cli.runs.console import Track, say
from robust_cli.runs.folder import RunFolder
from robust_cli.runs.streams import key64
from robust_cli.training import checkpoints
from robust_cli.training.evaluation import accuracy, collapse, objective, predictions, sample
from robust_cli.training.feed import Feed, copies_of, layout, phases_of
from robust_cli.training.hardware import arithmetic, chosen_precision, seed_layers
from robust_cli.training.metrics import Metrics, StepLosses
from robust_cli.training.schedules import LearningRate, optimizer_for
from robust_cli.training.settings import Keep, Precision, Training
from robust_cli.training.stopping import Stopping

_LOOK_EVERY = 0.5  # seconds between two looks at the losses: a look waits for the device


class Trainer:
    """One run's state: an epoch of training on it, and its checkpoint. Epochs and steps count those that are done."""

    def __init__(self, model: torch.nn.Module, regime: Regime, train: Images, validation: Images | None, settings: Training,
                 seed: int, device: torch.device, precision: Precision, augment: str, folder: RunFolder) -> None:
        self.regime, self.settings, self.seed, self.device, self.folder = regime, settings, seed, device, folder
        self.precision = chosen_precision(precision, device)
        self.model = model.to(device).to(memory_format=layout(settings))
        self.network = cast(torch.nn.Module, torch.compile(self.model)) if settings.compile else self.model
        self.feed = Feed(train, settings, seed, device, augment, copies_of(regime))
        self.sample = sample(self.feed.images)
        self.validation = None if validation is None else validation.to(device)
        self.optimizer = optimizer_for(self.model.parameters(), settings)
        self.learning_rate = LearningRate(self.optimizer, settings, self.feed.steps, phases_of(regime))
        self.stopping = Stopping(settings.early_stopping_patience)
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.epoch, self.step, self.seconds, self.warned = 0, 0, 0.0, False
        self.losses, self.spent = StepLosses(), 0.0  # of the epoch that is under way, and the seconds it has taken
        self.saved_epoch = 0  # the checkpoint's; 0: there is none
        self.identity = checkpoints.identity(settings, seed=seed, device=device.type, precision=self.precision,
                                             augment=augment, images=len(train))

        self.metrics = self._resume()

    @property
    def done(self) -> bool:
        """Whether nothing is left to train."""
        return self.epoch >= self.settings.epochs or self.stopping.stop

    @property
    def images_left(self) -> int:
        """Images that the remaining epochs go through, if none is spared by early stopping."""
        return (self.settings.epochs - self.epoch) * self.feed.count - self.losses.images

    @property
    def total(self) -> int:
        """Steps planned."""
        return self.settings.epochs * self.feed.steps

    def train_epoch(self, bar: Track, between_steps: Callable[[Callable[[], object]], None]) -> None:
        """One pass over the training images, or what is left of it, its row of metrics and, when it is due, its checkpoint.

        ``between_steps`` is called after every step with what saves the run there (see `signals.deferred`).
        """
        start = looked = time.perf_counter()
        self.network.train()
        losses, unseen, before = self.losses, 0, self.spent
        for batch in self.feed.batches(self.epoch, first=losses.steps):
            self.train_step(batch, losses)
            unseen += len(batch.labels)
            if (now := time.perf_counter()) - looked > _LOOK_EVERY:
                self._look(losses, bar, unseen)
                looked, unseen = now, 0
            self.spent = before + now - start
            between_steps(self._save_checked)
        self._look(losses, bar, unseen)
        self._check_weights()
        self.epoch += 1
        self.losses = StepLosses()
        self._end_epoch(losses, start - before)

    def train_step(self, batch: Batch, losses: StepLosses) -> None:
        """One step of the optimiser."""
        seed_layers(self.device, key64(self.seed, "dropout", self.step))
        progress = Progress(self.step, self.epoch, self.total, self.seed)
        with arithmetic(self.precision, self.device):
            found = self.regime.loss(self.network, batch, progress)
        self.optimizer.zero_grad(set_to_none=True)
        found.total.backward()
        self.optimizer.step()
        losses.add(found, len(batch.labels), self.learning_rate.now)
        self.learning_rate.step_ended()
        self.step += 1

    def _check_losses(self, losses: StepLosses) -> None:
        if (bad := losses.first_bad()) is not None:
            k, loss = bad
            raise self._not_finite(f"the loss became {loss} at step {self.epoch * self.feed.steps + k + 1}", losses.rates[k])

    def _look(self, losses: StepLosses, bar: Track, images: int) -> None:
        self._check_losses(losses)
        bar.advance(images, f"epoch {self.epoch + 1}/{self.settings.epochs}, loss {losses.last:.4g}")

    def _check_weights(self) -> None:
        tensors = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        if not all(bool(torch.isfinite(value).all()) for value in tensors):
            raise self._not_finite(f"weights are no longer finite after step {self.step}", self.learning_rate.now)

    def _not_finite(self, what: str, rate: float) -> UserError:
        kept = (f"the checkpoint after epoch {self.saved_epoch} is kept ({self.folder.checkpoint})" if self.saved_epoch
                else "no checkpoint had been written yet")
        return UserError(f"training: {what} (epoch {self.epoch + 1}), learning rate {rate:.3g}; {kept}; "
                         "lower training.learning_rate, or the regime's weight, and train into a new folder")

    def _end_epoch(self, losses: StepLosses, start: float) -> None:
        with arithmetic(self.precision, self.device):
            predicted = predictions(self.model, self.sample, self.settings.batch_size, self.device)
            loss, right = self._validate()
        better = loss is not None and self.stopping.update(loss, self.epoch)
        if better and self.settings.keep is Keep.best_validation:
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.learning_rate.epoch_ended(loss)
        labels = self.sample.labels.cpu()
        seconds = time.perf_counter() - start
        self.seconds, self.spent = self.seconds + seconds, 0.0
        self.metrics.append(self.epoch, self.step, seconds, losses,
                            (float((predicted == labels).double().mean()), loss, right))
        self._warn_early(predicted, labels)
        if self.done or self.epoch % self.settings.checkpoint_every == 0:
            self._save()

    def _validate(self) -> tuple[float | None, float | None]:
        if self.validation is None:
            return None, None
        size = self.settings.batch_size
        loss = objective(self.model, self.regime, self.validation, size, self.seed, self.total)
        return loss, accuracy(self.model, self.validation, size, self.device)

    def _warn_early(self, predicted: torch.Tensor, labels: torch.Tensor) -> None:
        """Once, after a quarter of the epochs: whoever waits should know that there is nothing to wait for."""
        if not self.warned and not self.done and self.epoch >= max(2, self.settings.epochs / 4):
            found = collapse(predicted, labels, self.regime, self.step)
            self.warned = found is not None
            if found:
                say(f"warning, epoch {self.epoch} of {self.settings.epochs}: {found}")

    def _save_checked(self) -> None:
        """Save between two steps of an epoch, unless something is not finite: then the checkpoint before stays."""
        self._check_losses(self.losses)
        self._check_weights()
        self._save()

    def _save(self) -> None:
        checkpoints.save(self.folder.checkpoint, {
            "identity": self.identity, "epoch": self.epoch, "step": self.step, "seconds": self.seconds,
            "losses": self.losses.state_dict(), "spent": self.spent,
            "weights": self.model.state_dict(), "best_weights": self.best_weights, "stopping": self.stopping.state_dict(),
            "optimizer": self.optimizer.state_dict(), "learning_rate": self.learning_rate.state_dict(),
            "regime": self.regime.state_dict() if isinstance(self.regime, Stateful) else None})
        self.saved_epoch = self.epoch

    def _resume(self) -> Metrics:
        """Go on from the folder's checkpoint, if there is one; the rows of metrics up to it are kept."""
        path = self.folder.checkpoint
        if path.exists():
            content = checkpoints.load(path)
            checkpoints.check_identity(path, content["identity"], self.identity)
            try:
                self._restore(content)
            except (RuntimeError, ValueError, KeyError) as error:  # torch lists the tensors over many lines
                raise UserError(f"{path}: expected a checkpoint of this model and regime, found another's; resume with the "
                                "configuration it was made with, or train into a new folder") from error
            into = f" and {self.losses.steps} of {self.feed.steps} steps of the next" if self.losses.steps else ""
            say(f"resumed: {self.epoch} of {self.settings.epochs} epochs{into} were done")
        return Metrics(self.folder.metrics, self.epoch)

    def _restore(self, content: dict[str, Any]) -> None:
        self.model.load_state_dict(content["weights"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.learning_rate.load_state_dict(content["learning_rate"])
        self.stopping.load_state_dict(content["stopping"])
        if isinstance(self.regime, Stateful):
            self.regime.load_state_dict(content["regime"])
        best = content["best_weights"]
        self.best_weights = None if best is None else {name: value.to(self.device) for name, value in best.items()}
        self.epoch, self.step, self.seconds = content["epoch"], content["step"], content["seconds"]
        if "losses" in content:  # checkpoints of before had none: they were written at the end of an epoch
            self.losses.load_state_dict(content["losses"])
            self.spent = content["spent"]
        self.saved_epoch = self.epoch

    def finish(self) -> None:
        """Leave the model with the weights to keep, in evaluation mode and in the ordinary memory layout."""
        if self.settings.keep is Keep.best_validation:
            if self.best_weights is None:
                raise UserError("training.keep=best_validation: expected a finite validation loss in some epoch, found none; "
                                "lower training.learning_rate, or set training.keep=last")
            self.model.load_state_dict(self.best_weights)
        self.model.to(memory_format=torch.contiguous_format).eval()

    @property
    def kept_epoch(self) -> int:
        """The epoch, counted from 1, whose weights the run ends with."""
        return self.stopping.best_epoch if self.settings.keep is Keep.best_validation else self.epoch
