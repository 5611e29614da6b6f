from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from toy_victims import PIXELS, SHAPE, Halfspace, Polynomial, Raw, curved, draws, grey, random_images, symmetric, uneven_weights

from robust_cli.attacks.classifiers import BaseClassifier, SmoothedClassifier, strongest
from robust_cli.attacks.losses import cross_entropy, margin
from robust_cli.attacks.second_order import SecondOrder
from robust_cli.messages import Wrong


def cubes(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (logits**3).sum(1)


def zeros(n: int) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.int64)


def test_losses_are_what_they_say() -> None:
    logits = torch.randn(100, 5, generator=torch.Generator().manual_seed(0)) * 4
    labels = torch.arange(100) % 5
    torch.testing.assert_close(cross_entropy(logits, labels), nn.functional.cross_entropy(logits, labels, reduction="none"))
    by_hand = torch.tensor([[3.0, 1.0, 2.5], [0.0, 60.0, 1.0]])
    assert margin(by_hand, torch.tensor([0, 0])).tolist() == [-50.5, 0.0]


def test_cross_entropy_keeps_its_direction_where_the_softmax_is_saturated() -> None:
    weight = uneven_weights()
    model = Halfspace(weight, bias=40.0)  # p_y rounds to 1: the textbook form has lost the label's part of the gradient
    gradient, loss, *_ = BaseClassifier(model).gradient(torch.zeros(1, *SHAPE), torch.ones(1).long(), cross_entropy, draws(1))
    assert float(loss) == pytest.approx(np.exp(-40.0), rel=1e-4)
    torch.testing.assert_close(gradient.flatten() / np.exp(-40.0), -weight, rtol=1e-4, atol=0)


def test_expected_gradient_in_closed_form() -> None:
    """L = sum x^3: the mean gradient under noise is 3 x^2 + 3 s^2, with a known variance that only independent draws reach."""
    noise, n, count = 0.3, 200, 60
    images = random_images(count)
    classifier = SmoothedClassifier(Raw(), noise, draws=n)
    gradient, loss, *_ = classifier.gradient(images, zeros(count), cubes, draws(count))
    variance = 9 * (4 * images**2 * noise**2 + 2 * noise**4) / n
    z = (gradient - 3 * images**2 - 3 * noise**2) / variance.sqrt()
    assert float(z.abs().max()) < 5
    assert float(z.square().mean()) == pytest.approx(1, abs=5 * (2.5 / z.numel()) ** 0.5)  # one draw used n times gives n
    expected = (images**3 + 3 * images * noise**2).flatten(1).sum(1)
    assert float((loss - expected).abs().max()) < 0.5


def test_expected_gradient_agrees_with_steins_identity() -> None:
    """E grad L(x + s z) = E L(x + s z) z / s."""
    hessian, _ = symmetric([3.0, -2.0, 1.0])
    model, noise, n = Polynomial(hessian, gradient=torch.linspace(-1, 1, PIXELS)), 0.2, 200_000
    image = random_images(1, seed=5)
    found, *_ = SmoothedClassifier(model, noise, draws=2000).gradient(image, zeros(1), margin, draws(1))
    z = torch.randn(n, PIXELS, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        value = model.q(image + noise * z.view(n, *SHAPE)) - model.q(image)
    samples = value[:, None] * z / noise
    error = (samples.var(0) / n + (noise**2 * (hessian @ hessian).diagonal().float()) / 2000).sqrt()
    assert float(((found.flatten() - samples.mean(0)) / error).abs().max()) < 5


def test_draws_are_fresh_in_each_call_and_different_for_each_image() -> None:
    classifier, images = SmoothedClassifier(Raw(), 0.5, draws=2), grey(2)
    stream = draws(2)
    first, *_ = classifier.gradient(images, zeros(2), cubes, stream)
    second, *_ = classifier.gradient(images, zeros(2), cubes, stream)
    again, *_ = classifier.gradient(images, zeros(2), cubes, draws(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, again)


def test_objectives_differ_as_jensen_says_and_reach_their_integrals() -> None:
    """One pixel, logits (0, k x): both objectives are one-dimensional integrals."""
    slope, noise, x = 8.0, 0.5, 0.2
    model = Halfspace(torch.tensor([slope]))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    logit, weights = slope * (x + noise * nodes), weights / weights.sum()
    p = 1 / (1 + np.exp(-logit))
    expected = {"mean_loss": -(weights * np.log(p)).sum(), "log_mean_probability": -np.log((weights * p).sum())}
    slopes = {"mean_loss": -(weights * slope * (1 - p)).sum(),
              "log_mean_probability": -(weights * slope * p * (1 - p)).sum() / (weights * p).sum()}
    found = {}
    for objective in expected:
        classifier = SmoothedClassifier(model, noise, draws=100_000, objective=objective)
        gradient, loss, *_ = classifier.gradient(torch.full((1, 1, 1, 1), x), torch.ones(1).long(), cross_entropy, draws(1))
        assert float(loss) == pytest.approx(expected[objective], rel=0.02)
        assert float(gradient) == pytest.approx(slopes[objective], rel=0.02)
        found[objective] = float(loss)
    assert found["mean_loss"] > found["log_mean_probability"] + 0.3  # 1.28 and 0.48
    few = [float(SmoothedClassifier(model, noise, 3, o).gradient(torch.full((1, 1, 1, 1), x), torch.ones(1).long(), cross_entropy,
                                                              draws(1))[1]) for o in expected]
    assert few[0] >= few[1]


def test_candidates_are_compared_under_the_same_draws() -> None:
    classifier, image = SmoothedClassifier(Raw(), 0.5, draws=1), random_images(3)
    losses = classifier.losses(torch.stack([image, image]), zeros(3), cubes, draws(3))
    assert torch.equal(losses[0], losses[1])
    best = strongest(classifier, torch.stack([image, image + 1e-4, image - 1e-4]), zeros(3), cubes, draws(3))
    assert torch.equal(best, image + 1e-4)


def test_a_candidate_without_a_loss_is_not_taken() -> None:
    images = grey(2)
    broken = images.clone()
    broken[0, 0, 0, 0] = torch.nan
    best = strongest(BaseClassifier(Raw()), torch.stack([broken, images]), zeros(2), cubes, draws(2))
    assert torch.equal(best, images)


@pytest.mark.parametrize("smoothed", [False, True])
def test_weights_and_modes_are_left_alone(smoothed: bool) -> None:
    model = curved().train()
    model[1].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classifier = SmoothedClassifier(model, 0.1, draws=3) if smoothed else BaseClassifier(model)
    images, labels = random_images(4), zeros(4)
    first, *_ = classifier.gradient(images, labels, cross_entropy, draws(4))
    second, *_ = classifier.gradient(images, labels, cross_entropy, draws(4))
    assert torch.equal(first, second)  # dropout and batch statistics are off
    with torch.no_grad():  # as inside a validation pass
        assert torch.equal(classifier.gradient(images, labels, cross_entropy, draws(4))[0], first)
    assert not first.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(part.training for part in model.modules())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["1.bias"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_costs_count_every_noisy_copy() -> None:
    images, labels = random_images(4), zeros(4)
    base = BaseClassifier(curved())
    base.gradient(images, labels, cross_entropy, draws(4))
    base.losses(torch.stack([images, images]), labels, cross_entropy, draws(4))
    assert (base.network.forward_passes, base.network.backward_passes) == (12, 4)
    smoothed = SmoothedClassifier(base.network, 0.1, draws=5)  # goes on counting where the base stopped
    smoothed.gradient(images, labels, cross_entropy, draws(4))
    assert (base.network.forward_passes, base.network.backward_passes) == (32, 24)


def test_a_model_that_ignores_its_input_has_zero_gradient() -> None:
    class Constant(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(images), 3)

    gradient, loss, *_ = BaseClassifier(Constant()).gradient(grey(2), zeros(2), cross_entropy, draws(2))
    assert (gradient == 0).all()
    torch.testing.assert_close(loss, torch.full((2,), 3.0).log())


@pytest.mark.parametrize(("settings", "name"), [({"noise_std": 0.0}, "noise_std"), ({"noise_std": 0.1, "draws": 0}, "draws"),
                                              ({"noise_std": 0.1, "objective": "mean"}, "objective")])
def test_wrong_settings_are_named(settings: dict[str, object], name: str) -> None:
    with pytest.raises(Wrong, match=name):
        SmoothedClassifier(Raw(), **settings)


def test_gaussian_noise_is_the_default_and_its_numbers_are_the_images_own() -> None:
    """Bit for bit the mean over x + noise_std z, z from the image's stream."""
    images, classifier = random_images(3), SmoothedClassifier(Raw(), 0.3, draws=4)
    assert classifier.noise.name == "gaussian"
    z = draws(3).normal(4, *SHAPE)
    seen = (images[:, None] + z * 0.3).requires_grad_()
    expected = cubes(seen.flatten(0, 1).flatten(1), zeros(12)).view(3, 4).mean(1)
    gradient, loss, *_ = classifier.gradient(images, zeros(3), cubes, draws(3))
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), seen)[0].sum(1))


@pytest.mark.parametrize(("kind", "fourth"), [("gaussian", 3.0), ("integer_grid", 3.0), ("laplace", 6.0), ("uniform", 1.8)])
def test_gradients_and_losses_are_of_the_kind_of_noise(kind: str, fourth: float) -> None:
    """L = sum x^4 has the mean gradient 4 x^3 + 12 s^2 x and the mean loss x^4 + 6 s^2 x^2 + fourth s^4, where kinds differ."""
    def powers(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (logits**4).sum(1)

    noise, n, count = 0.3, 4000, 40
    images = (random_images(count) * 255).round() / 255
    classifier = SmoothedClassifier(Raw(), noise, draws=n, noise=kind)
    gradient, loss, *_ = classifier.gradient(images, zeros(count), powers, draws(count))
    expected = (images**4 + 6 * noise**2 * images**2 + fourth * noise**4).flatten(1).sum(1)
    spread = (loss - expected).std() / count**0.5
    assert abs(float((loss - expected).mean())) < 5 * float(spread)
    assert 5 * float(spread) < 0.5 * noise**4 * PIXELS * 1.2  # far less than what tells the kinds apart
    slope = 4 * images**3 + 12 * noise**2 * images
    assert abs(float((gradient - slope).mean())) < 5 * float((gradient - slope).std()) / gradient.numel() ** 0.5
    assert float((gradient - slope).abs().max()) < 0.6
    again = classifier.losses(images[None], zeros(count), powers, draws(count))
    torch.testing.assert_close(again[0], loss, rtol=1e-5, atol=0)


def test_a_network_on_the_integer_grid_sees_the_grid_alone() -> None:
    class Watching(Raw):
        seen: list[torch.Tensor]

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.seen.append(images.detach())
            return super().forward(images)

    model = Watching()
    model.seen = []
    classifier, images = SmoothedClassifier(model, 0.3, draws=3, votes=6, noise="integer_grid"), random_images(4)
    classifier.gradient(images, zeros(4), cubes, draws(4))
    classifier.losses(images[None], zeros(4), cubes, draws(4))
    classifier.lead(images, zeros(4), draws(4))
    for seen in model.seen:
        whole = (seen.double() * 255).round()
        assert torch.equal((whole.float() / 255), seen)
    assert len(model.seen) == 4


@pytest.mark.parametrize("kind", ["gaussian", "integer_grid", "laplace", "uniform"])
def test_votes_and_views_are_of_the_kind_of_noise(kind: str) -> None:
    """One pixel at 0.3 under a threshold at 0: the share of votes against it is the kind's tail."""
    ideal = {"gaussian": stats.norm, "integer_grid": stats.norm, "laplace": stats.laplace(scale=1 / 2**0.5),
             "uniform": stats.uniform(-(3**0.5), 2 * 3**0.5)}[kind]
    model, noise, votes = Halfspace(torch.tensor([1.0])), 0.25, 40_000
    image = torch.full((1, 1, 1, 1), 0.3)
    classifier = SmoothedClassifier(model, noise, draws=1000, objective="both", votes=votes, noise=kind)
    for view in [classifier, *classifier.views()]:
        assert (view.noise.name, view.noise_std) == (kind, noise)  # type: ignore[attr-defined]
        against = ideal.cdf(-0.3 / noise)
        lead = float(view.lead(image, torch.ones(1).long(), draws(1)))
        rounding = 0.3 / 255 / noise if kind == "integer_grid" else 0.0
        assert lead == pytest.approx(2 * against - 1, abs=10 * (against * (1 - against) / votes) ** 0.5 + rounding)


def test_a_kind_that_there_is_not_is_named() -> None:
    with pytest.raises(Wrong, match="noise"):
        SmoothedClassifier(Raw(), 0.3, noise="pepper")


def test_noise_of_an_attack_adds_to_gaussian_kinds_only() -> None:
    attack = SecondOrder(form="averaged", noise_std=0.2, add_noise=True, steps=2, budget=0.1)
    images, labels = random_images(2), zeros(2)
    for kind in ("gaussian", "integer_grid"):
        both = attack(SmoothedClassifier(curved(), 0.35, noise=kind), images, labels, draws(2))
        wider = SmoothedClassifier(curved(), (0.35**2 + 0.2**2) ** 0.5, noise=kind)
        assert torch.equal(both, SecondOrder(form="averaged", steps=2, budget=0.1)(wider, images, labels, draws(2)))
    for kind in ("laplace", "uniform"):
        with pytest.raises(Wrong, match="add_noise"):
            attack(SmoothedClassifier(curved(), 0.35, noise=kind), images, labels, draws(2))
