"""The bounds of layers and margins: worked out on paper, and exact where a network is affine."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from relu_networks import KINDS, NORMS, linear, network, normal, of_margins, pictures, read_shape, relu_inputs
from torch import nn
from torch.autograd.functional import jacobian

from robust_cli.verification.bounds import Ball, layer_bounds, margins
from robust_cli.verification.program import Program
from robust_cli.verification.reading import read
from robust_cli.verification.relaxation import RELAXATIONS

every_norm = pytest.mark.parametrize("norm", NORMS)
every_relaxation = pytest.mark.parametrize("relaxation", RELAXATIONS)
every_kind = pytest.mark.parametrize("kind", KINDS)
either = pytest.mark.parametrize(("norm", "relaxation"), [*zip(NORMS, RELAXATIONS, strict=True)])  # have no say together
DUAL = {"l2": 2.0, "linf": 1.0}


def of(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def close(found: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found.detach().flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


# A dense network by hand. At x = (1, 1): z = (3 x1 + 4 x2 - 6, 4 x1 - 3 x2 - 2) = (1, -1). Both rows have l2 norm 5 and l1 norm
# 7: in the l2 ball of radius 0.4 and in the linf ball of radius 2/7 z1 lies in [-1, 3] and z2 in [-3, 1]. Chords: 3/4 z1 + 3/4
# and 1/4 z2 + 3/4. Let m = 2 relu(z1) - 4 relu(z2) + 1.
#   parallel  m >= 2 (3/4 z1) - 4 (1/4 z2 + 3/4) + 1 = 3/2 z1 - z2 - 2, 1/2 at x, of slope 3/2 (3, 4) - (4, -3) = (1/2, 9)
#             m <= 2 (3/4 z1 + 3/4) - 4 (1/4 z2) + 1 = 3/2 z1 - z2 + 5/2, 5 at x, of the same slope
#   adaptive  z1 from below: z1 (3 > 1), z2: 0 (1 < 3)
#             m >= 2 z1 - 4 (1/4 z2 + 3/4) + 1 = 2 z1 - z2 - 2, 1 at x, of slope 2 (3, 4) - (4, -3) = (2, 11)
#             m <= 2 (3/4 z1 + 3/4) + 1 = 3/2 z1 + 5/2, 4 at x, of slope (9/2, 6)
FIRST = ([[3.0, 4.0], [4.0, -3.0]], [-6.0, -2.0])
BY_HAND: dict[tuple[str, str], tuple[float, float]] = {
    ("l2", "parallel"): (0.5 - 0.4 * math.sqrt(81.25), 5 + 0.4 * math.sqrt(81.25)),
    ("linf", "parallel"): (0.5 - 9.5 * 2 / 7, 5 + 9.5 * 2 / 7),
    ("l2", "adaptive"): (1 - 0.4 * math.sqrt(125), 4 + 0.4 * 7.5),
    ("linf", "adaptive"): (1 - 13 * 2 / 7, 4 + 10.5 * 2 / 7)}
RADIUS = {"l2": 0.4, "linf": 2 / 7}


@pytest.mark.parametrize(("norm", "relaxation"), BY_HAND)
def test_a_dense_network_by_hand(norm: str, relaxation: str) -> None:
    """Logits (m, 0): the margin of label 0 is at least m's lower bound, that of label 1 at least minus its upper one."""
    model = nn.Sequential(nn.Flatten(), linear(*FIRST), nn.ReLU(), linear([[2, -4], [0, 0]], [1, 0]))
    program, ball = read(model, (1, 1, 2)), Ball(norm, RADIUS[norm])
    images = of([1, 1]).expand(2, 1, 1, 2)
    lower, upper = layer_bounds(program, images[:1], ball, relaxation)[program.relus[0]]
    close(lower, [-1, -3])
    close(upper, [3, 1])
    least, most = BY_HAND[norm, relaxation]
    close(margins(program, images, torch.tensor([0, 1]), ball, relaxation), [0, least, -most, 0])


@pytest.mark.parametrize(("norm", "relaxation"), BY_HAND)
def test_the_second_hidden_layer_by_hand(norm: str, relaxation: str) -> None:
    """The box of m and of -m where they are inputs of ReLUs themselves."""
    model = nn.Sequential(nn.Flatten(), linear(*FIRST), nn.ReLU(), linear([[2, -4], [-2, 4]], [1, -1]), nn.ReLU(),
                          linear([[1, 0], [0, 1]], [0, 0]))
    program = read(model, (1, 1, 2))
    lower, upper = layer_bounds(program, of([1, 1]), Ball(norm, RADIUS[norm]), relaxation)[program.relus[1]]
    least, most = BY_HAND[norm, relaxation]
    close(lower, [least, -most])
    close(upper, [most, -least])


@pytest.mark.parametrize(("norm", "widths", "spread"), [("linf", [1, 2, 2, 1], 4.0),
                                                         ("l2", [1, 2**0.5, 2**0.5, 1], math.sqrt(0.25 + 2.25 + 4))])
def test_a_convolution_by_hand(norm: str, widths: list[float], spread: float) -> None:
    """Kernel (1, 1) with a zero at each side over (1, 2, 4), less 3: z = (-2, 0, 3, 1), whose ends see one pixel and not two.

    Within 1 only z2 = x1 + x2 - 3 is unstable, with slope 1/2 and a rise of half its width. Sum of the ReLUs: from below
    z2 / 2 + z3 + z4 = 4 at x, of slope (1/2, 3/2, 2).
    """
    conv = nn.Conv2d(1, 1, (1, 2), padding=(0, 1)).double()
    with torch.no_grad():
        conv.weight.fill_(1)
        assert conv.bias is not None
        conv.bias.fill_(-3)
    program = read(nn.Sequential(conv, nn.ReLU(), nn.Flatten(), linear([[1, 1, 1, 1], [0, 0, 0, 0]], [0, 0])), (1, 1, 3))
    images, ball = of([1, 2, 4]).expand(2, 1, 1, 3), Ball(norm, 1.0)
    lower, upper = layer_bounds(program, images[:1], ball)[program.relus[0]]
    close(lower, [-2 - widths[0], -widths[1], 3 - widths[2], 1 - widths[3]])
    close(upper, [-2 + widths[0], widths[1], 3 + widths[2], 1 + widths[3]])
    close(margins(program, images, torch.tensor([0, 1]), ball), [0, 4 - spread, -4 - spread - widths[1] / 2, 0])


class Branches(nn.Module):
    """Logits (relu(x - 1) - 2 x, 0)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.last = linear([[1]], [-1]), linear([[-2]], [0]), linear([[1], [0]], [0, 0])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(images, 1)
        return self.last(torch.relu(self.inner(x)) + self.outer(x))


@pytest.mark.parametrize(("relaxation", "least", "most"), [("parallel", -3.5, 0.0), ("adaptive", -4.0, 0.0)])
def test_branches_by_hand(relaxation: str, least: float, most: float) -> None:
    """x within 1 of 1: z = x - 1 in [-1, 1], 1/2 z <= relu(z) <= 1/2 z + 1/2. The branches' slopes come together before a norm is
    taken: relu(z) - 2 x >= 1/2 z - 2 x >= -2 - 1.5, not -0.5 - 4; and <= 1/2 z + 1/2 - 2 x <= -1.5 + 1.5. Adaptive takes 0 for
    relu(z) here, which is worse."""
    found = margins(read(Branches(), (1, 1, 1)), of([1]).view(1, 1, 1, 1).expand(2, 1, 1, 1), torch.tensor([0, 1]),
                    Ball("linf", 1.0), relaxation)
    close(found, [0, least, -most, 0])


def stable_radius(program: Program, images: torch.Tensor, norm: str, relaxation: str) -> float:
    """A power of 10 as a radius at which no ReLU of any image is unstable."""
    for power in range(-2, -10, -1):
        boxes = layer_bounds(program, images, Ball(norm, 10.0**power), relaxation).values()
        if not any(bool(((lower < 0) & (upper > 0)).any()) for lower, upper in boxes):
            return 10.0**power
    raise AssertionError("a ReLU is unstable however small the ball is")


@every_kind
@every_norm
@every_relaxation
def test_without_unstable_relus_the_bounds_are_the_minimum_of_an_affine_function(kind: str, norm: str, relaxation: str) -> None:
    """min over the ball of m + g.(x' - x) is m - radius |g|*, of margins and of every ReLU's input."""
    model, (images, labels) = network(kind), pictures(1)
    program = read_shape(model, images)
    radius = stable_radius(program, images, norm, relaxation)
    ball = Ball(norm, radius)

    def slopes(function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return jacobian(function, images, vectorize=True).reshape(-1, images.numel()).norm(DUAL[norm], dim=1)

    expected = of_margins(model(images), labels) - radius * slopes(lambda x: of_margins(model(x), labels)[0])
    found = margins(program, images, labels, ball, relaxation)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    fall = of_margins(model(images), labels) - found
    torch.testing.assert_close(fall / radius, slopes(lambda x: of_margins(model(x), labels)[0])[None], rtol=1e-6, atol=1e-10)
    boxes = layer_bounds(program, images, ball, relaxation)
    for number, (place, value) in enumerate(zip(program.relus, relu_inputs(model, images), strict=True)):
        lower, upper = boxes[place]
        torch.testing.assert_close((lower + upper) / 2, value, rtol=0, atol=1e-11)
        width = slopes(lambda x, number=number: relu_inputs(model, x)[number][0])  # type: ignore[misc]
        torch.testing.assert_close((upper - lower).flatten() / (2 * radius), width, rtol=1e-6, atol=1e-9)


@every_norm
def test_a_network_that_is_far_from_its_kinks_is_exact_in_a_large_ball(norm: str) -> None:
    """Biases of +-100 and more before each ReLU: no ball is too small here to tell one slope from another."""
    model, (images, labels) = network("cnn_small", (1, 8, 8)), pictures(1, (1, 8, 8))
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None and len(layer.bias) > 4:
                layer.bias.copy_(len(layer.bias) ** 2 * normal(len(layer.bias)).sign())
    program, ball = read_shape(model, images), Ball(norm, 1.0)
    slope = jacobian(lambda x: of_margins(model(x), labels), images)[0].flatten(1).norm(DUAL[norm], dim=1)
    for relaxation in RELAXATIONS:
        found = margins(program, images, labels, ball, relaxation)
        torch.testing.assert_close(found, of_margins(model(images), labels) - slope, rtol=1e-12, atol=1e-10)
    assert float(slope.max()) > 0.05


@every_kind
@either
def test_radius_0_gives_the_margins(kind: str, norm: str, relaxation: str) -> None:
    model, (images, labels) = network(kind), pictures(4)
    program, ball = read_shape(model, images), Ball(norm, 0.0)
    found = margins(program, images, labels, ball, relaxation)
    torch.testing.assert_close(found, of_margins(model(images), labels), rtol=0, atol=1e-11)
    boxes = layer_bounds(program, images, ball, relaxation)
    assert list(boxes) == program.relus
    for place, value in zip(program.relus, relu_inputs(model, images), strict=True):
        for end in boxes[place]:
            torch.testing.assert_close(end, value, rtol=0, atol=1e-11)
