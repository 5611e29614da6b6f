"""What the bounds of layers and margins must not depend on, and how they depend on what they do: radius, scale, batch, memory,
gradients, the units of the images."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from relu_networks import KINDS, NORMS, linear, network, normal, of_margins, pictures, read_shape
from torch import nn

from robust_cli.messages import Wrong
from robust_cli.models.classifier import classifier
from robust_cli.verification import bounds
from robust_cli.verification.bounds import Ball, layer_bounds, margins
from robust_cli.verification.relaxation import RELAXATIONS

every_norm = pytest.mark.parametrize("norm", NORMS)
every_relaxation = pytest.mark.parametrize("relaxation", RELAXATIONS)
every_kind = pytest.mark.parametrize("kind", KINDS)
either = pytest.mark.parametrize(("norm", "relaxation"), [*zip(NORMS, RELAXATIONS, strict=True)])  # have no say together


@every_norm
@every_relaxation
def test_no_margin_is_above_that_of_the_image_itself(norm: str, relaxation: str) -> None:
    """And that of the label with itself is 0 at every radius."""
    model, (images, labels) = network("odd"), pictures(4)
    for radius in (1e-3, 0.03, 1.0, 30.0):
        found = margins(read_shape(model, images), images, labels, Ball(norm, radius), relaxation)
        assert bool((found <= of_margins(model(images), labels) + 1e-12).all())
        assert found.gather(1, labels[:, None]).abs().max() == 0


def test_boxes_of_the_first_relus_grow_with_the_ball() -> None:
    """They are exact, and so one within the other: also l2 in linf of the same radius, and linf in l2 of sqrt(d) times it.
    Bounds of later layers need not be: the lines change with the boxes."""
    model, (images, _) = network("odd"), pictures(4)
    program, d = read_shape(model, images), images[0].numel()
    balls = [Ball("l2", 0.1), Ball("linf", 0.1), Ball("l2", 0.1 * d**0.5), Ball("linf", 0.1 * d**0.5)]
    boxes = [layer_bounds(program, images, ball)[program.relus[0]] for ball in balls]
    for (lower, upper), (wider_lower, wider_upper) in pairwise(boxes):
        assert bool((wider_lower < lower).all())
        assert bool((wider_upper > upper).all())


@every_norm
@every_relaxation
def test_the_bound_falls_with_the_radius_where_only_upper_lines_are_used(norm: str, relaxation: str) -> None:
    """One hidden layer, a logit that falls with each unit: the bound is then the linear programme's own value."""
    torch.manual_seed(0)
    last = linear([[-0.3, -1.0, -0.5, -0.2, -2.0], [0.0] * 5], [1.0, 0.0])
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5).double(), nn.ReLU(), last)
    images = torch.rand(3, 1, 2, 3, dtype=torch.float64)
    program = read_shape(model, images)
    found = torch.stack([margins(program, images, torch.zeros(3, dtype=torch.long), Ball(norm, radius), relaxation)[:, 1]
                         for radius in torch.linspace(0, 2, 41).tolist()])
    assert bool((found.diff(dim=0) <= 1e-12).all())
    assert bool((found[-1] < found[0] - 0.5).all())


@pytest.mark.parametrize("kind", ["dense", "odd", "residual", "cnn_small"])
@every_norm
@every_relaxation
def test_a_network_without_addends_scales(kind: str, norm: str, relaxation: str) -> None:
    """f(c x) = c f(x) for c > 0, so the bounds around c x at c radius are c times those around x."""
    model, (images, labels) = network(kind), pictures(3)
    with torch.no_grad():
        for name, values in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith(("bias", "mean")):
                values.zero_()
    program = read_shape(model, images)
    found = margins(program, images, labels, Ball(norm, 0.05), relaxation)
    scaled = margins(program, 7 * images, labels, Ball(norm, 0.35), relaxation)
    torch.testing.assert_close(scaled, 7 * found, rtol=1e-10, atol=1e-10)


@every_norm
@every_relaxation
def test_other_names_for_the_classes_give_the_same_bounds(norm: str, relaxation: str) -> None:
    model, (images, labels) = network("cnn_small"), pictures(4)
    before = margins(read_shape(model, images), images, labels, Ball(norm, 0.02), relaxation)
    order, last = torch.tensor([2, 0, 3, 1]), model.get_submodule("network.layers.7")
    with torch.no_grad():
        for values in last.parameters():
            values.copy_(values[order])
    after = margins(read_shape(model, images), images, order.argsort()[labels], Ball(norm, 0.02), relaxation)
    torch.testing.assert_close(after, before[:, order], rtol=1e-10, atol=1e-10)


@every_kind
@either
def test_images_do_not_touch_one_another(kind: str, norm: str, relaxation: str) -> None:
    """Several images with a radius each are the images one by one, whatever the others are."""
    model, (images, labels) = network(kind), pictures(3)
    program, radius = read_shape(model, images), torch.tensor([0.0, 0.01, 0.3], dtype=torch.float64)
    together = margins(program, images, labels, Ball(norm, radius), relaxation)
    boxes = layer_bounds(program, images, Ball(norm, radius), relaxation)
    for i in range(3):
        alone, one = Ball(norm, float(radius[i])), images[i : i + 1]
        found = margins(program, one, labels[i : i + 1], alone, relaxation)
        torch.testing.assert_close(found[0], together[i], rtol=1e-11, atol=1e-11)
        for place, box in layer_bounds(program, one, alone, relaxation).items():
            torch.testing.assert_close(torch.stack(box)[:, 0], torch.stack(boxes[place])[:, i], rtol=1e-11, atol=1e-11)


@every_kind
@either
def test_little_memory_gives_the_same_bounds(kind: str, norm: str, relaxation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's channels a few at a time, which no gradient allows, and all together with one."""
    model, (images, labels) = network(kind), pictures(3)
    program, ball = read_shape(model, images), Ball(norm, 0.05)
    with_gradient = margins(program, images, labels, ball, relaxation)
    assert with_gradient.requires_grad
    for at_once in (1, 3000):
        monkeypatch.setattr(bounds, "_AT_ONCE", at_once)
        with torch.no_grad():
            found = margins(program, images, labels, ball, relaxation)
        torch.testing.assert_close(found, with_gradient, rtol=1e-11, atol=1e-11)


@every_kind
def test_the_gradient_to_the_weights_is_that_of_finite_differences(kind: str) -> None:
    """Along random directions of all weights together, of the first and of one in the middle."""
    model, (images, labels) = network(kind, (1, 6, 5)), pictures(2, (1, 6, 5))
    program, weights = read_shape(model, images), list(model.parameters())
    for norm, relaxation in zip(NORMS, RELAXATIONS, strict=True):
        ball = Ball(norm, 0.1 if norm == "l2" else 0.02)

        def value(ball: Ball = ball, relaxation: str = relaxation) -> torch.Tensor:
            return margins(program, images, labels, ball, relaxation).square().sum()

        gradients = torch.autograd.grad(value(), weights)
        shifts = [normal(*weight.shape, seed=i) for i, weight in enumerate(weights)]
        for chosen in (range(len(weights)), [0], [len(weights) // 2]):
            expected = sum(float((gradients[i] * shifts[i]).sum()) for i in chosen)
            assert _difference(value, [(weights[i], shifts[i]) for i in chosen]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@torch.no_grad()
def _difference(value: Callable[[], torch.Tensor], moves: list[tuple[torch.Tensor, torch.Tensor]], step: float = 1e-7) -> float:
    ends = []
    for way in (step, -2 * step, step):
        for weight, shift in moves:
            weight.add_(way * shift)
        ends.append(float(value()))
    return (ends[0] - ends[1]) / (2 * step)


@every_norm
@every_relaxation
def test_normalisation_folded_into_the_first_layer_changes_nothing(norm: str, relaxation: str) -> None:
    """w ((x - mean) / std) + b is (w / std) x + b - w mean / std: the radius is one of pixels in both."""
    model, folded, images, labels = _normalised_and_folded()
    ball = Ball(norm, 0.05)
    torch.testing.assert_close(folded(images), model(images), rtol=1e-12, atol=1e-12)
    found, expected = (margins(read_shape(network, images), images, labels, ball, relaxation) for network in (folded, model))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@every_norm
def test_a_radius_in_units_of_the_standard_deviation_proves_too_much(norm: str) -> None:
    """The mistake of the method's public code, on the same images: bounds of the normalised image by the pixels' radius. Where
    the standard deviations are below 1 they lie above margins that images of the ball have."""
    model, _, images, labels = _normalised_and_folded()
    ball = Ball(norm, 0.05)
    wrong = margins(read_shape(model[1], images), model[0](images), labels, ball)
    right = margins(read_shape(model, images), images, labels, ball)
    point = images.clone().requires_grad_()
    slope, = torch.autograd.grad(of_margins(model(point), labels)[:, 3].sum(), point)
    unit = slope.sign() if norm == "linf" else slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    reached = of_margins(model(images - ball.radius * unit), labels)[:, 3]
    assert bool((right[:, 3] <= reached).all())
    assert bool((wrong[:, 3] > reached).any())


def _normalised_and_folded() -> tuple[nn.Sequential, nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4))
    model = classifier(body, [0.4, 0.2], [0.5, 0.1]).double().eval()
    first = nn.Conv2d(2, 4, 3).double()
    std, mean = model[0].std, model[0].mean
    with torch.no_grad():
        first.weight.copy_(body[0].weight / std)
        first.bias.copy_(body[0].bias - (body[0].weight * mean / std).sum((1, 2, 3)))
    images, labels = pictures(3)
    return model, nn.Sequential(first, *body[1:]), images, labels


@every_norm
@every_relaxation
def test_float32_gives_nearly_the_same(norm: str, relaxation: str) -> None:
    model, (images, labels) = network("cnn_small"), pictures(3)
    exact = margins(read_shape(model, images), images, labels, Ball(norm, 0.02), relaxation)
    found = margins(read_shape(model.float(), images), images.float(), labels, Ball(norm, torch.full((3,), 0.02)), relaxation)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)


def test_another_norm_is_refused() -> None:
    with pytest.raises(Wrong, match="l2 or linf"):
        Ball("l1", 0.1)
