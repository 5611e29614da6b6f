"""What the training loop hands to a regime, what it gets back, and what a regime is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch


@dataclass(frozen=True)
class Batch:
    """One step's images: float32 [n, C, H, W] in [0, 1]; labels int64 [n]; indices int64 [n] in the data set's split.

    ``copies``: where the regime asks for several copies of an image in an epoch, which of them each row is, int64 [n] from 0.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    copies: torch.Tensor | None = None


@dataclass(frozen=True)
class Progress:
    """Where training stands: step and epoch count from 0, total is the number of steps planned.

    On validation images step counts their batches, and ``validating`` is true: what grows while training has its full size.
    """

    step: int
    epoch: int
    total: int
    seed: int
    validating: bool = False

    def risen(self, warmup: float) -> float:
        """How far what grows over the first ``warmup`` of the steps (a share in [0, 1]) has come: linear, from above 0 to 1."""
        planned = warmup * self.total
        return 1.0 if self.validating or self.step + 1 >= planned else (self.step + 1) / planned


@dataclass(frozen=True)
class Losses:
    """A batch's loss: the scalar that is minimised, and its parts by name, scalars for the record (means over images)."""

    total: torch.Tensor
    terms: dict[str, torch.Tensor] = field(default_factory=dict)


class Regime(Protocol):
    """A training method: what is minimised on a batch. The loop adds nothing to it.

    Its randomness comes from ``keyed_generator(device, progress.seed, "regime", progress.step)`` alone. On validation images
    ``loss`` is called with the model in evaluation mode, gradients off (a method that needs those of the images turns them
    on for itself), and a seed and steps of their own, the same in every epoch; a regime changes no state of its own there.

    One that has ``copies_an_epoch`` (a whole number, see `Copying`) is shown every image so often in an epoch; one that has
    ``phases`` (see `Phased`) begins so often with the learning rate's schedule.
    """

    @property
    def noise_std(self) -> float | None:
        """Standard deviation of the Gaussian noise trained with, in pixel units; None where there is none."""

    def loss(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> Losses:
        """The batch's loss."""


@runtime_checkable
class Copying(Protocol):
    """A regime with several copies of an image: an epoch passes over all of them; `Batch.copies` tells which."""

    @property
    def copies_an_epoch(self) -> int:
        """How often each image comes in an epoch."""


@runtime_checkable
class Phased(Protocol):
    """A regime that falls in several parts, such as the stages of a cascade: the epochs are shared out evenly among them."""

    @property
    def phases(self) -> int:
        """How many; each goes through the learning rate's whole schedule."""

    def plan(self, epochs: int) -> str:
        """A line on what is trained in so many epochs."""


@runtime_checkable
class Assembling(Protocol):
    """A regime whose model is made of several networks of the architecture, or of one that is changed."""

    def network(self, make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
        """The model, from a function that makes a network with weights of its own."""

    def started(self, model: torch.nn.Module) -> torch.nn.Module:
        """The part of the model that weights to start from fill."""


@runtime_checkable
class Stateful(Protocol):
    """A regime that carries something from step to step: the checkpoint keeps it. Tensors, numbers and text only."""

    def state_dict(self) -> dict[str, Any]:
        """What to keep."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was kept."""
