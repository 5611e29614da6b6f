"""On a smoothed classifier an image leaves the larger budgets only where votes say beyond chance that it is fooled."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from toy_victims import Halfspace

from robust_cli.attacks.classifiers import SmoothedClassifier
from robust_cli.datasets.images import Images
from robust_cli.evaluation.outcomes import Rules, evaluate
from robust_cli.runs.folder import RunFolder
from robust_cli.smoothing.noise import ImageDraws


def rows_of(folder: Path, attacks: dict[str, Any], classifier: Any, images: Images, budgets: Sequence[float],
            **more: Any) -> dict[tuple[str, float, int], dict[str, str]]:
    folder.mkdir(exist_ok=True)
    evaluate(attacks, classifier, images, {"l2": list(budgets)},
             **{"seed": 5, "batch_size": 2, "device": "cpu", "folder": RunFolder(folder)} | more)
    with (folder / "outcomes.csv").open() as file:
        return {(r["attack"], float(r["budget"]), int(r["index"])): r for r in csv.DictReader(file)}


@dataclass(frozen=True)
class _Walk:
    """Straight toward the plane by the whole budget; remembers whom it was given."""

    seen: list[int]
    norm: str = "l2"
    budget: float | None = None

    def __call__(self, classifier: Any, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        assert self.budget is not None
        self.seen.extend(draws.indices)
        return images - self.budget / 4 * (1 - 1e-4)


def test_a_point_that_fooled_by_luck_serves_no_larger_budget(tmp_path: Path) -> None:
    """Of 100 votes 66 against 34 are beyond three standard errors of 10, 64 against 36 are not; a tie is not, either."""
    images = Images(torch.full((4, 1, 4, 4), 0.51), torch.ones(4).long(), torch.arange(4), ("a", "b"), "")
    walk = _Walk([])
    against = {0: 66, 1: 64, 2: 50, 3: 0}

    def decide(batch: torch.Tensor, indices: Sequence[int], purpose: str) -> torch.Tensor:
        votes = [against[i] if purpose == "decision/mine/0.1" else 0 for i in indices]
        return torch.tensor([[v, 100 - v] for v in votes])

    classifier = SmoothedClassifier(Halfspace(torch.ones(16), bias=-8.0), 0.1, draws=2)
    rows = rows_of(tmp_path, {"mine": walk}, classifier, images, (0.1, 0.4), decide=decide)
    assert [rows["mine", 0.1, i]["robust"] for i in range(4)] == ["0", "0", "0", "1"]
    assert walk.seen == [0, 1, 2, 3, 1, 2, 3]


def exact(folder: Path, votes: int, reuse: bool) -> np.ndarray:
    """Images standing of 400 before a plane at distances 0 to 1.6 noise_stds, at ten budgets of an attack that walks to it."""
    n, noise_std, budgets = 400, 0.1, [0.016 * k for k in range(1, 11)]
    away = torch.arange(n) / n * 0.16
    pixels = 0.5 + (away / 4).view(-1, 1, 1, 1).expand(n, 1, 4, 4)
    images = Images(pixels.clone(), torch.ones(n).long(), torch.arange(n), ("a", "b"), "")
    random = np.random.default_rng(0)

    def decide(batch: torch.Tensor, indices: Sequence[int], purpose: str) -> torch.Tensor:
        behind = norm.cdf((4 * (0.5 - batch.mean((1, 2, 3)).double()) / noise_std).numpy())
        if purpose == "decision/none":
            return torch.tensor([[0, votes]] * len(indices))
        wrong = random.binomial(votes, behind)
        return torch.from_numpy(np.stack([wrong, votes - wrong], 1))

    classifier = SmoothedClassifier(Halfspace(torch.ones(16), bias=-8.0), noise_std, draws=2)
    rows = rows_of(folder, {"walk": _Walk([])}, classifier, images, budgets, decide=decide, rules=Rules(reuse=reuse),
                   batch_size=400)
    return np.array([sum(rows["walk", b, i]["robust"] == "1" for i in range(n)) for b in budgets])


@pytest.mark.parametrize("votes", [10, 100])
def test_points_that_serve_larger_budgets_leave_no_more_standing(tmp_path: Path, votes: int) -> None:
    """Whether an attack is run anew at every budget or not, as many stand, but for the votes' chance (at most 1/4 of a vote an
    image, 10 of 400 at two budgets' worth of standard error)."""
    each, once = (exact(tmp_path / str(reuse), votes, reuse) for reuse in (False, True))
    assert float((once - each).mean()) < 5
    assert 300 > each[5] > 100
