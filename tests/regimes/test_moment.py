"""The analytic mean as a training loss: oracles, Monte Carlo, limits, gradients, cost and what it refuses."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional

from robust_cli.composing.build import build
from robust_cli.messages import UserError, Wrong
from robust_cli.models.classifier import classifier, frozen
from robust_cli.models.cnn7 import Cnn7
from robust_cli.models.first_layer import first_layer
from robust_cli.models.lenet import LeNet
from robust_cli.regimes.batch import Batch, Progress
from robust_cli.regimes.moment import FITTING, Moment, affine_then_relu, mean_logits, pixel_variance

PROGRESS = Progress(step=3, epoch=0, total=10, seed=11)
CONF = Path(__file__).resolve().parents[2] / "conf" / "model"


class Net(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def convolutional(hidden: int = 1, channels: int = 2, std: tuple[float, ...] = (0.3, 0.7)) -> nn.Sequential:
    """Float64: a convolution with padding and stride, ReLU, then one dense layer or more; images [channels, 5, 5], 3 classes."""
    torch.manual_seed(4)
    more = [layer for _ in range(hidden - 1) for layer in (nn.Linear(36, 36), nn.ReLU())]
    net = Net(nn.Conv2d(channels, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), *more, nn.Linear(36, 3))
    return classifier(net, [0.4] * channels, std[:channels]).double()


def batch(n: int = 5, channels: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(n, channels, 5, 5, generator=generator).double(), torch.arange(n) % 3, torch.arange(n))


def test_the_net_whose_mean_is_known() -> None:
    """Hidden width 4, noise of three sizes, behind a normalisation: E g = (2.40000435774, -1.04701611890)."""
    affine, last = nn.Linear(3, 4), nn.Linear(4, 2)
    model = classifier(Net(nn.Flatten(), affine, nn.ReLU(), last), [0.5, 0.1, -0.2], [0.25, 2.0, 0.5]).double()
    with torch.no_grad():
        affine.weight.copy_(torch.tensor([[1, -2, 0.5], [0.5, 1, -1], [-1.5, 0.25, 2], [0, 1, 1]]))
        affine.bias.copy_(torch.tensor([0.1, -0.3, 0.2, -0.5], dtype=torch.float64))
        last.weight.copy_(torch.tensor([[1, -1, 0.5, 2], [0.3, 0.7, -1.2, 0.4]], dtype=torch.float64))
        last.bias.copy_(torch.tensor([0.05, -0.1], dtype=torch.float64))
        mean, std = model.normalisation.mean, model.normalisation.std
        images = torch.tensor([0.2, -0.4, 0.7], dtype=torch.float64).view(1, 3, 1, 1) * std + mean
        variance = torch.tensor([0.09, 0.25, 0.04], dtype=torch.float64).view(3, 1, 1) * std**2
        clean, averaged = mean_logits(affine_then_relu(model, "regime=moment"), images, variance)
    expected = torch.tensor([[2.4000043577423, -1.0470161188977]], dtype=torch.float64)
    torch.testing.assert_close(averaged, expected, rtol=0, atol=2e-7)  # the normalisation's numbers are float32
    assert (averaged - clean).abs().max() > 0.02


def sampled(model: nn.Module, images: torch.Tensor, std: torch.Tensor, draws: int) -> torch.Tensor:
    """Logits [draws, n, K] of images with noise of this standard deviation."""
    noise = torch.randn(draws, *images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model((images + std * noise).flatten(0, 1)).view(draws, len(images), -1)


def test_one_hidden_layer_is_exact() -> None:
    """Within five standard errors of the mean logits of 60,000 noisy images; the clean logits are far outside. The noise is in
    pixel units, of another size at each pixel, and the normalisation differs by channel."""
    model, images = convolutional(), batch(3).images
    std = 0.2 + torch.rand(2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    found = sampled(model, images, std, 60_000)
    error = found.std(0) / len(found) ** 0.5
    with torch.no_grad():
        clean, mean = mean_logits(first_layer(model, "test"), images, std.square())
    assert ((found.mean(0) - mean).abs() < 5 * error).all()
    assert ((found.mean(0) - clean).abs() > 5 * error).all()
    assert ((found.mean(0) - clean).abs() > 50 * error).any()


def test_each_image_may_have_noise_of_its_own() -> None:
    model, images = convolutional(), batch(2).images
    variance = torch.rand(2, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    parts = first_layer(model, "test")
    both = mean_logits(parts, images, variance)[1]
    for k in range(2):
        torch.testing.assert_close(both[k : k + 1], mean_logits(parts, images[k : k + 1], variance[k])[1], rtol=1e-12, atol=0)


def test_the_loss_is_the_sum_of_its_terms() -> None:
    """Against the formula written out with the dense matrix of the convolution."""
    model, given = convolutional(), batch()
    found = Moment(noise_std=0.4, weight=1.7).loss(model, given, PROGRESS)
    layer, last = model.network.layers[0], model.network.layers[3]
    inputs = (given.images - 0.4) / model.normalisation.std
    basis = torch.eye(50, dtype=torch.float64).view(50, 2, 5, 5)
    matrix = (functional.conv2d(basis, layer.weight, None, 2, 1)).flatten(1).T
    mean = inputs.flatten(1) @ matrix.T + layer.bias.repeat_interleave(9)
    sigma = (0.4 / model.normalisation.std.double()).expand(2, 5, 5).flatten()
    std = torch.sqrt(torch.diag(matrix @ torch.diag(sigma**2) @ matrix.T))
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1)
    hidden = mean * normal.cdf(mean / std) + std * normal.log_prob(mean / std).exp()
    term = functional.cross_entropy(last(hidden), given.labels)
    plain = functional.cross_entropy(last(mean.relu()), given.labels)
    torch.testing.assert_close(found.terms["moment"], term, rtol=1e-6, atol=0)  # 0.4 is a float32 in the normalisation
    torch.testing.assert_close(found.terms["cross_entropy"], plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.total, found.terms["cross_entropy"] + 1.7 * found.terms["moment"])


def test_the_loss_of_the_mean_is_at_most_the_mean_loss() -> None:
    """Jensen, strict here: equation 2 against equation 1 over 20,000 draws."""
    model, given = convolutional(), batch()
    with torch.no_grad():
        term = Moment(noise_std=0.5).loss(model, given, PROGRESS).terms["moment"]
    logits = sampled(model, given.images, torch.tensor(0.5), 20_000)
    losses = functional.cross_entropy(logits.transpose(1, 2), given.labels.expand(20_000, -1), reduction="none").mean(1)
    assert float(term) < float(losses.mean()) - 5 * float(losses.std()) / 20_000**0.5


def test_limits() -> None:
    model, given = convolutional(hidden=2), batch()
    standard = functional.cross_entropy(model(given.images), given.labels)
    torch.testing.assert_close(Moment(noise_std=0.0, weight=1.5).loss(model, given, PROGRESS).total, 2.5 * standard)
    found = Moment(noise_std=0.6, weight=0.0).loss(model, given, PROGRESS)
    torch.testing.assert_close(found.total, standard)
    assert (found.terms["moment"] - found.terms["cross_entropy"]).detach().abs() > 1e-3
    for a, b in zip(torch.autograd.grad(found.total, list(model.parameters())),
                    torch.autograd.grad(standard, list(model.parameters())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


def test_the_weight_rises() -> None:
    model, given = convolutional(), batch()
    for step, share in ((0, 0.2), (3, 0.8), (4, 1.0), (9, 1.0)):
        found = Moment(weight=2.0, weight_warmup=0.5).loss(model, given, Progress(step, 0, 10, 0))
        torch.testing.assert_close(found.total, found.terms["cross_entropy"] + 2 * share * found.terms["moment"])


def test_noise_of_another_size_in_each_channel() -> None:
    factors = pixel_variance(0.5, [2.0, 0.0], batch().images)
    assert factors.tolist() == [[[1.0]], [[0.0]]]
    assert pixel_variance(0.5, None, batch().images).tolist() == [[[0.25]], [[0.25]]]
    model, given = convolutional(), batch()
    loss = Moment(noise_std=0.5, channel_factors=[1.0, 1.0]).loss(model, given, PROGRESS).total
    torch.testing.assert_close(loss, Moment(noise_std=0.5).loss(model, given, PROGRESS).total)
    other = Moment(noise_std=0.5, channel_factors=[1.0, 3.0]).loss(model, given, PROGRESS).total
    assert (other - loss).detach().abs() > 1e-3
    with pytest.raises(UserError, match="channel_factors: expected 2 number"):
        Moment(channel_factors=[1.0]).loss(model, given, PROGRESS)


def directional(model: nn.Module, regime: Moment, given: Batch, seed: int) -> tuple[float, float]:
    """The loss's slope along one random direction of all weights: by finite differences, and by its gradient."""
    weights = list(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    ways = [torch.randn(w.shape, dtype=torch.float64, generator=generator) for w in weights]
    slopes = torch.autograd.grad(regime.loss(model, given, PROGRESS).total, weights)
    values = []
    for size in (1e-6, -1e-6):
        with torch.no_grad():
            for w, way in zip(weights, ways, strict=True):
                w += size * way
            values.append(float(regime.loss(model, given, PROGRESS).total.detach()))
            for w, way in zip(weights, ways, strict=True):
                w -= size * way
    return (values[0] - values[1]) / 2e-6, sum(float((s * w).sum()) for s, w in zip(slopes, ways, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_of_the_whole_loss(seed: int) -> None:
    """Through the mean, the standard deviation and the layers after."""
    numeric, exact = directional(convolutional(hidden=2), Moment(noise_std=0.8, weight=3.0), batch(), seed)
    assert exact == pytest.approx(numeric, rel=1e-6)


def test_a_filter_without_weights_trains_on() -> None:
    model, given = convolutional(), batch()
    with torch.no_grad():
        model.network.layers[0].weight[1] = 0
        model.network.layers[0].bias[1] = 0
    loss = Moment().loss(model, given, PROGRESS).total
    assert all(bool(torch.isfinite(slope).all()) for slope in torch.autograd.grad(loss, list(model.parameters())))


def test_the_first_layer_runs_once_and_the_rest_once_on_both() -> None:
    """The price: one pass of the first layer over n images and one pass of the rest over 2 n, beside its variance for one."""
    model = classifier(LeNet((1, 8, 8), 3), [0.5], [0.5])
    seen: Counter[tuple[str, int]] = Counter()
    for name, layer in model.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _, args, out, name=name: seen.update([(name, len(args[0]))]))
    images = torch.rand(6, 1, 8, 8)
    Moment().loss(model, Batch(images, torch.arange(6) % 3, torch.arange(6)), PROGRESS)
    expected = {("normalisation", 6): 1, ("network.layers.0", 6): 1, **{(f"network.layers.{k}", 12): 1 for k in range(2, 10)}}
    assert seen == expected


def test_in_evaluation_and_in_narrow_arithmetic() -> None:
    model = classifier(LeNet((1, 8, 8), 3), [0.5], [0.5])
    given = Batch(torch.rand(6, 1, 8, 8), torch.arange(6) % 3, torch.arange(6))
    exact = Moment().loss(model, given, PROGRESS)
    with frozen(model), torch.no_grad():
        torch.testing.assert_close(Moment().loss(model, given, PROGRESS).total, exact.total)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = Moment().loss(model, given, PROGRESS)
    assert narrow.total.dtype == torch.float32
    torch.testing.assert_close(narrow.total, exact.total, rtol=0.02, atol=0)
    narrow.total.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_batch_statistics_are_those_of_both() -> None:
    norm = nn.BatchNorm2d(4, momentum=1.0)
    torch.manual_seed(0)
    model = classifier(Net(nn.Conv2d(1, 4, 3), nn.ReLU(), norm, nn.Flatten(), nn.Linear(36, 3)), [0.5], [0.5])
    given = batch(channels=1)
    images = given.images.float()
    parts = first_layer(model, "test")
    seen: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    mean_logits(parts, images, torch.tensor(0.25).view(1, 1, 1))
    torch.testing.assert_close(norm.running_mean, seen[0].mean((0, 2, 3)))
    assert len(seen[0]) == 2 * len(images)


def test_the_models_that_fit_are_those_named() -> None:
    """Every shipped model that is built from its config, without weights where that can be done."""
    fits = []
    for file in sorted(CONF.glob("*.yaml")):
        node = yaml.safe_load(file.read_text())
        if "???" in node.values():
            continue
        with torch.device("cpu" if file.stem == "cnn_pixeldp" else "meta"), contextlib.suppress(UserError):
            model = classifier(build(node, "model", shape=(3, 32, 32), classes=10), [0.5] * 3, [0.5] * 3)
            affine_then_relu(model, "regime=moment")
            fits.append(file.stem)
    assert sorted(FITTING) == fits


@pytest.mark.parametrize(("network", "found"), [
    (Cnn7((1, 8, 8), 3), "Conv2d with ELU"),
    (Net(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)), "Conv2d with MaxPool2d"),
    (Net(nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)), "reflect padding")])
def test_a_model_that_begins_otherwise_is_refused(network: nn.Module, found: str) -> None:
    given = Batch(torch.rand(2, 1, 8, 8), torch.arange(2), torch.arange(2))
    with pytest.raises(UserError, match=rf"^regime=moment: .*{found}.*lenet, alexnet") as caught:
        Moment().loss(classifier(network, [0.5], [0.5]), given, PROGRESS)
    assert "\n" not in str(caught.value)


def test_the_noise_is_known_to_whoever_certifies() -> None:
    assert Moment(noise_std=0.3).noise_std == 0.3


@pytest.mark.parametrize(("name", "value"), [("noise_std", -0.1), ("noise_std", float("nan")), ("weight", -1.0),
                                             ("weight_warmup", 1.5), ("channel_factors", []), ("channel_factors", [1.0, -1.0])])
def test_settings_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(Wrong) as caught:
        Moment(**{name: value})  # type: ignore[arg-type]
    assert caught.value.name == name
