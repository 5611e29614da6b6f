"""The settings of each command, typed and checked. Imports no torch."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from robust_cli.datasets import shards
from robust_cli.messages import check
from robust_cli.training.settings import Device, Precision, Training


class Target(Enum):
    """Which classifier is attacked."""

    base = "base"
    smoothed = "smoothed"


class Objective(Enum):
    """What an attack on a smoothed classifier climbs."""

    mean_loss = "mean_loss"
    log_mean_probability = "log_mean_probability"
    both = "both"


class Labels(Enum):
    """What an attack leads away from."""

    dataset = "dataset"
    predicted = "predicted"


class Arithmetic(Enum):
    """Precision of a classifier that is certified or attacked: part of which classifier it is, so that nothing chooses it."""

    fp32 = "fp32"
    bf16 = "bf16"


def _check_common(settings: Train | Certify | Attack) -> None:
    check(0 <= settings.seed < 2**63, "seed", "a whole number in [0, 2^63)", settings.seed)
    check(bool(settings.subset), "subset", "all, first:N, every:K or random:N", settings.subset)


def _check_evaluation(settings: Certify | Attack) -> None:
    _check_common(settings)
    noise = settings.noise_std
    check(noise is None or 0 < noise < math.inf, "noise_std", "a number > 0", noise)


def _check_at_least(settings: object, least: int, *names: str) -> None:
    for name in names:
        check(getattr(settings, name) >= least, name, f"a whole number >= {least}", getattr(settings, name))


def _root() -> dict[str, Any]:
    return {"root": None}


def _model() -> dict[str, Any]:
    return {"_target_": None, "weights": None, "entry": None, "mean": None, "std": None}


@dataclass
class Train:
    """`robust train`. The meaning and unit of each key stand beside it in conf/train.yaml."""

    seed: int = 0
    device: Device = Device.auto
    precision: Precision = Precision.auto
    subset: str = "all"
    resume: str | None = None
    trust: list[str] = field(default_factory=list)
    training: Training = field(default_factory=Training)
    dataset: Any = MISSING
    model: Any = MISSING
    regime: Any = MISSING
    cluster: Any = MISSING

    def __post_init__(self) -> None:
        _check_common(self)


class Noise(Enum):
    """The distribution that an image is smoothed with; noise_std is the standard deviation a pixel of every one."""

    gaussian = "gaussian"
    integer_grid = "integer_grid"
    laplace = "laplace"
    uniform = "uniform"


class Layer(Enum):
    """Where the noise comes in: at the image, or after the first layer."""

    input = "input"
    first = "first"


@dataclass
class Smoothing:
    """Of the smoothed classifier, what is not its noise."""

    layer: Layer | None = None


@dataclass
class Certify:
    """`robust certify`. The meaning and unit of each key stand beside it in conf/certify.yaml."""

    run: str | None = None
    noise_std: float | None = None
    noise: Noise = Noise.gaussian
    smoothing: Smoothing = field(default_factory=Smoothing)
    samples: int = 10000
    selection_samples: int | None = None
    sampling: Any = MISSING
    failure_probability: float = 0.001
    discount: float | None = None
    seed: int = 0
    device: Device = Device.auto
    precision: Arithmetic = Arithmetic.fp32
    subset: str = "all"
    workers: int | None = None
    shard: str | None = None
    resume: str | None = None
    trust: list[str] = field(default_factory=list)
    dataset: Any = field(default_factory=_root)
    model: Any = field(default_factory=_model)
    certificate: Any = MISSING
    cluster: Any = MISSING

    def __post_init__(self) -> None:
        _check_evaluation(self)
        _check_at_least(self, 1, "samples")
        check(self.workers is None or self.workers >= 1, "workers", "a whole number >= 1, or null", self.workers)
        selection = self.selection_samples
        check(selection is None or selection >= 0, "selection_samples", "a whole number >= 0, or null", selection)
        probability, discount = self.failure_probability, self.discount
        check(0 < probability < 1, "failure_probability", "a number in (0, 1)", probability)
        check(discount is None or 0 < discount <= 1, "discount", "a number in (0, 1], or null", discount)
        check(self.shard is None or shards.parsed(self.shard) is not None, "shard", shards.EXPECTED, self.shard)


@dataclass
class Budgets:
    """Sizes that an attack is allowed, by norm, in pixel units."""

    l2: list[float] | None = None
    linf: list[float] | None = None
    l1: list[float] | None = None
    std: list[float] | None = None

    def __post_init__(self) -> None:
        for name in ("l2", "linf", "l1", "std"):
            most, expected = (1.0, "numbers in (0, 1]") if name == "linf" else (math.inf, "numbers > 0")
            sizes = getattr(self, name)
            if sizes is None:
                continue
            within = all(0 < size <= most and math.isfinite(size) for size in sizes)
            check(bool(sizes) and within, name, f"a list of {expected}", list(sizes))
            check(len(set(sizes)) == len(sizes), name, "each budget once", list(sizes))


@dataclass
class GradientNoise:
    """Noise around which the gradients of a base classifier are averaged."""

    std: float | None = None
    draws: int = 10

    def __post_init__(self) -> None:
        check(self.std is None or 0 < self.std < math.inf, "std", "a number > 0, or null", self.std)
        check(self.draws >= 1, "draws", "a whole number >= 1", self.draws)


@dataclass
class Attack:
    """`robust attack`. The meaning and unit of each key stand beside it in conf/attack.yaml."""

    run: str | None = None
    classifier: Target | None = None
    noise_std: float | None = None
    noise: Noise = Noise.gaussian
    smoothing: Smoothing = field(default_factory=Smoothing)
    gradient_draws: int = 10
    objective: Objective = Objective.both
    query_votes: int = 100
    decision_votes: int = 1000
    gradient_noise: GradientNoise = field(default_factory=GradientNoise)
    budgets: Budgets = field(default_factory=Budgets)
    early_stop: bool = True
    labels: Labels = Labels.dataset
    also_wrong: bool = False
    eight_bit: bool = False
    transfer: list[str] = field(default_factory=list)
    seed: int = 0
    device: Device = Device.auto
    precision: Arithmetic = Arithmetic.fp32
    subset: str = "all"
    batch_size: int = 100
    resume: str | None = None
    trust: list[str] = field(default_factory=list)
    dataset: Any = field(default_factory=_root)
    model: Any = field(default_factory=_model)
    attack: Any = field(default_factory=dict)
    measure: Any = field(default_factory=dict)
    cluster: Any = MISSING

    def __post_init__(self) -> None:
        _check_evaluation(self)
        _check_at_least(self, 1, "gradient_draws", "query_votes", "decision_votes", "batch_size")


SCHEMAS: dict[str, type] = {"train": Train, "certify": Certify, "attack": Attack}


def settings_of(command: str) -> list[str]:
    """Names of a command's top keys."""
    return [entry.name for entry in fields(SCHEMAS[command])]


def words_of(command: str) -> dict[str, list[str]]:
    """The words that each setting of a command takes which is one of some words, by its path."""
    return _words_in(SCHEMAS[command], "")


def _words_in(schema: type, path: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, hint in typing.get_type_hints(schema).items():
        for kind in (hint, *typing.get_args(hint)):
            if isinstance(kind, type) and issubclass(kind, Enum):
                found[path + name] = [member.name for member in kind]
            elif isinstance(kind, type) and is_dataclass(kind):
                found |= _words_in(kind, f"{path}{name}.")
    return found


def register() -> None:
    """Make the schemas known to Hydra under the names that conf/train.yaml and the others begin with."""
    for command, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{command}_schema", node=schema)
