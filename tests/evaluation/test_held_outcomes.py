"""What is held to its budget, to its own images and to its own labels: the corners in which an evaluation could flatter."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from toy_victims import Halfspace, random_images

from robust_cli.attacks.classifiers import BaseClassifier, SmoothedClassifier
from robust_cli.datasets.images import Images
from robust_cli.evaluation.outcomes import Rules, evaluate
from robust_cli.evaluation.plan import Planned
from robust_cli.evaluation.stored import Stored
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder
from robust_cli.smoothing.noise import ImageDraws

Rows = dict[tuple[str, float, int], dict[str, str]]


def plane(mean: float = 0.51, n: int = 3) -> tuple[BaseClassifier, Images]:
    """Class 1 above a mean of 1/2; ``n`` images a little above it."""
    images = Images(torch.full((n, 1, 4, 4), mean), torch.ones(n).long(), torch.arange(n), ("a", "b"), "")
    return BaseClassifier(Halfspace(torch.ones(16), bias=-8.0)), images


def rows_of(folder: Path, attacks: dict[str, Any], classifier: Any, images: Images, budgets: Sequence[float] = (0.1,),
            **more: Any) -> Rows:
    folder.mkdir(exist_ok=True)
    evaluate(attacks, classifier, images, {"l2": list(budgets)},
             **{"seed": 5, "batch_size": 2, "device": "cpu", "folder": RunFolder(folder)} | more)
    with (folder / "outcomes.csv").open() as file:
        return {(r["attack"], float(r["budget"]), int(r["index"])): r for r in csv.DictReader(file)}


@dataclass(frozen=True)
class Moves:
    """Every pixel of every image down by the same, and remembers the images and labels that it was given."""

    by: float
    norm: str = "l2"
    budget: float | None = None
    seen: ClassVar[list[tuple[int, int]]] = []

    def __call__(self, classifier: Any, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        self.seen.extend(zip(draws.indices, labels.tolist(), strict=True))
        return images - self.by


@pytest.mark.parametrize(("beyond", "held"), [(1e-5, True), (-1e-5, False)])
def test_a_budget_is_held_to_a_hundred_thousandth(tmp_path: Path, beyond: float, held: bool) -> None:
    classifier, images = plane()
    attack = Moves(0.1 * (1 + beyond) / 4)  # l2: 4 times that
    if not held:
        assert len(rows_of(tmp_path, {"mine": attack}, classifier, images)) == 6
        return
    with pytest.raises(UserError, match=r"attack\.mine: .*within l2 0\.1 of the originals, got distance 0\.10000"):
        rows_of(tmp_path, {"mine": attack}, classifier, images)


def stored(path: Path, images: Images, by: Sequence[float], budget: float) -> Planned:
    """Images that a run has left, each moved down by its own."""
    np.save(path, (images.float() - torch.tensor(by).view(-1, 1, 1, 1)).numpy())
    places = {int(index): k for k, index in enumerate(images.indices)}
    return Planned("pgd@0123abcd", budget, Stored(path, places, "l2", budget))


def test_images_of_another_run_are_held_to_their_budget_too(tmp_path: Path) -> None:
    classifier, images = plane()
    plan = [stored(tmp_path / "far.npy", images, [0.02, 0.02, 0.03], 0.1)]  # the last at l2 0.12
    with pytest.raises(UserError, match=r"attack\.pgd@0123abcd: .*distance 0\.12.*image 2"):
        rows_of(tmp_path / "run", {}, classifier, images, more=plan)


def test_images_of_another_run_are_its_own_at_every_budget(tmp_path: Path) -> None:
    """Image 0 transfers at 0.1 alone, image 1 at 0.4 alone, image 2 never: no point serves a larger budget."""
    classifier, images = plane()
    plan = [stored(tmp_path / "1.npy", images, [0.02, 0.0, 0.0], 0.1), stored(tmp_path / "4.npy", images, [0.0, 0.02, 0.0], 0.4)]
    rows = rows_of(tmp_path / "run", {}, classifier, images, more=plan)
    found = [[rows["pgd@0123abcd", b, i]["robust"] for i in range(3)] for b in (0.1, 0.4)]
    assert found == [["0", "1", "1"], ["1", "0", "1"]]


def test_closest_examples_of_another_run_are_closest_here_too(tmp_path: Path) -> None:
    """They have no budget to be held to, and images that are wrong when clean stay as they are."""
    classifier, images = plane()
    images.labels[1] = 0
    plan = [stored(tmp_path / "far.npy", images, [0.02, 0.02, 0.4], float("inf"))]
    rows = rows_of(tmp_path / "run", {}, classifier, images, more=plan, rules=Rules(also_wrong=True))
    found = [float(rows["pgd@0123abcd", float("inf"), i]["l2"]) for i in range(3)]
    assert found == pytest.approx([0.08, 0.0, 1.6], rel=1e-5)


def test_an_image_without_an_answer_of_its_own_is_led_away_from_its_label(tmp_path: Path) -> None:
    """labels=predicted where the clean votes are a tie: there is no predicted class."""
    _, images = plane()
    ballots = {0: [5, 5], 1: [9, 1], 2: [1, 9]}  # a tie, wrong, right

    def decide(batch: torch.Tensor, indices: Sequence[int], purpose: str) -> torch.Tensor:
        return torch.tensor([ballots[i] for i in indices])

    Moves.seen.clear()
    classifier = SmoothedClassifier(Halfspace(torch.ones(16), bias=-8.0), 0.1, draws=2)
    rows_of(tmp_path, {"mine": Moves(0.02)}, classifier, images, decide=decide, rules=Rules("predicted", also_wrong=True))
    assert sorted(Moves.seen) == [(0, 1), (1, 0), (2, 1)]


def test_closest_examples_are_of_right_images_alone(tmp_path: Path) -> None:
    """Also where wrong images are attacked, whose closest example is themselves, at distance 0."""
    classifier, images = plane()
    images.labels[1] = 0
    Moves.seen.clear()
    rows = rows_of(tmp_path, {"near": _Closest(0.02)}, classifier, images, rules=Rules("predicted", also_wrong=True))
    assert sorted(Moves.seen) == [(0, 1), (2, 1)]
    assert [float(rows["near", float("inf"), i]["l2"]) > 0 for i in range(3)] == [True, False, True]


@dataclass(frozen=True)
class _Closest:
    by: float
    norm: str = "l2"
    closest: ClassVar[bool] = True

    def __call__(self, classifier: Any, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        return Moves(self.by)(classifier, images, labels, draws)


def test_an_attack_has_numbers_of_its_own_at_every_budget(tmp_path: Path) -> None:
    """Luck at one budget is not luck at all of them."""
    drawn: list[torch.Tensor] = []

    @dataclass(frozen=True)
    class Draws:
        norm: str = "l2"
        budget: float | None = None

        def __call__(self, classifier: Any, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
            drawn.append(draws.uniform(1).flatten())
            return images

    classifier, _ = plane()
    images = Images(0.5 + random_images(2) / 2, torch.ones(2).long(), torch.arange(2), ("a", "b"), "")
    rows_of(tmp_path, {"a": Draws(), "b": Draws()}, classifier, images, (0.1, 0.2))
    assert len(torch.cat(drawn).unique()) == 8
