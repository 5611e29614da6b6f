"""The best validation loss so far, and when to stop for want of a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Stopping:
    """Counts the epochs in a row whose validation loss is above the best; a tie starts the count again, NaN counts.

    Source: AMR, the early stopping of its training grid. ``patience`` 0 never stops.
    """

    patience: int
    best: float = math.inf
    best_epoch: int = 0  # counted from 1; 0: no finite loss yet
    waited: int = 0

    def update(self, loss: float, epoch: int) -> bool:
        """Take in an epoch's loss; whether it is the least so far (then its weights are the ones to keep)."""
        self.waited = 0 if loss <= self.best else self.waited + 1
        better = loss < self.best
        if better:
            self.best, self.best_epoch = loss, epoch
        return better

    @property
    def stop(self) -> bool:
        """Whether the patience is used up."""
        return 0 < self.patience <= self.waited

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a checkpoint."""
        self.best, self.best_epoch, self.waited = state["best"], int(state["best_epoch"]), int(state["waited"])
