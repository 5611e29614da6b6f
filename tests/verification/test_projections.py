"""Random projections estimate the exact bounds of every network that those take, can be trained with, and are no bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from relu_networks import KINDS, NORMS, network, normal, pictures, read_shape, trained
from torch import nn
from torch.nn import functional

from robust_cli.messages import Wrong
from robust_cli.verification import projections
from robust_cli.verification.bounds import Ball, Box, layer_bounds, margins
from robust_cli.verification.parts import Part
from robust_cli.verification.program import Program
from robust_cli.verification.projections import l2_estimate, projected_bounds, projected_margins
from robust_cli.verification.reading import read

RADII = {"l2": 0.5, "linf": 0.1}  # so large that many units are unstable
DEVIATION = {"l2": math.sqrt(1 / 2), "linf": math.pi / 2}  # of an estimate over its norm, times the root of k
Estimate = Callable[[torch.Tensor], torch.Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- Layers -------------------------------------------------------------------------------------------------------------------

class Guided(projections._Projected):
    """Notes each layer's estimate and goes on with the exact bounds, so that a layer's errors are its own."""

    def __init__(self, program: Program, images: torch.Tensor, ball: Ball, k: int, seed: int) -> None:
        super().__init__(program, images, ball, k, seeded(seed))
        exact = layer_bounds(program, images, ball)
        self.exact = {program.nodes[place].inputs[0]: box for place, box in exact.items()}
        self.off_middle, self.off_width = [], []

    def _box(self, place: int) -> Box:
        estimates, exact = super()._box(place), self.exact[place]
        width = exact[1] - exact[0]
        self.off_middle.append(float(((sum(estimates) - sum(exact)).abs() / width).max()))
        self.off_width.append(float(((estimates[1] - estimates[0]) / width - 1).mean()))
        return exact


def centred(kind: str, norm: str, k: int = 30, calls: int = 40) -> None:
    """Every layer's middle is exact, and its width right in the mean over calls: within 5 standard errors, at most those of one
    value's estimate, and the bias of a median, which is pi^2 / 8 / k of what it estimates to the first order."""
    images, _ = pictures(1)
    program, ball = read_shape(network(kind), images), Ball(norm, RADII[norm])
    works = [Guided(program, images, ball, k, seed) for seed in range(calls)]
    for work in works:
        work.boxes()
        assert max(work.off_middle) < 1e-9, f"{kind}, {norm}: the middle of ReLU {work.off_middle.index(max(work.off_middle))}"
    widths = torch.tensor([work.off_width for work in works])
    off, error = widths.mean(0), 5 * widths.std(0).clamp(max=2 / math.sqrt(k)) / math.sqrt(calls)
    wrong = ((off < -error - 1e-9) | (off > error + 1.5 * math.pi**2 / 8 / k)).nonzero()
    assert len(wrong) == 0, f"{kind}, {norm}: the width of ReLU {wrong[0].item()} is off by {off[wrong[0]].item():.3f}"


@torch.no_grad()
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["cnn_small", "residual", "pre_activation", "functional"])
def test_layers_are_right_in_the_mean(kind: str, norm: str) -> None:
    centred(kind, norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_identities_make_them_exact(kind: str, norm: str) -> None:
    """No fewer vectors than pixels and units: the bounds of `bounds`, by the opposite way through the network."""
    exact_by_identities(kind, norm, RADII[norm])


@torch.no_grad()
def exact_by_identities(kind: str, norm: str, radius: float) -> None:
    (images, labels), ball = pictures(3), Ball(norm, radius)
    program = read_shape(network(kind), images)
    found, exact = projected_bounds(program, images, ball, 10**4, seeded()), layer_bounds(program, images, ball)
    for place in program.relus:
        for side in (0, 1):
            close = torch.allclose(found[place][side], exact[place][side], rtol=1e-9, atol=1e-9)
            assert close, f"{kind}, {norm}: {program.nodes[place].name}"
    expected = margins(program, images, labels, ball)
    assert torch.allclose(projected_margins(program, images, labels, ball, 10**4, seeded()), expected, rtol=1e-9, atol=1e-9)


class Forgetting(projections._Projected):
    """Leaves out what the ReLU layers before add."""

    def _begin_at_relu(self, at: int, weight: torch.Tensor) -> None:
        pass


class OneReLU(projections._Projected):
    """Knows of the first ReLU layer alone."""

    def _begin_at_relu(self, at: int, weight: torch.Tensor) -> None:
        if len(self.groups) == 1:
            super()._begin_at_relu(at, weight)


class NotInTheMiddle(projections._Projected):
    """Takes the sum of sizes alone, without that of the rows."""

    def _begin_at_relu(self, at: int, weight: torch.Tensor) -> None:
        super()._begin_at_relu(at, weight)
        self.middle[at] = self.middle[at] - weight


def with_addends(part: Part, vectors: torch.Tensor) -> torch.Tensor:
    return part(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2])


@pytest.mark.parametrize(("name", "mutant"), [("_Projected", Forgetting), ("_Projected", OneReLU), ("_Projected", NotInTheMiddle),
                                              ("without_addend", with_addends)])
def test_mutants_of_what_is_carried_are_caught(name: str, mutant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, name, mutant)
    with pytest.raises(AssertionError, match="residual, linf"):
        exact_by_identities("residual", "linf", RADII["linf"])


@torch.no_grad()
@pytest.mark.parametrize(("norm", "name", "mutant"), [
    ("l2", "l2_estimate", lambda p: p.norm(dim=1)), ("linf", "l1_estimate", lambda p: p.abs().mean(1)),
    ("l2", "l1_estimate", lambda p: p.abs().mean(1)), ("linf", "l1_estimate", lambda p: l2_estimate(p))])
def test_mutants_of_the_estimates_are_caught_in_layers(norm: str, name: str, mutant: Estimate,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, name, mutant)
    with pytest.raises(AssertionError, match="the width of ReLU"):
        centred("cnn_small", norm)


# ---- Special cases ------------------------------------------------------------------------------------------------------------

@torch.no_grad()
@pytest.mark.parametrize("norm", NORMS)
def test_exact_where_no_relu_is_unstable_and_there_are_as_many_vectors_as_pixels(norm: str) -> None:
    images, labels = pictures(3)
    program, ball = read_shape(network("residual"), images), Ball(norm, 1e-7)
    boxes = layer_bounds(program, images, ball)
    assert not any(bool(((lower < 0) & (upper > 0)).any()) for lower, upper in boxes.values())
    found = projected_margins(program, images, labels, ball, images[0].numel(), seeded())
    assert torch.allclose(found, margins(program, images, labels, ball), rtol=0, atol=1e-12)
    fewer = projected_bounds(program, images, ball, images[0].numel() - 1, seeded())[program.relus[0]]
    assert not torch.allclose(fewer[1], boxes[program.relus[0]][1], rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize(("norm", "radius"), [("l2", 1.0), ("linf", 0.06)])
def test_margins_converge(norm: str, radius: float) -> None:
    """With 16 times as many vectors about a quarter of the error."""
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(400, 1000), nn.ReLU(), nn.Linear(1000, 50), nn.ReLU(), nn.Linear(50, 4)
    program, (images, labels) = read(nn.Sequential(*layers).double(), (1, 20, 20)), pictures(1, (1, 20, 20))
    exact = margins(program, images, labels, Ball(norm, radius))
    others = functional.one_hot(labels, 4) == 0

    def off(k: int) -> float:
        found = [projected_margins(program, images, labels, Ball(norm, radius), k, seeded(seed)) - exact for seed in range(30)]
        return float(torch.stack(found)[:, others].abs().median())

    before, after = off(16), off(256)
    assert 2.5 < before / after < 6
    assert after < 0.1 * exact.abs().max()


@torch.no_grad()
def test_radius_zero_gives_the_margins_themselves() -> None:
    images, labels = pictures(3)
    model = network("residual")
    found = projected_margins(read_shape(model, images), images, labels, Ball("l2", 0.0), 10, seeded())
    logits = model(images)
    assert torch.allclose(found, logits.gather(1, labels[:, None]) - logits, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("norm", NORMS)
def test_a_radius_for_each_image(norm: str) -> None:
    images, labels = pictures(3)
    program = read_shape(network("pre_activation"), images)
    radii = torch.tensor([0.5, 1.0, 2.0]) * RADII[norm]
    together = projected_margins(program, images, labels, Ball(norm, radii), 5, seeded())
    for image in range(3):
        one = projected_margins(program, images, labels, Ball(norm, float(radii[image])), 5, seeded())
        assert torch.allclose(together[image], one[image], rtol=1e-6)


@torch.no_grad()
def test_the_images_of_a_batch_share_the_vectors_and_the_next_call_has_others() -> None:
    images, labels = pictures(1)
    twice, program = images.repeat(2, 1, 1, 1), read_shape(network("cnn_small"), images)
    generator = seeded()
    first, again = (projected_margins(program, twice, labels.repeat(2), Ball("linf", 0.02), 5, generator) for _ in range(2))
    assert torch.allclose(first[0], first[1], rtol=1e-12)
    assert not torch.allclose(first, again)
    assert torch.equal(first, projected_margins(program, twice, labels.repeat(2), Ball("linf", 0.02), 5, seeded()))


# ---- In training --------------------------------------------------------------------------------------------------------------

def loss_of(model: nn.Module, norm: str, k: int, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    found = projected_margins(read_shape(model, images), images, labels, Ball(norm, RADII[norm]), k, seeded())
    return functional.cross_entropy(-found, labels)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["cnn_small", "residual", "functional"])
def test_the_gradient_is_that_of_differences(kind: str, norm: str) -> None:
    (images, labels), model = pictures(2), network(kind)
    weights = list(model.parameters())
    gradient = torch.autograd.grad(loss_of(model, norm, 9, images, labels), weights)
    shifts = [normal(*weight.shape, seed=place) for place, weight in enumerate(weights)]
    values, step = [], 1e-9  # beyond it other numbers come to the middle of a median
    for sign in (1, -2):
        with torch.no_grad():
            for weight, shift in zip(weights, shifts, strict=True):
                weight += sign * step * shift
            values.append(float(loss_of(model, norm, 9, images, labels)))
    slope = sum(float((g * s).sum()) for g, s in zip(gradient, shifts, strict=True))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_gradient_is_finite_where_units_are_dead(norm: str) -> None:
    """A row of zeros has a norm of 0, at which the norm itself has no gradient."""
    images, labels = (part.float() if part.is_floating_point() else part for part in pictures(2))
    model = network("cnn_small").float()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight[0] = 0
                layer.bias[0] = 0
    for k in (3, 50, 1000):
        model.zero_grad()
        loss_of(model, norm, k, images, labels).backward()
        assert all(bool(weight.grad.isfinite().all()) for weight in model.parameters())
        assert all(bool(weight.grad.any()) for weight in model.parameters())


# ---- No bounds ----------------------------------------------------------------------------------------------------------------

def one_class(found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Whether all margins but the label's own are > 0, [n]."""
    return ((found > 0) | (functional.one_hot(labels, found.shape[1]) == 1)).all(1)


@pytest.mark.parametrize("norm", NORMS)
def test_an_estimate_calls_images_certified_that_are_not(norm: str) -> None:
    """Why certificates take no projections. Each image at a radius a little larger than the largest that is proven for it: the
    exact bounds leave several classes, many estimates one."""
    model, images, labels = trained("cnn_small")
    images, labels, program = images[:15], labels[:15], read(model, (1, 7, 7))
    radii = torch.zeros(15, dtype=torch.float64)
    with torch.no_grad():
        step = torch.full_like(radii, 4.0)
        for _ in range(14):  # bisection
            proven = one_class(margins(program, images, labels, Ball(norm, radii + step)), labels)
            radii, step = torch.where(proven, radii + step, radii), step / 2
        images, labels, radii = images[radii > 0], labels[radii > 0], 1.07 * radii[radii > 0]
        ball = Ball(norm, radii)
        assert len(images) > 10
        assert not one_class(margins(program, images, labels, ball), labels).any()
        called = torch.stack([one_class(projected_margins(program, images, labels, ball, 10, seeded(seed)), labels)
                              for seed in range(10)])
    assert 0.03 < float(called.double().mean()) < 0.7


@pytest.mark.parametrize("k", [0, -1])
def test_a_number_of_vectors_is_positive(k: int) -> None:
    images, labels = pictures(1)
    with pytest.raises(Wrong, match="projections: expected a whole number >= 1"):
        projected_margins(read_shape(network("dense"), images), images, labels, Ball("l2", 0.1), k, seeded())
