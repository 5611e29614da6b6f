"""Adversarial images that are on the disk already: of another run, to see whether they transfer; or rounded to 8 bits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.datasets.images import Images
from robust_cli.evaluation.plan import Planned
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder
from robust_cli.smoothing.noise import ImageDraws

EIGHT_BIT = "8bit"


@dataclass(frozen=True)
class Stored:
    """The images of a file, each by its index in the data set; ``rounded`` to whole 255ths, as a PNG would keep them.

    Rounding goes to the nearest 255th, so that an image may end up beyond its budget by up to half of one in each pixel:
    its distance is in its row, and it is not held to the budget.
    """

    path: Path
    places: Mapping[int, int]  # index of an image -> its place in the file
    norm: str
    budget: float
    rounded: bool = False
    stored: ClassVar[bool] = True

    @property
    def closest(self) -> bool:
        return math.isinf(self.budget)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """The stored images of ``draws.indices``, float32 [n, C, H, W]. Raises UserError where the file cannot be read."""
        found = torch.from_numpy(_array(self.path)[[self.places[i] for i in draws.indices]]).to(images.device)
        return (found * 255).round() / 255 if self.rounded else found


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: expected stored images of an attack run ({error}); make that run again") from error


def eight_bit(plan: Iterable[Planned], images: Images, folder: RunFolder) -> list[Planned]:
    """The plan with each attack followed by its own images rounded, under the name ``<attack>@8bit``."""
    places = {int(index): k for k, index in enumerate(images.indices.tolist())}
    found = []
    for name, budget, attack in plan:
        stored = Stored(folder.adversarial(name, budget), places, str(attack.norm), budget, rounded=True)
        found += [Planned(name, budget, attack), Planned(f"{name}@{EIGHT_BIT}", budget, stored)]
    return found


def transfers(folders: Iterable[str], images: Images) -> tuple[list[Planned], dict[str, dict[str, Any]]]:
    """The images of other attack runs, and what each name stands for: source (its folder), attack, fingerprint and title.

    A name is ``<attack>@<first 8 letters of the source model's fingerprint>``. Raises UserError for a folder that is no complete
    attack run, one of other images, and two that share a name.
    """
    plan: list[Planned] = []
    names: dict[str, dict[str, Any]] = {}
    for path in folders:
        folder = RunFolder(path)
        if folder.command != "attack" or folder.state != "complete":
            told = f"{folder.command}, {folder.state}" if folder.command else "no run"
            told = told if Path(path).exists() else "no such folder"
            raise UserError(f"transfer: expected folders of complete attack runs, got {path} ({told}); make them with "
                            "robust attack run=<source>, and of a sweep name each job's folder")
        about, places = folder.read_about(), _same_images(folder, images)
        for attack, budget, norm in _attacks(folder, about):
            name = f"{attack}@{about['model_fingerprint'][:8]}"
            if names.get(name, {}).get("source", str(path)) != str(path):
                raise UserError(f"transfer: expected one run for each model and attack, got {names[name]['source']} and {path} "
                                f"for {name}; leave one out")
            names[name] = {"source": str(path), "attack": attack, "fingerprint": about["model_fingerprint"], "norm": norm,
                           "title": _title(about)}
            plan.append(Planned(name, budget, Stored(folder.adversarial(attack, budget), places, norm, budget)))
    return plan, names


def _title(about: Mapping[str, Any]) -> str:
    if about.get("train_run", "") is None:
        return f"{about['model']}, a model of one's own, on {about['dataset']}"
    return f"{about['model']} trained with {about['regime']} on {about['dataset']}, seed {about.get('train_seed')}"


def _attacks(folder: RunFolder, about: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """(attack, budget, norm) of the files of a run that it made itself."""
    found = []
    for attack, told in about["attacks"].items():
        budgets = [math.inf] if told["closest"] else about["budgets"][told["norm"]]
        found += [(attack, float(budget), told["norm"]) for budget in sorted(budgets)]
    return found


def _same_images(folder: RunFolder, images: Images) -> dict[int, int]:
    """Where each image of the subset stands in a run's files. Raises UserError where it is not there or is another."""
    places = {int(index): k for k, index in enumerate(_array(folder.indices))}
    wanted = images.indices.tolist()
    missing = [index for index in wanted if index not in places]
    if missing:
        raise UserError(f"transfer: expected {folder} to hold every image of this subset, image {missing[0]} is not there "
                        f"({len(missing)} in all); attack both with the same subset")
    if not np.array_equal(_array(folder.originals)[[places[i] for i in wanted]], images.pixels.cpu().numpy()):
        raise UserError(f"transfer: expected {folder} to be of the same images, found others; take runs on one data set")
    return places
