"""Softmax along the line from an image to its adversarial one: its ends, which images, and the mean under noise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from measured_models import labelled, material
from torch import nn

from robust_cli.attacks.classifiers import BaseClassifier, SmoothedClassifier
from robust_cli.measures.softmax_path import SoftmaxPath
from robust_cli.messages import Wrong

CLASSES = 3


class Planes(nn.Module):
    """Three linear logits of four pixels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ torch.tensor([[4.0, -2, 1], [0, 3, -1], [1, 1, 1], [-3, 0, 2]])


class Step(nn.Module):
    """Logits (0, 8 x) of one pixel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = 8 * images.flatten(1)[:, 0]
        return torch.stack([torch.zeros_like(score), score], 1)


def row(attack, budget, index, label, predicted):
    return {"attack": attack, "budget": budget, "index": index, "label": label, "predicted": predicted,
            "robust": int(label == predicted)}


@pytest.fixture
def case():
    """Six images of indices 20..25: fooled, robust, wrong when clean, tied, fooled, fooled; and the attack's images."""
    generator = torch.Generator().manual_seed(0)
    start, end = (torch.rand(6, 1, 2, 2, generator=generator) for _ in range(2))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    after = [2, 1, 0, -1, 0, 1]
    rows = [row("none", 0.0, 20 + k, y, y if k != 2 else 1) for k, y in enumerate(labels.tolist())]
    rows += [row("pgd", 0.5, 20 + k, y, after[k]) for k, y in enumerate(labels.tolist())]
    rows += [row("pgd", 0.25, 20 + k, y, y) for k, y in enumerate(labels.tolist())]
    rows += [row("near", math.inf, 20 + k, y, 0 if k == 5 else y) for k, y in enumerate(labels.tolist())]
    outcomes = pd.DataFrame(rows).sample(frac=1, random_state=0)  # in any order

    def adversarial(name: str, budget: float) -> np.ndarray:
        assert (name, budget) in {("pgd", 0.5), ("near", math.inf)}, "nothing was fooled at 0.25"
        return end.numpy()

    attacks = {"pgd": [(0.25, None), (0.5, None)], "near": [(math.inf, None)]}
    def measured(classifier=None, batch_size=64, **settings):
        return SoftmaxPath(**settings)(material(classifier or BaseClassifier(Planes()), labelled(start, labels, CLASSES, 20),
                                                attacks, outcomes, adversarial, batch_size))
    return measured, start, end, labels, after


def softmax(images: torch.Tensor) -> np.ndarray:
    return Planes()(images.double().float()).double().softmax(1).numpy()


def test_which_images(case) -> None:
    measured, *_ = case
    found = measured(points=3, singles=2)
    pgd, near = found[found["attack"] == "pgd"], found[found["attack"] == "near"]
    assert set(pgd["budget"]) == {0.5}
    assert set(near["budget"]) == {math.inf}
    assert pgd["index"].tolist() == [-1] * 3 + [20] * 3 + [24] * 3
    assert (pgd[pgd["index"] == -1]["images"] == 3).all()
    assert near["index"].tolist() == [-1] * 3 + [25] * 3
    assert pgd["t"].tolist() == [0, 0.5, 1] * 3
    only = measured(points=2, images=1)
    assert only[only["attack"] == "pgd"]["images"].tolist() == [1] * 4


def test_the_ends_are_the_image_and_the_adversarial_image(case) -> None:
    measured, start, end, labels, after = case
    found = measured(points=5, singles=6)
    for k in (0, 4, 5):
        rows = found[(found["index"] == 20 + k) & (found["attack"] == "pgd")]
        assert set(rows["label"]) == {int(labels[k])}
        assert set(rows["predicted"]) == {after[k]}
        for t, (_, at) in zip((0, 0.25, 0.5, 0.75, 1), rows.iterrows(), strict=True):
            expected = softmax(start[k : k + 1] + t * (end[k : k + 1] - start[k : k + 1]))[0]
            assert at["probability_label"] == pytest.approx(expected[labels[k]], rel=1e-5)
            assert at["probability_adversarial"] == pytest.approx(expected[after[k]], rel=1e-5)


def test_the_last_point_is_the_stored_image_to_the_bit() -> None:
    """Close to a boundary x + (x' - x) would not do."""
    seen = []

    class Watched(Step):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return super().forward(images)

    generator = torch.Generator().manual_seed(0)
    start, end = (torch.rand(50, 1, 1, 1, generator=generator) ** 3 for _ in range(2))
    rows = [row(a, b, k, 0, p) for k in range(50) for a, b, p in (("none", 0.0, 0), ("x", 1.0, 1))]
    SoftmaxPath(points=4)(material(BaseClassifier(Watched()), labelled(start), {"x": [(1.0, None)]}, pd.DataFrame(rows),
                                   lambda name, budget: end.numpy()))
    assert torch.equal(seen[0], start)
    assert torch.equal(seen[3], end)
    assert not torch.equal(start + (end - start), end)


def test_means_are_over_the_images_with_their_error(case) -> None:
    measured, *_ = case
    found = measured(points=4, singles=6)
    pgd = found[found["attack"] == "pgd"]
    singles = pgd[pgd["index"] >= 0].pivot(index="t", columns="index", values="probability_adversarial")
    mean = pgd[pgd["index"] == -1].set_index("t")
    assert mean["probability_adversarial"].to_numpy() == pytest.approx(singles.mean(axis=1).to_numpy())
    assert mean["probability_adversarial_error"].to_numpy() == pytest.approx(singles.std(axis=1, ddof=0).to_numpy() / 3**0.5)


def test_beyond_the_adversarial_image_nothing_is_clipped(case) -> None:
    measured, start, end, labels, _ = case
    rows = measured(extend=2.0, points=3, singles=1)
    last = rows[(rows["index"] == 20) & (rows["t"] == 2)].iloc[0]
    beyond = 2 * end[:1] - start[:1]
    assert beyond.min() < 0 or beyond.max() > 1
    assert last["probability_label"] == pytest.approx(softmax(beyond)[0][labels[0]], rel=1e-5)


@pytest.mark.parametrize("smoothed", [False, True])
def test_no_result_depends_on_the_batch(case, smoothed) -> None:
    measured, *_ = case
    classifier = SmoothedClassifier(Planes(), 0.3) if smoothed else None
    whole, cut = (measured(classifier, batch_size=size, points=3) for size in (64, 2))
    pd.testing.assert_frame_equal(whole, cut, rtol=1e-6)


def test_the_mean_softmax_of_a_smoothed_classifier() -> None:
    """E sigmoid(8 (x + 0.5 z)) by quadrature; one noise for all points of a line."""
    n, noise_std, draws = 40, 0.5, 60
    start, end = torch.zeros(n, 1, 1, 1), torch.full((n, 1, 1, 1), 0.5)
    rows = [row(a, b, k, 0, p) for k in range(n) for a, b, p in (("none", 0.0, 0), ("x", 1.0, 1), ("still", 1.0, 1))]
    stored = {"x": end.numpy(), "still": start.numpy()}
    found = SoftmaxPath(points=3, draws=draws)(material(
        SmoothedClassifier(Step(), noise_std), labelled(start), {"x": [(1.0, None)], "still": [(1.0, None)]},
        pd.DataFrame(rows), lambda name, budget: stored[name]))
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    means = found[found["index"] == -1]
    for at in means[means["attack"] == "x"].itertuples():
        p = 1 / (1 + np.exp(-8 * (0.5 * at.t + noise_std * nodes)))
        error = math.sqrt(((weights * p**2).sum() - (weights * p).sum() ** 2) / (n * draws))
        assert abs(at.probability_adversarial - (weights * p).sum()) < 5 * error
        assert at.probability_label == pytest.approx(1 - at.probability_adversarial)
        assert at.probability_adversarial_error == pytest.approx(error, rel=0.5)
    assert means[means["attack"] == "still"]["probability_label"].nunique() == 1
    assert abs((weights / (1 + np.exp(-8 * (0.5 + noise_std * nodes)))).sum() - 1 / (1 + math.exp(-4))) > 0.1  # not the point's


def test_nothing_fooled_no_rows(case) -> None:
    rows = [row("none", 0.0, 0, 0, 0), row("x", 1.0, 0, 0, 0)]
    found = SoftmaxPath()(material(BaseClassifier(Planes()), labelled(torch.zeros(1, 1, 2, 2), classes=CLASSES),
                                   {"x": [(1.0, None)]}, pd.DataFrame(rows)))
    assert len(found) == 0
    assert "probability_label" in found


@pytest.mark.parametrize(("settings", "name"), [
    ({"extend": 0.5}, "extend"), ({"extend": 2.5}, "extend"), ({"points": 1}, "points"), ({"images": 0}, "images"),
    ({"singles": -1}, "singles"), ({"draws": 0}, "draws")])
def test_wrong_settings_are_named(settings, name) -> None:
    with pytest.raises(Wrong, match=name):
        SoftmaxPath(**settings)
