"""Two-stage linearisation against dense Jacobians, Monte Carlo where it is exact, and the moment regime where both agree."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian
from torch.nn import functional

from robust_cli.messages import UserError, Wrong
from robust_cli.models.classifier import classifier, frozen
from robust_cli.models.first_layer import first_layer
from robust_cli.models.lenet import LeNet
from robust_cli.moments import root
from robust_cli.regimes import two_stage_linearisation
from robust_cli.regimes.batch import Batch, Progress
from robust_cli.regimes.moment import Moment, before_relu, mean_logits
from robust_cli.regimes.two_stage_linearisation import TwoStageLinearisation, linearised_logits, row_variance

PROGRESS = Progress(step=3, epoch=0, total=10, seed=11)


class Net(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def network() -> nn.Sequential:
    """Float64, three ReLUs; the second after a pooling; images [2, 6, 6], 3 classes."""
    torch.manual_seed(3)
    net = Net(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
              nn.Linear(27, 8), nn.ReLU(), nn.Linear(8, 3))
    return classifier(net, [0.5, 0.3], [0.3, 0.6]).double()


def shallow() -> nn.Sequential:
    torch.manual_seed(3)
    net = Net(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    return classifier(net, [0.5, 0.3], [0.3, 0.6]).double()


def batch(n: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(n, 2, 6, 6, dtype=torch.float64, generator=generator), torch.arange(n) % 3, torch.arange(n))


def pixel_map() -> torch.Tensor:
    return 0.05 + torch.rand(2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def by_jacobians(model: nn.Sequential, at: int, image: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """The formula with both Jacobians as dense matrices, for one image [1, ...]; ``at``: the ReLU's position in the layers."""
    layers = model.network.layers
    before, after = nn.Sequential(model.normalisation, *layers[:at]), layers[at + 1 :]
    mean = before(image)
    a = jacobian(before, image).reshape(mean.numel(), -1)
    std = torch.diag(a @ torch.diag(variance.flatten()) @ a.T).sqrt().view(mean.shape)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1)
    rectified = mean.clamp_min(0)
    b = jacobian(after, rectified).reshape(-1, rectified.numel())
    expected = mean * normal.cdf(mean / std) + std * normal.log_prob(mean / std).exp()
    return after(rectified) + (b @ (expected - rectified).flatten())[None]


@pytest.mark.parametrize(("split", "at"), [(1, 1), (2, 4), (3, 7)])
@pytest.mark.parametrize("at_once", [1, 20, 1024])
def test_it_is_the_formula_with_dense_jacobians(split: int, at: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_stage_linearisation, "_AT_ONCE", at_once)
    model, images = network(), batch(3).images
    clean, mean = linearised_logits(first_layer(model, "test"), split, images, pixel_map())
    expected = torch.cat([by_jacobians(model, at, image[None], pixel_map()) for image in images])
    torch.testing.assert_close(mean, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(clean, model(images), rtol=1e-12, atol=0)
    assert (mean - clean).abs().max() > 1e-2


def test_the_three_cuts_differ() -> None:
    model, images = network(), batch().images
    found = [linearised_logits(first_layer(model, "test"), split, images, pixel_map())[1] for split in (1, 2, 3)]
    found.append(mean_logits(first_layer(model, "test"), images, pixel_map())[1])
    for k, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-3 for other in found[:k])


def test_rows_of_the_first_layer_by_both_ways() -> None:
    """Pushing every basis image gives the closed form."""
    model, images = network(), batch().images
    parts = first_layer(model, "test")
    mean, std = before_relu(parts, images, pixel_map())
    assert std.shape == (1, 4, 6, 6)
    pushed = root(row_variance(parts.before, images, pixel_map()))
    torch.testing.assert_close(pushed, std.expand_as(mean), rtol=1e-12, atol=0)


def test_it_is_the_moment_regime_where_the_rest_is_affine() -> None:
    model, given = shallow(), batch()
    ours = TwoStageLinearisation(noise_std=0.4, weight=2.0, channel_factors=[1.0, 0.5]).loss(model, given, PROGRESS)
    other = Moment(noise_std=0.4, weight=2.0, channel_factors=[1.0, 0.5]).loss(model, given, PROGRESS)
    torch.testing.assert_close(ours.total, other.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.terms["linearised"], other.terms["moment"], rtol=1e-12, atol=0)
    weights = list(model.parameters())
    for a, b in zip(torch.autograd.grad(ours.total, weights), torch.autograd.grad(other.total, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_a_deeper_cut_is_exact_where_all_before_it_is_linear() -> None:
    """The first ReLU's units are always on, so both Upsilon and Omega are affine: within five standard errors of 40,000 draws."""
    torch.manual_seed(5)
    net = Net(nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))
    model, images = classifier(net, [0.5, 0.3], [0.6, 0.6]).double(), batch(2).images
    with torch.no_grad():
        net.layers[0].bias += 60
        net.layers[3].bias -= net.layers[3].weight.sum(1) * 60
        net.layers[3].weight *= 2
        net.layers[3].bias *= 2
        noise = torch.randn(40_000, 2, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        found = model((images + pixel_map().sqrt() * noise).flatten(0, 1)).view(40_000, 2, 3)
        clean, mean = linearised_logits(first_layer(model, "test"), 2, images, pixel_map())
    error = found.std(0) / 200
    assert ((found.mean(0) - mean).abs() < 5 * error).all()
    assert ((found.mean(0) - clean).abs() > 20 * error).any()


@pytest.mark.parametrize("split", [1, 2, 3])
def test_the_gradient_of_the_whole_loss(split: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through A, B, T and the clean logits, by finite differences along random directions of all weights, in several chunks."""
    monkeypatch.setattr(two_stage_linearisation, "_AT_ONCE", 100)
    model, given, regime = network(), batch(), TwoStageLinearisation(noise_std=0.7, weight=3.0, split=split)
    weights = list(model.parameters())
    slopes = torch.autograd.grad(regime.loss(model, given, PROGRESS).total, weights)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        ways = [torch.randn(w.shape, dtype=torch.float64, generator=generator) for w in weights]
        values = []
        for size in (1e-6, -2e-6):
            with torch.no_grad():
                for w, way in zip(weights, ways, strict=True):
                    w += size * way
                values.append(regime.loss(model, given, PROGRESS).total)
        with torch.no_grad():
            for w, way in zip(weights, ways, strict=True):
                w += 1e-6 * way
        exact = sum(float((s * way).sum()) for s, way in zip(slopes, ways, strict=True))
        assert exact == pytest.approx(float(values[0] - values[1]) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("split", [1, 2])
def test_limits(split: int) -> None:
    model, given = network(), batch()
    standard = functional.cross_entropy(model(given.images), given.labels)
    still = TwoStageLinearisation(noise_std=0.0, weight=1.5, split=split).loss(model, given, PROGRESS)
    torch.testing.assert_close(still.total, 2.5 * standard)
    assert all(bool(torch.isfinite(s).all()) for s in torch.autograd.grad(still.total, list(model.parameters())))
    torch.testing.assert_close(TwoStageLinearisation(weight=0.0, split=split).loss(model, given, PROGRESS).total, standard)


def test_the_weight_rises_and_the_noise_is_known() -> None:
    model, given, regime = network(), batch(), TwoStageLinearisation(noise_std=0.3, weight=2.0, weight_warmup=0.5)
    for step, share in ((0, 0.2), (3, 0.8), (9, 1.0)):
        found = regime.loss(model, given, Progress(step, 0, 10, 0))
        torch.testing.assert_close(found.total, found.terms["cross_entropy"] + 2 * share * found.terms["linearised"])
    assert regime.noise_std == 0.3


@pytest.mark.parametrize("split", [1, 2])
def test_in_evaluation_and_in_narrow_arithmetic(split: int) -> None:
    torch.manual_seed(0)
    model, regime = classifier(LeNet((1, 8, 8), 3), [0.5], [0.5]), TwoStageLinearisation(split=split)
    given = Batch(torch.rand(6, 1, 8, 8), torch.arange(6) % 3, torch.arange(6))
    exact = regime.loss(model, given, PROGRESS)
    with frozen(model), torch.no_grad():
        torch.testing.assert_close(regime.loss(model, given, PROGRESS).total, exact.total)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = regime.loss(model, given, PROGRESS)
    torch.testing.assert_close(narrow.total, exact.total, rtol=0.02, atol=0)
    narrow.total.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_dropout_after_the_cut_is_the_same_for_both_parts() -> None:
    """With everything dropped but the biases, the clean logits and the mean are the biases."""
    net = Net(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Dropout(1.0), nn.Flatten(), nn.Linear(64, 3))
    model = classifier(net, [0.5, 0.3], [0.3, 0.6]).double()
    clean, mean = linearised_logits(first_layer(model, "test"), 1, batch().images, pixel_map())
    torch.testing.assert_close(clean, net.layers[4].bias.expand(4, -1))
    torch.testing.assert_close(mean, clean)


def test_padding_that_repeats_pixels_goes_by_the_jacobian() -> None:
    torch.manual_seed(0)
    net = Net(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    model, images = classifier(net, [0.5, 0.3], [0.3, 0.6]).double(), batch(2).images
    mean = linearised_logits(first_layer(model, "test"), 1, images, pixel_map())[1]
    expected = torch.cat([by_jacobians(model, 1, image[None], pixel_map()) for image in images])
    torch.testing.assert_close(mean, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("layers", "split", "words"), [
    ([nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)], 2, "at most 1.*got 2"),
    ([nn.Conv2d(2, 4, 3), nn.ELU(), nn.Flatten(), nn.Linear(64, 3)], 1, "at most 0.*got 1"),
    ([nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)], 1, "without batch normalisation"),
    ([nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 3)], 2,
     "no dropout before")])
def test_what_it_cannot_cut_is_refused(layers: list[nn.Module], split: int, words: str) -> None:
    model = classifier(Net(*layers), [0.5, 0.5], [0.5, 0.5]).double()
    with pytest.raises(UserError, match=words) as caught:
        TwoStageLinearisation(split=split).loss(model, batch(), PROGRESS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("noise_std", -0.1), ("weight", float("inf")), ("weight_warmup", 2.0), ("split", 0),
                                             ("channel_factors", [-1.0])])
def test_settings_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(Wrong) as caught:
        TwoStageLinearisation(**{name: value})  # type: ignore[arg-type]
    assert caught.value.name == name
