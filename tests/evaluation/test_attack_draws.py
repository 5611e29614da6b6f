"""What an attack draws is its own: keyed by seed, attack, budget and image, and never what decides its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_victims import curved, draws, random_images

from robust_cli.attacks.classifiers import BaseClassifier, Network, SmoothedClassifier
from robust_cli.attacks.losses import cross_entropy
from robust_cli.attacks.pgd import Pgd
from robust_cli.datasets.images import Images
from robust_cli.evaluation import outcomes
from robust_cli.runs.folder import RunFolder
from robust_cli.smoothing.noise import ImageDraws
from robust_cli.smoothing.noises import make_noise
from robust_cli.smoothing.votes import NoisyVotes


def attacked(folder: Path, seed: int, decided_by: list[str] | None = None) -> dict[str, np.ndarray]:
    """Final images of two attacks at two budgets on a smoothed classifier, by file name."""
    model, asked = curved().eval(), [] if decided_by is None else decided_by
    images = Images(random_images(6), torch.arange(6) % 3, 10 * torch.arange(6) + 3, ("a", "b", "c"))
    counter = NoisyVotes(model, 3, make_noise("gaussian", 0.1), seed, "cpu", workers=1)

    def decide(images: torch.Tensor, indices: Sequence[int], purpose: str) -> torch.Tensor:
        asked.append(purpose)
        return counter.decide(images, indices, purpose, 50)

    folder.mkdir()
    attacks = {name: Pgd(norm="l2", steps=3, random_start=True) for name in ("one", "two")}
    outcomes.evaluate(attacks, SmoothedClassifier(model, 0.1, draws=2), images, {"l2": [0.1, 0.4]}, seed=seed, batch_size=4,
                        device="cpu", folder=RunFolder(folder), decide=decide)
    return {path.name: np.load(path) for path in sorted((folder / "adversarial").iterdir())}


def test_no_draw_of_an_attack_decides_its_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Votes that the attack has climbed would call its image fooled more often than fresh ones do."""
    drawn: list[tuple[int, str]] = []

    def spy(device: torch.device, seed: int, purpose: str, indices: Sequence[int]) -> ImageDraws:
        drawn.append((seed, purpose))
        return ImageDraws(device, seed, purpose, indices)

    monkeypatch.setattr(outcomes, "ImageDraws", spy)
    decided_by: list[str] = []
    attacked(tmp_path / "a", 5, decided_by)
    assert len(set(drawn)) == 4  # two attacks at two budgets
    assert {seed for seed, _ in drawn} == {5}
    assert len(set(decided_by)) == 5  # and the clean images
    assert not {purpose for _, purpose in drawn} & set(decided_by)


def test_attacks_budgets_and_seeds_have_draws_of_their_own(tmp_path: Path) -> None:
    found, again, other = (attacked(tmp_path / name, seed) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert len(found) == 4
    for name in found:
        assert np.array_equal(found[name], again[name])
        assert not np.array_equal(found[name], other[name])
    assert not np.array_equal(found["one_0.1.npy"], found["two_0.1.npy"])


def test_an_attack_in_bf16_sees_the_model_in_bf16() -> None:
    model, images, labels = curved().eval(), random_images(20), torch.arange(20) % 3
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(images).float()
    assert torch.equal(Network(model, "bf16").logits(images), expected)
    assert not torch.equal(Network(model).logits(images), expected)
    for make in (BaseClassifier, lambda m, p="fp32": SmoothedClassifier(m, 0.1, 3, precision=p)):
        rough, fine = (make(model, p).gradient(images, labels, cross_entropy, draws(20))[0] for p in ("bf16", "fp32"))
        assert not torch.equal(rough, fine)
        assert float(torch.nn.functional.cosine_similarity(rough.flatten(1), fine.flatten(1)).min()) > 0.9
