"""The penalty on kernels: which weights it counts, its gradient, and the optimiser's decay beside it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from toy_victims import Halfspace, uneven_weights
from watching import PROGRESS, batch, learnt

from robust_cli.messages import UserError, Wrong
from robust_cli.models.classifier import classifier, frozen
from robust_cli.models.cnn7 import Cnn7
from robust_cli.regimes.batch import Batch
from robust_cli.regimes.standard import Standard
from robust_cli.regimes.weight_decay import WeightDecay, squared_kernels


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.ConvTranspose2d(2, 2, 2), nn.LayerNorm([2, 3, 3]),
                         nn.PReLU(2), nn.Flatten(), nn.Linear(18, 3))


KERNELS = {"0.weight", "3.weight", "7.weight"}


def by_hand(model: nn.Module) -> float:
    return sum(float((weight.detach().double() ** 2).sum()) for name, weight in model.named_parameters() if name in KERNELS)


def test_half_the_weight_times_the_squares_of_kernels_alone() -> None:
    model, images = network(), batch()
    found = WeightDecay(weight=0.3).loss(model, images, PROGRESS)
    penalty = 0.15 * by_hand(model)
    alone = Standard().loss(model, images, PROGRESS).total
    assert found.terms["weight_decay"].item() == pytest.approx(penalty, rel=1e-5)
    torch.testing.assert_close(found.terms["cross_entropy"], alone)
    assert float(found.total.detach()) == pytest.approx(float(alone.detach()) + penalty, rel=1e-5)


def test_the_gradient_is_the_weight_times_the_kernels_and_nothing_for_the_rest() -> None:
    model, images = network(), batch()
    _, found = learnt(WeightDecay(weight=0.3), model, images)
    _, alone = learnt(Standard(), model, images)
    for (name, weight), g, g0 in zip(model.named_parameters(), found, alone, strict=True):
        expected = 0.3 * weight.detach() if name in KERNELS else torch.zeros_like(weight)
        torch.testing.assert_close(g - g0, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
def test_a_step_is_that_of_the_optimisers_decay_where_there_are_kernels_alone(optimiser: type) -> None:
    """Without biases both are the same; with them the optimiser's decay moves them and this penalty does not."""
    images, ends = batch(), []
    start = nn.Sequential(nn.Flatten(), nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    for regime, decay in ((WeightDecay(weight=0.3), 0.0), (Standard(), 0.3)):
        model = copy.deepcopy(start)
        steps = optimiser(model.parameters(), lr=0.1, weight_decay=decay)
        for _ in range(3):
            steps.zero_grad()
            regime.loss(model, images, PROGRESS).total.backward()
            steps.step()
        ends.append([weight.detach() for weight in model.parameters()])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ends[0][0], start[1].weight, atol=1e-2)


def test_weight_zero_is_standard_training_and_zero_kernels_have_no_slope() -> None:
    model, images = network(), batch()
    assert WeightDecay(weight=0.0).loss(model, images, PROGRESS).total == Standard().loss(model, images, PROGRESS).total
    with torch.no_grad():
        model[7].weight.zero_()
    _, gradients = learnt(WeightDecay(weight=1.0), model, images)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_shared_kernel_counts_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    found = squared_kernels(nn.Sequential(first, second, first))
    torch.testing.assert_close(found, first.weight.square().sum())


def test_the_published_penalty_of_cnn7_is_twice_its_factor() -> None:
    """1e-4 times the squared norm of all kernels."""
    torch.manual_seed(0)
    model = classifier(Cnn7((3, 8, 8), 10), [0.5] * 3, [0.25] * 3)
    kernels = [weight for name, weight in model.named_parameters() if name.endswith("weight")]
    assert len(kernels) == 7
    images = Batch(torch.rand(2, 3, 8, 8), torch.arange(2), torch.arange(2))
    found = WeightDecay(weight=2e-4).loss(model, images, PROGRESS).terms["weight_decay"]
    assert found.item() == pytest.approx(1e-4 * sum(float(kernel.detach().square().sum()) for kernel in kernels), rel=1e-5)


def test_validation_and_bf16() -> None:
    model, images = network().eval(), batch()
    expected = WeightDecay(weight=0.3).loss(model, images, PROGRESS)
    with frozen(model), torch.no_grad():
        torch.testing.assert_close(WeightDecay(weight=0.3).loss(model, images, PROGRESS).total, expected.total.detach())
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = learnt(WeightDecay(weight=0.3), model, images)
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.terms["weight_decay"], expected.terms["weight_decay"])


def test_a_model_without_kernels_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="found none; take regime=standard"):
        WeightDecay().loss(Halfspace(uneven_weights()), batch(classes=2), PROGRESS)


@pytest.mark.parametrize("weight", [-1e-4, math.nan, math.inf])
def test_a_weight_out_of_range_is_named(weight: float) -> None:
    with pytest.raises(Wrong, match="weight: expected a number >= 0"):
        WeightDecay(weight=weight)
    assert WeightDecay().noise_std is None
