"""Strength and time of our attacks beside those of other libraries: the same images, models and steps, in one process.

    python scripts/benchmarks/attacks.py --models RUN... --output FILE.csv [--attacks pgd_linf deepfool ...] [--images 500]
    python scripts/benchmarks/attacks.py --output FILE.csv --summary

RUN: folders of `robust train`; data as the command finds it (ROBUST_DATA). Peers: foolbox, torchattacks, adv-lib, cleverhans and
adversarial-robustness-toolbox, whichever are installed. Images go block by block, and each block through every library before
the next, in an order that turns. A block's rows (one for each budget) are appended at once: stopped anywhere, the same command
goes on with what is missing, and more images or seeds add to a file.

The first N test images that the model gets right are attacked. What comes of it is decided here for all alike: the model's
answer to the stored float32 image, distances in float64, an image outside the box or budget by more than rounding counting as
not fooled. One thread; times are the processor's (what other jobs take is left out), beside the clock's. Passes are images
through the model. Ours runs with the kernels in the layout that `robust attack` gives them (channels last), which is worth some
15 % on convolutions; peers run with the layout that PyTorch gives them.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import math
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from attack_peers import OURS, TASKS, Job, Task
from attack_summary import summary
from omegaconf import OmegaConf
from torch import nn

from robust_cli.attacks.geometry import distances
from robust_cli.composing.build import build
from robust_cli.composing.subject import make_model
from robust_cli.messages import UserError
from robust_cli.models.weights import load
from robust_cli.runs.folder import RunFolder
from robust_cli.runs.provenance import processor
from robust_cli.runs.rows import RowLog

COLUMNS = ["model", "attack", "library", "seed", "block", "norm", "budget", "limit", "images", "cpu_seconds", "seconds",
           "forward", "backward", "torch", "library_version", "distances"]
PACKAGES = {"adv_lib": "adv-lib", "art": "adversarial-robustness-toolbox", OURS: "robust-cli"}
MODULES = {OURS: ["robust_cli"], "adv_lib": ["adv_lib.attacks"],
           "art": ["art.attacks.evasion", "art.estimators.classification"],
           "cleverhans": [f"cleverhans.torch.attacks.{name}" for name in (
               "carlini_wagner_l2", "hop_skip_jump_attack", "projected_gradient_descent")]}
# Where attacks differ: (the budget of one, the grid of a curve) by channels and norm. Grey: MNIST; colour: undefended CIFAR-10.
BUDGETS = {(1, "linf"): (0.1, [0.02 * k for k in range(1, 11)]), (1, "l2"): (1.5, [0.3 * k for k in range(1, 11)]),
           (3, "linf"): (1 / 255, [k / 4 / 255 for k in range(1, 11)]), (3, "l2"): (0.1, [0.03 * k for k in range(1, 11)])}
MIDDLE = {(1, "linf"): 0.14}  # budgets at which an ensemble leaves 30 to 70 % standing, where those above do not
SLACK = 1e-5  # relative on budgets, absolute on the box: what float32 projections of any library leave


class Counted(nn.Module):
    """A model that counts the images that pass through it, forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forward_passes, self.backward_passes = model, 0, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.model(images)
        self.forward_passes += len(images)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: torch.Tensor) -> None:
        self.backward_passes += len(gradient)


def subject(run: Path, count: int, batch_size: int) -> Job:
    """A run's model, and the first ``count`` test images that it gets right."""
    config = OmegaConf.load(run / "config.yaml")
    dataset = build(config.dataset, "dataset")
    model = make_model(config, dataset)
    load(model, RunFolder(run).model)
    model.eval().requires_grad_(False)
    images, rows, start = dataset.split("test"), torch.empty(0).long(), 0
    while len(rows) < count and start < len(images):
        here = torch.arange(start, min(start + 500, len(images)))
        rows = torch.cat([rows, here[answers(model, images.float(here)) == images.labels[here]]])
        start += 500
    rows = rows[:count]
    return Job(model, images.float(rows), images.labels[rows], images.indices[rows].tolist(), 0, [], batch_size,
                      tuple(images.class_names))


@torch.no_grad()
def answers(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(part).argmax(1) for part in images.split(100)])


def warm_up(task: Task, library: str, job: Job) -> None:
    """First calls are slow for everyone: convolutions at the batch's shape, and, of a quick attack, all of its code."""
    for _ in range(2):
        inputs = job.images.clone().requires_grad_()
        torch.autograd.grad(job.model(inputs).sum(), inputs)
    if task.quick:
        task.runners[library](replace(job, images=job.images[:2], labels=job.labels[:2], indices=job.indices[:2],
                                      budgets=job.budgets[:1]))


def measure(task: Task, library: str, job: Job) -> list[list[Any]]:
    """[norm, budget, limit, images, costs of the job, distances (infinity: not fooled)] for each budget.

    ``limit``: the budget at which a closest-example attack's robust accuracy is told.
    """
    torch.manual_seed(job.seed)
    np.random.seed(job.seed)  # noqa: NPY002 - some libraries draw from it
    counted = Counted(job.model).eval()
    cpu, clock = time.process_time(), time.perf_counter()
    found = task.runners[library](replace(job, model=counted))
    costs = [time.process_time() - cpu, time.perf_counter() - clock, counted.forward_passes, counted.backward_passes]
    rows = []
    for budget, images in zip(job.budgets, found, strict=True):
        raw = images.detach().float()
        stored = raw.clamp(0, 1)
        boxed = ((raw - stored).abs() <= SLACK).flatten(1).all(1)
        away = distances(stored, job.images, task.norm)
        fooled = (answers(job.model, stored) != job.labels) & boxed & (away <= budget * (1 + SLACK))
        limit = BUDGETS[job.images.shape[1], task.norm][0] if math.isinf(budget) else budget
        kept = torch.where(fooled, away, math.inf).tolist()
        rows.append([task.norm, budget, limit, len(stored), *costs, " ".join(f"{distance:.7g}" for distance in kept)])
    return rows


def version(library: str) -> str:
    name = library.split(" (")[0]
    return importlib.metadata.version(PACKAGES.get(name, name))


def missing(library: str) -> str | None:
    """Why a library cannot be run, None where it can."""
    name = library.split(" (")[0]
    try:
        for module in MODULES.get(name, [name]):
            importlib.import_module(module)  # all of it here, so that no first call is timed with it
    except Exception as error:  # an old package may break in any way on a new Python
        return f"{type(error).__name__}: {error}"
    return None


def run(asked: argparse.Namespace, log: RowLog) -> None:
    done = {tuple(row[key] for key in ("model", "attack", "library", "seed", "block", "images")) for row in log.read()}
    libraries = {name for task in TASKS.values() for name in task.runners} - set(asked.without)
    absent = {library: why for library in sorted(libraries) if (why := missing(library))}
    for library, why in absent.items():
        print(f"left out: {library} ({why})")
    libraries = {name for name in libraries - set(absent) if not asked.libraries or name in asked.libraries}
    for folder in asked.models:
        base = subject(folder, asked.images, asked.batch)
        print(f"{folder.name}: {len(base.images)} test images")
        for attack in asked.attacks:
            task, warm = TASKS[attack], set()
            one, grid = BUDGETS[base.images.shape[1], task.norm]
            middle = MIDDLE.get((base.images.shape[1], task.norm), one)
            budgets = {"one": [one], "middle": [middle], "grid": grid, "none": [math.inf]}[task.budgets]
            order = [library for library in task.runners if library in libraries]
            for seed in asked.seeds:
                for block, job in enumerate(replace(base, seed=seed, budgets=budgets).batches()):
                    order = order[1:] + order[:1]
                    for library in order:
                        key = [folder.name, attack, library, str(seed), str(block)]
                        if (*key, str(len(job.images))) in done:
                            continue
                        try:
                            if library not in warm:
                                warm_up(task, library, job)
                            rows = measure(task, library, job)
                        except (UserError, FileNotFoundError, ModuleNotFoundError) as error:
                            print(f"  {attack} {library}: cannot be run ({error})")
                            continue
                        warm.add(library)
                        versions = [torch.__version__, version(library)]
                        log.append([*key, *row[:-1], *versions, row[-1]] for row in rows)
                        print(f"  {attack} seed {seed} block {block} {library}: {rows[0][4]:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", type=Path, default=[], help="folders of training runs")
    parser.add_argument("--attacks", nargs="+", default=list(TASKS), choices=TASKS, metavar="ATTACK", help=" ".join(TASKS))
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--batch", type=int, default=50, help="images of a block, a call of every library")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--libraries", nargs="+", default=[], help="these alone")
    parser.add_argument("--without", nargs="+", default=[], help="libraries to leave out")
    parser.add_argument("--output", type=Path, required=True, help="CSV file, gone on with where it exists")
    parser.add_argument("--summary", action="store_true", help="only print the summary of the file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    log = RowLog(asked.output, COLUMNS)
    print(f"{processor()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}, Python {platform.python_version()}")
    if not asked.summary:
        run(asked, log)
    print(summary(log.read()))


if __name__ == "__main__":
    main()
