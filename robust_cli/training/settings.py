"""The settings of training: a structured config for the command line and the argument of `fit`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from robust_cli.messages import check


class Device(Enum):
    """Where to compute; auto is cuda when there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(Enum):
    """Arithmetic of the forward pass; auto is bf16 where the device computes it natively (GPUs), else fp32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Optimizer(Enum):
    """torch's Adam (weight decay as an L2 term in the gradient) or SGD (dampening 0)."""

    adam = "adam"
    sgd = "sgd"


class Schedule(Enum):
    """How the learning rate moves; the formulas are in `schedules.py`."""

    constant = "constant"
    one_cycle = "one_cycle"
    cosine = "cosine"
    steps = "steps"
    plateau = "plateau"


class Keep(Enum):
    """Which weights a run ends with."""

    last = "last"
    best_validation = "best_validation"


@dataclass
class Training:
    """Everything about the training loop that is not the regime, the model or the data. Raises Wrong on a bad value."""

    epochs: int = 20  # passes over the training images
    batch_size: int = 128  # images per step
    optimizer: Optimizer = Optimizer.adam  # adam | sgd
    learning_rate: float = 1e-3  # its largest value: the peak of one_cycle, the start of the other schedules
    momentum: float = 0.9  # of sgd, in [0, 1)
    nesterov: bool = False  # sgd: Nesterov's momentum
    weight_decay: float = 0.0  # factor of the weights added to their gradient (L2)
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # adam: decay of the two running means, in [0, 1)
    schedule: Schedule = Schedule.one_cycle  # constant | one_cycle | cosine | steps | plateau
    warmup_fraction: float = 0.3  # one_cycle: share of the steps in which the rate rises to its peak
    milestones: list[int] = field(default_factory=list)  # steps: epochs after which the rate is multiplied
    schedule_factor: float = 0.1  # steps, plateau: what the rate is multiplied by, in (0, 1)
    schedule_patience: int = 5  # plateau: epochs without a better validation loss that are borne before the rate falls
    early_stopping_patience: int = 0  # stop after so many epochs in a row with a validation loss above the best; 0: off
    keep: Keep = Keep.last  # weights at the end: last | best_validation (least validation loss)
    init_from: str | None = None  # run folder whose weights to start from; null: the model's own initialisation
    channels_last: bool = True  # memory layout of images and convolutions; faster on most hardware
    compile: bool = False  # torch.compile the model; pays off on long runs
    drop_last: bool = False  # leave out an epoch's last batch when it is smaller than the others
    checkpoint_every: int = 1  # epochs between checkpoints (one is always written at the end)
    threads: int | None = None  # CPU threads; null: torch's choice

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "checkpoint_every"):
            check(getattr(self, name) >= 1, name, "a whole number >= 1", getattr(self, name))
        for name in ("schedule_patience", "early_stopping_patience"):
            check(getattr(self, name) >= 0, name, "a whole number >= 0", getattr(self, name))
        check(0 < self.learning_rate < float("inf"), "learning_rate", "a number > 0", self.learning_rate)
        check(0 <= self.momentum < 1, "momentum", "a number in [0, 1)", self.momentum)
        check(not (self.nesterov and self.optimizer is Optimizer.sgd and self.momentum == 0), "nesterov",
              "false when momentum is 0", self.nesterov)
        check(0 <= self.weight_decay < float("inf"), "weight_decay", "a number >= 0", self.weight_decay)
        check(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "betas", "two numbers in [0, 1)",
              list(self.betas))
        check(0 < self.warmup_fraction < 1, "warmup_fraction", "a number in (0, 1)", self.warmup_fraction)
        check(0 < self.schedule_factor < 1, "schedule_factor", "a number in (0, 1)", self.schedule_factor)
        self._check_milestones()
        check(self.threads is None or self.threads >= 1, "threads", "a whole number >= 1, or null", self.threads)

    def _check_milestones(self) -> None:
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        check(rising and all(m >= 1 for m in self.milestones), "milestones", "rising epochs >= 1",
              list(self.milestones))
        check(bool(self.milestones) or self.schedule is not Schedule.steps, "milestones",
              "at least one epoch with schedule=steps", list(self.milestones))

    @property
    def needs_validation(self) -> str | None:
        """The setting that needs a validation split, as typed ("training.keep=best_validation"), or None."""
        if self.schedule is Schedule.plateau:
            return "training.schedule=plateau"
        if self.early_stopping_patience:
            return f"training.early_stopping_patience={self.early_stopping_patience}"
        return "training.keep=best_validation" if self.keep is Keep.best_validation else None
