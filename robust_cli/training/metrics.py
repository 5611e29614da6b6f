"""metrics.csv: a row per epoch; and the losses of an epoch's steps on their way there."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from robust_cli.regimes.batch import Losses
from robust_cli.runs.rows import RowLog

_BEFORE = ("epoch", "step", "seconds", "learning_rate", "loss")
_AFTER = ("train_accuracy", "validation_loss", "validation_accuracy")


class StepLosses:
    """The losses of an epoch's steps. They stay on the device until they are looked at: no step waits for them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._waiting: list[torch.Tensor] = []
        self._rows: list[list[float]] = []
        self._images: list[int] = []
        self.rates: list[float] = []

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.rates)

    @property
    def images(self) -> int:
        """Of all steps together."""
        return sum(self._images)

    def add(self, losses: Losses, images: int, learning_rate: float) -> None:
        """Take in a step of so many images."""
        self.rates.append(learning_rate)
        self.names = list(losses.terms)
        self._waiting.append(torch.stack([losses.total, *losses.terms.values()]).detach())
        self._images.append(images)

    def _fetch(self) -> None:
        if self._waiting:
            self._rows += torch.stack(self._waiting).double().cpu().tolist()
            self._waiting = []

    @property
    def last(self) -> float:
        """The last step's loss."""
        self._fetch()
        return self._rows[-1][0]

    def first_bad(self) -> tuple[int, float] | None:
        """The first step of the epoch (from 0) whose loss is not finite, and that loss."""
        self._fetch()
        return next(((k, row[0]) for k, row in enumerate(self._rows) if not math.isfinite(row[0])), None)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint in the middle of an epoch keeps."""
        self._fetch()
        return {"names": self.names, "rows": self._rows, "images": self._images, "rates": self.rates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.names, self._rows, self._images, self.rates = (list(state[key]) for key in ("names", "rows", "images", "rates"))

    def means(self) -> list[float]:
        """Means over the epoch's images: the loss, then its terms in the order of `names`."""
        self._fetch()
        total = sum(self._images)
        return [sum(n * row[k] for n, row in zip(self._images, self._rows, strict=True)) / total
                for k in range(1 + len(self.names))]


class Metrics:
    """A run's metrics.csv. Its columns follow from the regime's terms, so that it is opened with the first row."""

    def __init__(self, path: Path, epochs: int) -> None:
        """Keep the rows of the first ``epochs`` epochs (those of the checkpoint that the run goes on from)."""
        self._path = path
        self._log: RowLog | None = None
        if epochs == 0:
            path.unlink(missing_ok=True)
        elif path.exists():
            part = path.with_name(path.name + ".part")
            part.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[: epochs + 1]))
            os.replace(part, path)

    def append(self, epoch: int, step: int, seconds: float, losses: StepLosses, measured: Sequence[float | None]) -> None:
        """``measured``: training accuracy, validation loss and validation accuracy; None is left empty."""
        if self._log is None:
            self._log = RowLog(self._path, [*_BEFORE, *losses.names, *_AFTER])
        loss, *terms = losses.means()
        numbers = [_short(v) for v in (losses.rates[-1], loss, *terms, *measured)]
        self._log.append([[epoch, step, round(seconds, 3), *numbers]])


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"
