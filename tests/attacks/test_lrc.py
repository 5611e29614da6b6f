"""Long-range correlated noise: its covariance, what rounding does to it, and the worst of many copies."""

from __future__ import annotations

import pytest
import torch
from toy_victims import curved, draws, grey, random_images

from robust_cli.attacks.classifiers import BaseClassifier
from robust_cli.attacks.geometry import distances, settle
from robust_cli.attacks.lrc import LongRangeCorrelated, correlated_noise, correlation, root
from robust_cli.messages import Wrong


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
    with pytest.raises(Wrong, match=f"positive definite.*least eigenvalue {least}"):
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
                                                ({"between_channels": 1.0}, "between_channels"), ({"samples": 0}, "samples")])
def test_wrong_settings_are_named(settings: dict[str, float], name: str) -> None:
    with pytest.raises(Wrong, match=f"^{name}: expected"):
        LongRangeCorrelated(**settings)  # type: ignore[arg-type]
