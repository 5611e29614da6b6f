"""What a step of each training regime costs beside one of `standard`, on lenet (1x28x28) and cnn7 (3x32x32), and its limit.

    python scripts/benchmarks/training.py [--models lenet cnn7] [--regimes moment ... | all] [--rounds N] [--output FILE.csv]

Regimes are composed from the shipped conf and step as `robust train` has them step: batch, loss, backward pass, fused Adam, on
random images. All of a model's regimes take turns in one process, a step each a round, in an order that turns, after rounds
that are not counted: what drifts is shared. A ratio is a regime's step over the same round's step of `standard`; shown are the
median and the quartiles over the rounds. Attacks take --attack-steps steps (k). `plain` is an independent training loop in a few
lines of PyTorch on the same images, model and first weights; `plain_tuned` the same with channels last and fused Adam. A regime
that does not fit a model is named with its reason. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it; the plain loop gains from it too

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from robust_cli.composing.build import build
from robust_cli.composing.catalogue import choices, conf_folder
from robust_cli.composing.schema import register
from robust_cli.composing.subject import make_model
from robust_cli.datasets.images import Images
from robust_cli.messages import UserError
from robust_cli.runs.allocator import keep_freed_memory
from robust_cli.runs.folder import RunFolder
from robust_cli.runs.provenance import processor
from robust_cli.training.settings import Precision, Schedule, Training
from robust_cli.training.trainer import Trainer

MODELS = {"lenet": ("mnist", 20), "cnn7": ("cifar10", 5)}  # data set whose images' shape it gets, rounds
WARM_UP, BATCHES = 2, 4  # rounds that are not counted; batches of different images
BASE, PLAIN = "standard", ("plain", "plain_tuned")
USUAL = [BASE, *PLAIN, "noise_augmentation", "stability", "moment", "gradient_norm", "sgr", "sgr_sign", "sgr_fgsm", "sgr_pgd",
         "adversarial", "trades", "two_stage_linearisation"]
LIMITS: dict[str, Callable[[int], float]] = {  # of k steps
    "moment": lambda k: 2.1, "stability": lambda k: 2.3, "noise_augmentation": lambda k: 1.1, "gradient_norm": lambda k: 3.0,
    "sgr": lambda k: 3.0, "sgr_sign": lambda k: 3.0, "sgr_fgsm": lambda k: 4.0, "sgr_pgd": lambda k: 3 + 0.85 * k,
    **dict.fromkeys(("adversarial", "adversarial_l2", "trades", "trades_cifar"), lambda k: 1.2 + 0.85 * k)}
Step = Callable[[], object]


@dataclass
class Row:
    """One regime on one model; times in milliseconds; what does not apply is None."""

    model: str
    regime: str
    attack_steps: int | None
    rounds: int
    milliseconds: float | None = None
    ratio: float | None = None
    ratio_lower_quartile: float | None = None
    ratio_upper_quartile: float | None = None
    limit: float | None = None
    verdict: str = ""

    def line(self) -> str:
        """As it is printed."""
        if self.milliseconds is None:
            return f"  {self.regime:<33} {self.verdict}"
        spread = f"({self.ratio_lower_quartile:.2f} to {self.ratio_upper_quartile:.2f})"
        limit = "" if self.limit is None else f"limit {self.limit:.2f}: {self.verdict}"
        name = self.regime if self.attack_steps is None else f"{self.regime} (k = {self.attack_steps})"
        return f"  {name:<33} {self.milliseconds:9.1f} ms   {self.ratio:6.2f} {spread:<18} {limit}"


def composed(model: str, regime: str, attack_steps: int) -> DictConfig:
    """The config of `robust train`, its attack with so many steps."""
    config = compose("train", [f"dataset={MODELS[model][0]}", f"model={model}", f"regime={regime}"])
    with open_dict(config):
        attack = config.regime.get("attack")
        if attack is not None and "steps" in attack and not getattr(build(attack, "attack"), "closest", False):
            attack.steps = attack_steps
        elif "steps" in config.regime:
            config.regime.steps, config.regime.step_size = attack_steps, None
    return config


def random_images(shape: tuple[int, int, int], classes: int, number: int) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, *shape), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(number) % classes, torch.arange(number), tuple(map(str, range(classes))))


def our_step(config: DictConfig, dataset: Any, images: Images, batch_size: int, folder: Path) -> Step:
    """A step of `robust train`: its batch, and what its trainer does with it."""
    settings = Training(epochs=1000, batch_size=batch_size, schedule=Schedule.constant)
    trainer = Trainer(make_model(config, dataset), build(config.regime, "regime"), images, None, settings, 0, torch.device("cpu"),
                      Precision.fp32, "none", RunFolder(folder))
    batches = (batch for epoch in count() for batch in trainer.feed.batches(epoch))
    trainer.network.train()
    return lambda: trainer.train_step(next(batches), trainer.losses)


def plain_step(config: DictConfig, dataset: Any, images: Images, batch_size: int, tuned: bool) -> Step:
    """A step as anybody writes it."""
    model = make_model(config, dataset).train()
    if tuned:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True if tuned else None)

    def batches() -> Iterator[torch.Tensor]:
        while True:
            yield from torch.randperm(len(images)).split(batch_size)

    orders = batches()

    def step() -> None:
        rows = next(orders)
        batch = images.pixels[rows].float() / 255
        if tuned:
            batch = batch.contiguous(memory_format=torch.channels_last)
        loss = torch.nn.functional.cross_entropy(model(batch), images.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return step


def steps_of(model: str, asked: argparse.Namespace, place: Path) -> tuple[dict[str, Step], list[Row], dict[str, int | None]]:
    """Every side's step, tried once; the rows of those that do not fit; and how many steps each attack takes."""
    steps, refused, taken = {}, [], {}
    for name in asked.regimes:
        config = composed(model, BASE if name in PLAIN else name, asked.attack_steps)
        dataset = build(config.dataset, "dataset")
        images = random_images(dataset.shape, len(dataset.class_names), BATCHES * asked.batch_size)
        attack = config.regime.get("attack") or config.regime
        taken[name] = attack.get("steps")
        try:
            if name in PLAIN:
                step = plain_step(config, dataset, images, asked.batch_size, name == "plain_tuned")
            else:
                step = our_step(config, dataset, images, asked.batch_size, place / f"{model}_{name}")
            step()
        except UserError as reason:
            refused.append(Row(model, name, taken[name], 0, verdict=f"refused: {reason}"))
            continue
        steps[name] = step
    return steps, refused, taken


def timed(steps: dict[str, Step], rounds: int, model: str) -> dict[str, list[float]]:
    """Seconds of each side's step in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for k in range(-WARM_UP, rounds):
        print(f"\r{model}: round {max(k + 1, 0)} of {rounds}", end="", file=sys.stderr, flush=True)
        turn = k % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            steps[name]()
            if k >= 0:
                seconds[name].append(time.perf_counter() - start)
    print(file=sys.stderr)
    return seconds


def row(model: str, name: str, seconds: dict[str, list[float]], k: int | None) -> Row:
    ratios = [one / base for one, base in zip(seconds[name], seconds[BASE], strict=True)]
    lower, middle, upper = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    limit = LIMITS[name](k or 0) if name in LIMITS else None
    return Row(model, name, k, len(ratios), 1000 * statistics.median(seconds[name]), middle, lower, upper, limit,
               "" if limit is None else "within" if middle <= limit else "ABOVE")


def measured(model: str, asked: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as place:
        steps, refused, taken = steps_of(model, asked, Path(place))
        seconds = timed(steps, asked.rounds or MODELS[model][1], model)
    return [row(model, name, seconds, taken[name]) for name in steps] + refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*PLAIN, *choices("regime", [conf_folder()])]
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--regimes", nargs="+", choices=[*known, "all"], metavar="REGIME",
                        help=f"default: {' '.join(USUAL)}; {BASE} is always among them")
    usual_rounds = ", ".join(f"{name} {rounds}" for name, (_, rounds) in MODELS.items())
    parser.add_argument("--rounds", type=int, help=f"default: {usual_rounds}")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--attack-steps", type=int, default=10)
    parser.add_argument("--output", type=Path, help="a CSV of the rows")
    asked = parser.parse_args()
    wanted = [name for name in USUAL if name in known] if asked.regimes is None else asked.regimes
    asked.regimes = known if "all" in wanted else list(dict.fromkeys([BASE, *wanted]))
    register()
    OmegaConf.register_new_resolver("robust_job", lambda *_: "", replace=True)
    keep_freed_memory()
    machine = (f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
               f"Python {platform.python_version()}, batches of {asked.batch_size}")
    print(machine)
    rows: list[Row] = []
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        for model in asked.models:
            found = measured(model, asked)
            rows += found
            print(model, *(one.line() for one in found), sep="\n", flush=True)
            if asked.output is not None:
                with asked.output.open("w", encoding="utf-8", newline="") as file:
                    writer = csv.DictWriter(file, [*asdict(rows[0]), "machine"], lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(asdict(one) | {"machine": machine} for one in rows)


if __name__ == "__main__":
    main()
