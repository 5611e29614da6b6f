"""Long-range correlated noise: by distance or as the data has it, what rounding does to it, and the worst of many copies."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from toy_victims import Identity, curved, draws, grey, random_images

from robust_cli.attacks.classifiers import BaseClassifier
from robust_cli.attacks.geometry import distances, settle
from robust_cli.attacks.lrc import LongRangeCorrelated, correlated_noise, data_root
from robust_cli.covariance import correlation, root
from robust_cli.datasets.digits import Digits
from robust_cli.datasets.images import Images
from robust_cli.messages import UserError, Wrong


def test_sample_covariance_is_the_one_asked_for() -> None:
    """Each product of two pixels has variance 1 + c^2, c their covariance: 5.5 standard errors over 108^2 / 2 entries."""
    shape, n, places = (3, 6, 6), 20_000, correlation(6, 6, 2.0)
    z = correlated_noise(shape, 2.0, 0.5, draws(n)).flatten(1).double()
    channels = torch.tensor([[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]], dtype=torch.float64)
    expected = torch.kron(channels, places)
    error = ((1 + expected.square()) / n).sqrt()
    assert float(((z.T @ z / n - expected) / error).abs().max()) < 5.5
    assert float(z.mean(0).abs().max()) < 5 / n**0.5
    row = expected[0]
    assert float(row[1]) == pytest.approx(2.718281828 ** -0.5)  # the neighbour
    assert float(row[36 + 7]) == pytest.approx(0.5 * 2.718281828 ** (-(2**0.5) / 2))  # the diagonal one, another channel


@pytest.mark.parametrize(("decay", "least"), [(1.0, 0.397), (16.0, 0.026)])
def test_exact_distances_give_a_covariance(decay: float, least: float) -> None:
    covariance = correlation(32, 32, decay)
    assert float(torch.linalg.eigvalsh(covariance)[0]) == pytest.approx(least, abs=1e-3)
    torch.testing.assert_close(root(covariance) @ root(covariance).T, covariance, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("decay", "least"), [(1.0, "-0.014"), (8.0, "-0.733")])
def test_rounded_distances_give_none_and_are_refused(decay: float, least: str) -> None:
    with pytest.raises(Wrong, match=f"positive semi-definite.*least eigenvalue {least}"):
        root(correlation(32, 32, decay, rounded=True))


def test_the_budget_is_the_scale_of_the_noise() -> None:
    n, attack = 3000, LongRangeCorrelated(decay_length=2.0, samples=1, budget=0.02)
    moved = attack(BaseClassifier(curved()), grey(n), torch.zeros(n).long(), draws(n)) - grey(n)
    assert float(moved.double().square().mean()) == pytest.approx(0.02**2, rel=5 * (2 / n) ** 0.5)
    assert float(moved.abs().max()) > 3 * 0.02  # it is no ball of size 0.02
    assert float(distances(moved + grey(n), grey(n), "std").max()) <= 0.02
    wild = settle(grey(5) + 3 * torch.randn(5, 1, 4, 4), grey(5), 0.01, "std")
    assert float(distances(wild, grey(5), "linf").max()) == pytest.approx(0.06, rel=1e-5)


def test_an_image_is_right_only_if_all_copies_are() -> None:
    """The copy returned is misclassified exactly where any copy is."""
    n, budget = 200, 0.15
    model, images = curved(3).eval(), random_images(n)
    labels = model(images).argmax(1)
    attack = LongRangeCorrelated(decay_length=4.0, samples=20, budget=budget)
    found = attack(BaseClassifier(model), images, labels, draws(n))
    stream = draws(n)
    copies = [(images + budget * correlated_noise((1, 4, 4), 4.0, 0.5, stream)).clamp(0, 1) for _ in range(20)]
    broken = torch.stack([model(copy).argmax(1) != labels for copy in copies])
    assert torch.equal(model(found).argmax(1) != labels, broken.any(0))
    assert 0.1 < float(broken.any(0).float().mean()) < 0.95
    assert float(broken.any(0).float().mean()) > float(broken[0].float().mean()) + 0.05


@pytest.mark.parametrize(("settings", "name"), [({"norm": "l2"}, "norm"), ({"decay_length": 0.0}, "decay_length"),
                                                ({"between_channels": 1.0}, "between_channels"), ({"samples": 0}, "samples"),
                                                ({"covariance": "images"}, "covariance"),
                                                ({"covariance": "data", "decay_length": 4.0}, "decay_length"),
                                                ({"covariance": "data", "between_channels": 0.1}, "between_channels")])
def test_wrong_settings_are_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(Wrong, match=f"^{name}: expected"):
        LongRangeCorrelated(**settings)


def test_without_distance_channels_stay_correlated() -> None:
    """decay_length -> 0 gives [[1, .5, .5], [.5, 1, .5], [.5, .5, 1]] at each pixel (eigenvalues 2, .5, .5), not the identity."""
    n = 4000
    z = correlated_noise((3, 4, 4), 0.01, 0.5, draws(n)).flatten(2).double()
    one = torch.full((3, 3), 0.5, dtype=torch.float64).fill_diagonal_(1.0)
    found = torch.einsum("ncp,ndq->cpdq", z, z) / n
    expected = torch.einsum("cd,pq->cpdq", one, torch.eye(16).double())
    assert float(((found - expected).abs() / ((1 + expected.square()) / n).sqrt()).max()) < 5
    eigenvalues = torch.linalg.eigvalsh(torch.einsum("ncp,ndp->cd", z, z) / (16 * n))
    assert eigenvalues.tolist() == pytest.approx([0.5, 0.5, 2.0], abs=0.05)


def images_of(pixels: torch.Tensor) -> Images:
    return Images(pixels, torch.zeros(len(pixels)).long(), torch.arange(len(pixels)), ("a", "b"))


def data(n: int = 40, shape: tuple[int, int, int] = (2, 4, 4), seed: int = 0) -> Images:
    """Few images of uneven pixels that vary together; the first pixel never does."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.rand(n, 5, generator=generator) @ torch.rand(5, shape[0] * 16, generator=generator) / 5
    flat[:, 0] = 0.3
    return images_of(flat.view(n, *shape).clamp(0, 1))


def test_noise_with_the_data_sets_covariance() -> None:
    """Products of two pixels have variance Sii Sjj + Sij^2; the data's covariance over its mean variance is S."""
    n, images = 20_000, data()
    attack = LongRangeCorrelated(covariance="data").with_data(images)
    z = attack.sampler(images.shape, draws(n))().flatten(1).double()
    expected = torch.cov(images.pixels.flatten(1).T.double(), correction=0)
    expected = expected / expected.diagonal().mean()
    variances = expected.diagonal()
    error = ((variances[:, None] * variances + expected.square()) / n).sqrt()
    assert torch.linalg.matrix_rank(expected) == 5
    assert not z[:, 0].any()  # as in the data
    found = z[:, 1:].T @ z[:, 1:] / n
    assert float(((found - expected[1:, 1:]).abs() / error[1:, 1:]).max()) < 5
    assert float(z.square().mean()) == pytest.approx(1, abs=0.05)  # the budget stays the scale
    assert float(expected.abs().triu(1).max()) > 0.3  # and it is not white


def test_bytes_and_floats_have_one_root() -> None:
    pixels = (data().pixels * 255).round().to(torch.uint8)
    torch.testing.assert_close(*(found @ found.T for found in map(data_root, (images_of(pixels), images_of(pixels / 255)))))


def test_a_budget_keeps_the_root() -> None:
    plain = LongRangeCorrelated(covariance="data", samples=3)
    known = plain.with_data(data())
    swept = replace(known, budget=0.1)
    assert swept.root is known.root  # type: ignore[attr-defined]
    assert (swept.budget, swept.samples) == (0.1, 3)
    assert replace(swept, budget=None) == known
    assert plain.with_data(data()) == known  # whose root is equal, not the same
    assert hash(plain.with_data(data())) == hash(known)
    assert swept != known
    assert "tensor" not in repr(known)
    again = swept.with_data(data(seed=1))
    assert not torch.equal(again.root, known.root)  # type: ignore[attr-defined]
    assert LongRangeCorrelated().with_data(data()) == LongRangeCorrelated()


def test_data_has_to_be_known_and_to_vary() -> None:
    attack = LongRangeCorrelated(covariance="data", budget=0.1)
    with pytest.raises(AssertionError, match="training images by with_data"):
        attack(BaseClassifier(curved()), grey(2), torch.zeros(2).long(), draws(2))
    with pytest.raises(AssertionError, match="have 32 numbers, these 16"):
        attack.with_data(data())(BaseClassifier(curved()), grey(2), torch.zeros(2).long(), draws(2))
    with pytest.raises(UserError, match="training images that differ, found 7 alike"):
        attack.with_data(images_of(torch.full((7, 1, 4, 4), 0.1)))


def test_the_datas_own_noise_harms_a_trained_network_more_than_white_noise() -> None:
    """At one scale: it lies along the directions in which the classes differ."""
    training, test = Digits().split("train"), Digits().split("test")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(training.float()), training.labels).backward()
        optimizer.step()
    right = (model(test.float()).argmax(1) == test.labels).nonzero().flatten()[:60]
    images, labels = test.float(right), test.labels[right]

    def standing(attack: Any) -> float:
        found = attack(BaseClassifier(model.eval()), images, labels, draws(60))
        return float((model(found).argmax(1) == labels).float().mean())

    own = LongRangeCorrelated(covariance="data", samples=20, budget=0.15).with_data(training)
    white = LongRangeCorrelated(decay_length=0.01, samples=20, budget=0.15)
    assert standing(Identity()) == 1.0
    assert standing(own) < standing(white) - 0.3
    moved = own(BaseClassifier(model), images, labels, draws(60))
    assert float(distances(moved, images, "std").max()) <= 0.15


def test_config_of_the_datas_own_noise() -> None:
    text = (Path(__file__).resolve().parents[2] / "conf" / "attack" / "lrc_data.yaml").read_text()
    settings = yaml.safe_load(text)
    assert settings.pop("_target_") == "robust_cli.attacks.lrc.LongRangeCorrelated"
    assert text.startswith("# @package attack.lrc_data\n# ")
    assert set(settings) == {field.name for field in fields(LongRangeCorrelated)}
    assert LongRangeCorrelated(**settings) == LongRangeCorrelated(covariance="data")
