"""The dual bound is not above the value of the relaxed problem, nor that above the true minimum; and equal where theory says so.

The relaxed problem, by solvers that know nothing of the dual: minimise the margin over the pixels x of the ball and the unstable
ReLUs' values h with h >= 0, h >= z and h <= u (z - l) / (u - l), where z, linear in x and the h before it, lies in [l, u] by the
same boxes. A linear programme for linf (scipy's HiGHS), a convex one for l2 (SLSQP).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from relu_networks import NORMS, in_ball, normal, of_margins
from scipy.optimize import linprog, minimize
from torch import nn
from torch.nn import functional

from robust_cli.verification import bounds
from robust_cli.verification.bounds import Ball, layer_bounds, margins
from robust_cli.verification.program import Program
from robust_cli.verification.reading import read
from robust_cli.verification.relaxation import RELAXATIONS, Relaxed, relax

every_norm = pytest.mark.parametrize("norm", NORMS)
every_relaxation = pytest.mark.parametrize("relaxation", RELAXATIONS)
RADII = {"l2": 0.5, "linf": 0.5}
SLACK = {"l2": 1e-6, "linf": 1e-8}


class Form(NamedTuple):
    """A layer's values as matrix @ (x, h) + addend."""

    matrix: np.ndarray
    addend: np.ndarray


@dataclass
class Relaxation:
    """The relaxed problem around an image [1, C, H, W]: rows @ (x, h) + addends >= 0, and x in the ball."""

    program: Program
    image: torch.Tensor
    ball: Ball
    relaxation: str
    forms: list[Form] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    addends: list[float] = field(default_factory=list)
    unstable: int = 0

    def __post_init__(self) -> None:
        boxes = layer_bounds(self.program, self.image, self.ball, self.relaxation)
        crossing = sum(int(((lower < 0) & (upper > 0)).sum()) for lower, upper in boxes.values())
        self.pixels = self.image.numel()
        self.variables = self.pixels + crossing
        for place, node in enumerate(self.program.nodes):
            if node.is_relu:
                lower, upper = (end.detach().flatten().numpy() for end in boxes[place])
                self.forms.append(self._relu(self.forms[node.inputs[0]], lower, upper))
            elif node.part is not None:
                self.forms.append(self._affine(node.part, self.forms[node.inputs[0]], self.program.nodes[node.inputs[0]].shape))
            elif node.inputs:
                first, second = (self.forms[source] for source in node.inputs)
                self.forms.append(Form(first.matrix + second.matrix, first.addend + second.addend))
            else:
                self.forms.append(Form(np.eye(self.pixels, self.variables), np.zeros(self.pixels)))

    @torch.no_grad()
    def _affine(self, part: Callable[[torch.Tensor], torch.Tensor], form: Form, shape: tuple[int, ...]) -> Form:
        def through(columns: np.ndarray) -> np.ndarray:
            return part(torch.from_numpy(columns.T.copy()).view(-1, *shape)).flatten(1).numpy().T

        nothing = through(np.zeros((len(form.addend), 1)))
        return Form(through(form.matrix) - nothing, through(form.addend[:, None])[:, 0])

    def _relu(self, form: Form, lower: np.ndarray, upper: np.ndarray) -> Form:
        matrix, addend = np.zeros_like(form.matrix), np.zeros_like(form.addend)
        for unit, (low, high) in enumerate(zip(lower, upper, strict=True)):
            if low >= 0:
                matrix[unit], addend[unit] = form.matrix[unit], form.addend[unit]
            elif high > 0:
                own = np.eye(self.variables)[self.pixels + self.unstable]
                self.unstable += 1
                slope = high / (high - low)
                self.rows += [own, own - form.matrix[unit], slope * form.matrix[unit] - own]
                self.addends += [0.0, -form.addend[unit], slope * (form.addend[unit] - low)]
                matrix[unit] = own
        return Form(matrix, addend)

    def objective(self, label: int, other: int) -> tuple[np.ndarray, float]:
        last = self.forms[-1]
        return last.matrix[label] - last.matrix[other], float(last.addend[label] - last.addend[other])

    def linear(self, label: int, other: int) -> tuple[float, np.ndarray]:
        """The least margin over a linf ball, and each unstable ReLU's lower slope by the solution's multipliers."""
        weights, addend = self.objective(label, other)
        centre, radius = self.image.flatten().numpy(), float(self.ball.radius)
        sides = [(x - radius, x + radius) for x in centre] + [(None, None)] * self.unstable
        rows = -np.array(self.rows).reshape(-1, self.variables)
        found = linprog(weights, A_ub=rows if len(rows) else None, b_ub=self.addends if len(rows) else None, bounds=sides)
        assert found.success, found.message
        multipliers = -found.ineqlin.marginals.reshape(-1, 3)
        of_lower = multipliers[:, 1] / np.maximum(multipliers[:, 0] + multipliers[:, 1], 1e-300)
        return float(found.fun) + addend, np.clip(of_lower, 0, 1)

    def convex(self, label: int, other: int) -> float:
        """The least margin over an l2 ball."""
        weights, addend = self.objective(label, other)
        centre, radius = self.image.flatten().numpy(), float(self.ball.radius)
        rows, addends = np.array(self.rows).reshape(-1, self.variables), np.array(self.addends)

        def ball(v: np.ndarray) -> float:
            return radius**2 - ((v[: self.pixels] - centre) ** 2).sum()

        def slope(v: np.ndarray) -> np.ndarray:
            return np.concatenate([-2 * (v[: self.pixels] - centre), np.zeros(self.unstable)])

        limits: list[Any] = [{"type": "ineq", "fun": ball, "jac": slope},
                             {"type": "ineq", "fun": lambda v: rows @ v + addends, "jac": lambda v: rows}]
        start = np.concatenate([centre, np.full(self.unstable, 0.1)])
        found = minimize(lambda v: weights @ v, start, jac=lambda v: weights, method="SLSQP", constraints=limits,
                         options={"maxiter": 500, "ftol": 1e-13})
        assert min(ball(found.x), (rows @ found.x + addends).min(initial=0)) > -1e-7, found.message
        return float(found.fun) + addend

    def least(self, label: int, other: int) -> float:
        return self.linear(label, other)[0] if self.ball.norm == "linf" else self.convex(label, other)


class Block(nn.Module):
    """A convolution, a residual block and means of pixels, in functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 2, 2, padding=1), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(18, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.first(images))
        return self.last(torch.flatten(functional.relu(self.second(x) + x), 1))


def dense(*widths: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def problem(kind: str, seed: int, norm: str, relaxation: str = "parallel") -> tuple[nn.Module, Relaxation]:
    """A small random network and its relaxed problem at a random image, with unstable ReLUs in it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = {"dense": lambda: dense(2, 6, 5, 3), "shallow": lambda: dense(3, 8, 3), "deep": lambda: dense(2, 4, 4, 4, 3),
                 "block": Block}[kind]()
    shape = (1, 2, 2) if kind == "block" else (1, 1, 3 if kind == "shallow" else 2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    model = model.double().eval()
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = Relaxation(read(model, shape), image, Ball(norm, RADII[norm]), relaxation)
    return model, found


def dual(found: Relaxation, label: int) -> torch.Tensor:
    return margins(found.program, found.image, torch.tensor([label]), found.ball, found.relaxation)[0].detach()


@pytest.mark.parametrize("kind", ["dense", "shallow", "deep", "block"])
@every_norm
@every_relaxation
def test_the_dual_is_not_above_the_primal_nor_that_above_the_truth(kind: str, norm: str, relaxation: str) -> None:
    gaps, unstable = [], 0
    for seed in range(4):
        model, found = problem(kind, seed, norm, relaxation)
        points = _everywhere(found) if found.pixels == 2 else in_ball(found.image[0], found.ball, 3000)
        true = of_margins(model(points), torch.zeros(len(points), dtype=torch.long)).min(0).values.detach()
        bound = dual(found, 0)
        for other in (1, 2):
            primal = found.least(0, other)
            assert float(bound[other]) <= primal + SLACK[norm]
            assert primal <= float(true[other]) + SLACK[norm]
            gaps.append((primal - float(bound[other]), float(true[other]) - primal))
        unstable += found.unstable
    assert unstable >= 10
    assert max(gap for gap, _ in gaps) > 1e-3, "the fixed lines are seldom the best ones"
    assert max(gap for _, gap in gaps) > 1e-3, "a relaxation is a relaxation"


def _everywhere(found: Relaxation, side: int = 201) -> torch.Tensor:
    """A fine grid over the ball in two pixels, its surface included."""
    line = torch.linspace(-1, 1, side, dtype=torch.float64)
    shifts = torch.cartesian_prod(line, line)
    if found.ball.norm == "l2":
        angle = torch.linspace(0, 2 * torch.pi, 4 * side, dtype=torch.float64)
        shifts = torch.cat([shifts[shifts.norm(dim=1) <= 1], torch.stack([angle.cos(), angle.sin()], 1)])
    return found.image + found.ball.radius * shifts.view(-1, *found.image.shape[1:])


@pytest.mark.parametrize("kind", ["dense", "deep", "block"])
@every_norm
def test_whatever_lower_slopes_are_taken_the_dual_is_not_above_the_primal(kind: str, norm: str,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Every slope in [0, 1] is feasible: random ones, as good or bad as they are."""
    def random_slopes(lower: torch.Tensor, upper: torch.Tensor, relaxation: str) -> Relaxed:
        slopes = torch.rand(lower.shape, generator=torch.Generator().manual_seed(lower.numel()), dtype=lower.dtype)
        return with_slopes(slopes, lower, upper)

    monkeypatch.setattr(bounds, "relax", random_slopes)
    for seed in range(3):
        _, found = problem(kind, seed, norm, "adaptive")
        bound = dual(found, 0)
        for other in (1, 2):
            assert float(bound[other]) <= found.least(0, other) + SLACK[norm]


def with_slopes(slopes: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> Relaxed:
    chord = relax(lower, upper, "parallel")
    return Relaxed(torch.where((lower < 0) & (upper > 0), slopes, chord.below), chord.above, chord.rise, False)


@every_norm
@every_relaxation
def test_equal_where_only_upper_lines_are_used(norm: str, relaxation: str) -> None:
    """One hidden layer, a margin that falls with every unit: no lower slope has a say, and strong duality leaves nothing."""
    for seed in range(4):
        model, _ = problem("shallow", seed, norm)
        assert isinstance(model, nn.Sequential)
        with torch.no_grad():
            model[-1].weight[0] = -1 - model[-1].weight.abs().sum(0)
        found = Relaxation(read(model, (1, 1, 3)), normal(1, 1, 1, 3, seed=seed), Ball(norm, 2 * RADII[norm]), relaxation)
        for other in (1, 2):
            assert float(dual(found, 0)[other]) == pytest.approx(found.least(0, other), abs=SLACK[norm])
        assert found.unstable >= 2


def test_equal_with_the_best_lower_slopes_in_linf(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hidden layer: the programme's own multipliers of h >= z and h >= 0 say which slope is best, and with it the dual bound
    is the programme's value; the fixed slopes' bounds are below."""
    better = 0
    for seed in range(6):
        _, found = problem("shallow", seed, "linf", "adaptive")
        for other in (1, 2):
            primal, best = found.linear(0, other)
            fixed = float(dual(found, 0)[other])

            def slopes(lower: torch.Tensor, upper: torch.Tensor, relaxation: str, best: np.ndarray = best) -> Relaxed:
                full = torch.zeros_like(lower)
                full[(lower < 0) & (upper > 0)] = torch.from_numpy(best)
                return with_slopes(full, lower, upper)

            with monkeypatch.context() as patch:
                patch.setattr(bounds, "relax", slopes)
                assert float(dual(found, 0)[other]) == pytest.approx(primal, abs=1e-8)
            better += primal > fixed + 1e-3
    assert better >= 2


def test_equal_with_the_best_lower_slopes_in_l2(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in linf, the best slopes found by climbing: the dual bound is concave in them."""
    for seed in range(3):
        _, found = problem("shallow", seed, "l2", "adaptive")
        for other in (1, 2):
            def value(slopes: np.ndarray, found: Relaxation = found, other: int = other) -> tuple[float, np.ndarray]:
                chosen = torch.from_numpy(slopes.copy()).requires_grad_()
                with monkeypatch.context() as patch:
                    patch.setattr(bounds, "relax", lambda lower, upper, _: with_slopes(chosen, lower, upper))
                    bound = margins(found.program, found.image, torch.tensor([0]), found.ball, "adaptive")[0, other]
                slope, = torch.autograd.grad(bound, chosen, allow_unused=True)
                return -float(bound.detach()), -slope.numpy()

            best = minimize(value, np.full(8, 0.5), jac=True, method="L-BFGS-B", bounds=[(0, 1)] * 8,
                            options={"ftol": 1e-15, "gtol": 1e-10})
            assert -best.fun == pytest.approx(found.convex(0, other), abs=1e-5)
