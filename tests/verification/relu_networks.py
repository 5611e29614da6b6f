"""ReLU networks of every kind that the LP dual bounds take, small and in float64, and points of the balls around images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from robust_cli.datasets.digits import Digits
from robust_cli.models.classifier import classifier
from robust_cli.models.cnn_small import CnnSmall
from robust_cli.models.pre_activation import PreActivationUnit
from robust_cli.models.resnet import BasicBlock, EverySecondAndZeros, ResNet
from robust_cli.models.wrn import Wrn
from robust_cli.models.wrn_madry import AveragesAndZeros
from robust_cli.verification.bounds import Ball
from robust_cli.verification.program import Program
from robust_cli.verification.reading import read

Shape = tuple[int, int, int]
NORMS = ("l2", "linf")
CLASSES = 4


class Functional(nn.Module):
    """A user's network: functions instead of layers, a sum of branches, one ReLU and one layer used twice."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(shape[0], 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4 * shape[1] * shape[2], CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.first(images))
        y = torch.relu(self.again(x))
        x = x + y
        y = self.again(x).relu()
        return self.last(torch.flatten(torch.add(x, y), 1))


def dense(shape: Shape) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 12), nn.ReLU(), nn.Linear(12, 8),
                         nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))


def odd(shape: Shape) -> nn.Module:
    """Strides that leave pixels over, dilation, groups, and two convolutions with nothing between them."""
    body = nn.Sequential(nn.Conv2d(shape[0], 4, 3, padding=2, bias=False), nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0)),
                         nn.ReLU(), nn.Conv2d(6, 4, 2, dilation=2, padding=1, groups=2), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.Conv2d(4, 4, 2, stride=2), nn.ReLU(), nn.Flatten())
    return nn.Sequential(body, nn.Linear(body(torch.zeros(1, *shape)).shape[1], CLASSES))


def pooled(shape: Shape) -> nn.Module:
    """Means of pixels between convolutions, which overlap and reach past the edge, and zeros around."""
    return nn.Sequential(nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(shape[0], 4, 3), nn.AvgPool2d(3, 2, padding=1, ceil_mode=True),
                         nn.ReLU(), nn.Conv2d(4, 6, 2), nn.Dropout(0.5), nn.ReLU(), nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(),
                         nn.Linear(12, CLASSES))


def residual(shape: Shape) -> nn.Module:
    """Blocks with batch norm whose shortcuts are nothing, and every second pixel with channels of zeros."""
    return nn.Sequential(nn.Conv2d(shape[0], 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), BasicBlock(3, 3, 1, nn.Identity()),
                         BasicBlock(3, 5, 2, EverySecondAndZeros(3, 5)), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(5, CLASSES))


def pre_activation(shape: Shape) -> nn.Module:
    """Units that begin with batch norm and ReLU: a shortcut after them, a convolution, and one before, of means of pixels."""
    def unit(inputs: int, outputs: int, stride: int, shortcut: nn.Module, activated: bool) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return PreActivationUnit(conv, shortcut, inputs, outputs, activated_shortcut=activated, activation=nn.ReLU())

    side = min(shape[1:]) // 2 * 2
    return nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Conv2d(shape[0], 3, 3, padding=1, bias=False),
                         unit(3, 4, 1, nn.Conv2d(3, 4, 1, bias=False), True),
                         unit(4, 6, 2, AveragesAndZeros(4, 6, 2), False), nn.ReLU(), nn.Flatten(),
                         nn.Linear(6 * (side // 2) ** 2, CLASSES))


KINDS: dict[str, Callable[[Shape], nn.Module]] = {
    "dense": dense, "odd": odd, "pooled": pooled, "residual": residual, "pre_activation": pre_activation,
    "functional": Functional, "cnn_small": lambda shape: CnnSmall(shape, CLASSES)}
WHOLE: dict[str, Callable[[Shape], nn.Module]] = {
    "resnet20": lambda shape: ResNet(shape, CLASSES, 20), "resnet_zeros": lambda shape: ResNet(shape, CLASSES, 14, "zeros"),
    "wrn": lambda shape: Wrn(shape, CLASSES, 16, 1)}


def network(kind: str, shape: Shape = (2, 6, 5), seed: int = 0) -> nn.Module:
    """A classifier with another normalisation for each channel, random weights and batch norms that have seen something; it is
    in evaluation mode and in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = (KINDS | WHOLE)[kind](shape)
        model = classifier(body, [0.1 * (1 + c) for c in range(shape[0])], [0.4 / (1 + c) for c in range(shape[0])])
        _has_seen_something(model, shape)
    return model.double().eval()


def _has_seen_something(model: nn.Module, shape: Shape) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.rand(16, *shape))


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pictures(n: int, shape: Shape = (2, 6, 5), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images, and labels."""
    images = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return images, torch.arange(n) % CLASSES


def small_digits(n: int, side: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Scanned digits of 7x7 pixels, [n, 1, 7, 7] in float64, labels below 10."""
    digits = Digits().split("train")
    return functional.avg_pool2d(digits.pixels[:n].double() / 255, 28 // side), digits.labels[:n]


def trained(kind: str, steps: int = 60) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network after some steps on digits 0 to 3, and digits that it has not seen, with their labels."""
    images, labels = small_digits(800)
    images, labels = images[labels < CLASSES].float(), labels[labels < CLASSES]
    model = network(kind, (1, 7, 7)).float().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(steps):
        rows = torch.arange(step * 32, step * 32 + 32) % 256
        optimizer.zero_grad()
        functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    return model.double().eval(), images[256:].double(), labels[256:]


def of_margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """logit[label] - logit[k], [n, K]."""
    return logits.gather(1, labels[:, None]) - logits


class _Watching(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[torch.Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (functional.relu, torch.relu, torch.Tensor.relu):
            self.inputs.append(args[0])
        return function(*args, **(kwargs or {}))


def relu_inputs(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """What each ReLU of the model itself is given, in the order in which it computes them."""
    with _Watching() as watching:
        model(images)
    return watching.inputs


def in_ball(image: torch.Tensor, ball: Ball, n: int, seed: int = 0) -> torch.Tensor:
    """Images [n', C, H, W] of the ball around one [C, H, W]: inside, on its surface, at its corners (linf) and with few pixels
    changed (l2)."""
    direction = normal(n, image.numel(), seed=seed)
    few = torch.where(direction.abs() >= direction.abs().topk(3).values[:, -1:], direction, 0.0)
    inside = torch.rand(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shifts = torch.cat([scaled(direction, ball.norm) * inside, scaled(direction, ball.norm), scaled(few, ball.norm)])
    if ball.norm == "linf":
        shifts = torch.cat([shifts, direction.sign()])
    return image + ball.radius * shifts.view(-1, *image.shape)


def scaled(shifts: torch.Tensor, norm: str) -> torch.Tensor:
    """Each row brought to norm 1."""
    return shifts / torch.linalg.vector_norm(shifts, 2 if norm == "l2" else torch.inf, dim=1, keepdim=True)


def steepest(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """The direction of norm 1 (for each image) along which a linear function with this gradient rises most."""
    if norm == "linf":
        return gradient.sign()
    return gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-300).view(-1, *[1] * (gradient.dim() - 1))


def descended(model: nn.Module, image: torch.Tensor, label: int, ball: Ball, steps: int = 20) -> torch.Tensor:
    """Points of the ball where margins are small: for each class the end of the gradient's steepest line, which is the minimum
    of an affine margin, and the points after it of projected steps, [n', C, H, W]."""
    others = torch.arange(model(image[None]).shape[1])
    labels = torch.full_like(others, label)
    start, found = image.expand(len(others), *image.shape), []
    point = start
    for step in range(steps):
        point = point.detach().requires_grad_()
        margins = of_margins(model(point), labels)[others, others].sum()
        gradient, = torch.autograd.grad(margins, point)
        length = float(ball.radius) * (1.0 if step == 0 else 0.3)
        shift = (point - length * steepest(gradient, ball.norm) - start).detach()
        if ball.norm == "linf":
            shift = shift.clamp(-float(ball.radius), float(ball.radius))
        else:
            shift = shift * (ball.radius / shift.flatten(1).norm(dim=1).clamp(min=float(ball.radius))).view(-1, 1, 1, 1)
        point = start + shift
        found.append(point)
    return torch.cat(found)


def box_ends(model: nn.Module, image: torch.Tensor, ball: Ball, each: int = 6) -> torch.Tensor:
    """Points of the ball where inputs of ReLUs are least and most, if the network is affine up to them, as it is to the first
    ones: of some units of every layer, [n', C, H, W]."""
    point, dice, found = image[None].clone().requires_grad_(), torch.Generator().manual_seed(0), []
    for values in relu_inputs(model, point):
        for unit in torch.randperm(values.numel(), generator=dice)[:each]:
            slope, = torch.autograd.grad(values.flatten()[unit], point, retain_graph=True)
            shift = ball.radius * steepest(slope, ball.norm)
            found += [image + shift[0], image - shift[0]]
    return torch.stack(found).detach()


def read_shape(model: nn.Module, images: torch.Tensor) -> Program:
    return read(model, tuple(images.shape[1:]))
