"""A convolution that is kept at an operator norm of at most about 1, and the network that begins with one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from robust_cli.messages import Wrong
from robust_cli.models.bounded_convolution import bounded
from robust_cli.models.classifier import classifier
from robust_cli.models.cnn_pixeldp import CnnPixelDP
from robust_cli.models.first_layer import first_layer
from robust_cli.models.operator_norm import norm_bound
from robust_cli.models.pixel_map import PixelMap
from robust_cli.models.weights import fingerprint, load, save

SHAPE = (1, 12, 12)


def model(shape: tuple[int, int, int] = SHAPE, std: float = 1.0, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return classifier(CnnPixelDP(shape, 10, width=4), [0.5] * shape[0], [std] * shape[0])


def norm_of(made: nn.Module, shape: tuple[int, int, int] = SHAPE) -> float:
    return norm_bound(PixelMap(first_layer(made, "test"), shape, "test"))


def original(made: nn.Module) -> torch.Tensor:
    return made.get_parameter("network.layers.0.parametrizations.weight.original")


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 4, 4), (1, 8, 5)])
def test_the_network_takes_images_of_any_size_and_begins_with_a_norm_of_at_most_one(shape: tuple[int, int, int]) -> None:
    made = model(shape).eval()
    assert made(torch.rand(2, *shape)).shape == (2, 10)
    assert 0.5 < norm_of(made, shape) < 1.02
    assert norm_of(model(shape, std=0.25).eval(), shape) < 4.08  # of the layer alone: in pixel units over the std


def test_training_keeps_the_norm_near_one_however_large_the_weights_grow() -> None:
    made = model().train()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.5)
    for step in range(40):
        with torch.no_grad():
            original(made).add_(0.05 * torch.randn(original(made).shape, generator=torch.Generator().manual_seed(step)))
        images = torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(made(images), torch.arange(16) % 10)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert original(made).norm() > 2 * first_layer(made.eval(), "test").affine.weight.norm()
    assert 0.99 < norm_of(made) < 1.02


def test_a_layer_below_one_is_left_as_it_is_and_has_its_own_gradient() -> None:
    layer = nn.Conv2d(1, 3, 3)
    with torch.no_grad():
        layer.weight.mul_(0.01)
    before = layer.weight.detach().clone()
    made = bounded(layer, SHAPE)
    assert torch.equal(made.weight, before)
    made.weight.sum().backward()
    assert torch.equal(made.parametrizations.weight.original.grad, torch.ones_like(before))


def test_the_gradient_knows_the_norm() -> None:
    """w / s(w) does not change with w's length, so the gradient is orthogonal to w; its other parts are those of differences."""
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 3, 3, stride=2, padding=1).double()
    made = bounded(layer, (1, 7, 7)).double()
    for _ in range(300):
        made.weight  # noqa: B018  # each access in training is a few steps of power iteration
    with torch.no_grad():
        made.parametrizations.weight.original.mul_(20)
    weight, direction = made.parametrizations.weight.original, torch.randn(3, 1, 3, 3).double()
    (made.weight * direction).sum().backward()
    assert abs(float((weight.grad * weight.detach()).sum())) < 1e-9
    step, values = torch.randn(3, 1, 3, 3).double(), []
    for sign in (1, -1):
        with torch.no_grad():
            moved = weight + sign * 1e-5 * step
            size = torch.linalg.svdvals(_matrix(moved))[0]
            values.append(float((moved / size * direction).sum()))
    assert float((weight.grad * step).sum()) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    basis = torch.eye(49, dtype=torch.float64).view(49, 1, 7, 7)
    return nn.functional.conv2d(basis, weight, None, 2, 1).flatten(1).T


def test_evaluation_and_frozen_passes_change_nothing_and_training_does() -> None:
    made = model()
    direction = made.get_buffer("network.layers.0.parametrizations.weight.0.direction")
    with torch.no_grad():
        original(made).mul_(torch.rand(original(made).shape) * 10)
    kept = direction.clone()
    made.eval()(torch.rand(2, *SHAPE))
    with torch.no_grad():
        made.train()(torch.rand(2, *SHAPE))
    assert torch.equal(direction, kept)
    made.train()(torch.rand(2, *SHAPE))
    assert not torch.equal(direction, kept)


def test_two_passes_before_one_backward_are_fine() -> None:
    made = model().train()
    (made(torch.rand(2, *SHAPE)) + made(torch.rand(2, *SHAPE))).sum().backward()
    assert original(made).grad is not None


def test_weights_and_their_direction_are_saved_and_read_back(tmp_path: Path) -> None:
    made, other = model(seed=0).train(), model(seed=1)
    made(torch.rand(4, *SHAPE)).sum().backward()
    save(made.eval(), tmp_path / "m.safetensors")
    load(other.eval(), tmp_path / "m.safetensors")
    images = torch.rand(3, *SHAPE)
    assert torch.equal(made(images), other(images))
    assert fingerprint(made, {}, "fp32") == fingerprint(other, {}, "fp32")
    assert norm_of(made) == norm_of(other)


def test_a_layer_of_zeros_is_no_division_by_zero() -> None:
    layer = nn.Conv2d(1, 2, 3)
    nn.init.zeros_(layer.weight)
    made = bounded(layer, SHAPE)
    made.weight.sum().backward()
    assert torch.isfinite(made.weight).all()
    assert torch.isfinite(made.parametrizations.weight.original.grad).all()


def test_a_width_of_none_is_refused() -> None:
    with pytest.raises(Wrong, match="width"):
        CnnPixelDP(SHAPE, 10, width=0)
