"""A network read as a list of layers computes what the network computes, or it is refused with one line."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from relu_networks import CLASSES, KINDS, WHOLE, network, of_margins, pictures
from torch import nn
from torch.nn import functional

from robust_cli.messages import UserError
from robust_cli.models.bounded_convolution import bounded
from robust_cli.models.cnn7 import Cnn7
from robust_cli.models.lenet import LeNet
from robust_cli.models.standardisation import Standardisation
from robust_cli.models.wrn_madry import WrnMadry
from robust_cli.verification.bounds import Ball, margins
from robust_cli.verification.reading import read
from robust_cli.verification.relaxation import RELAXATIONS

SHAPE = (2, 8, 8)


@pytest.mark.parametrize("kind", [*KINDS, *WHOLE])
def test_the_logits_are_those_of_the_model(kind: str) -> None:
    model, (images, _) = network(kind, SHAPE), pictures(5, SHAPE)
    program = read(model, SHAPE)
    assert program.nodes[0].shape == SHAPE
    assert program.nodes[-1].shape == (CLASSES,)
    torch.testing.assert_close(program.logits(images), model(images), rtol=0, atol=1e-12)


def test_a_layer_for_each_relu_and_the_shapes_of_all() -> None:
    program = read(network("odd"), (2, 6, 5))
    assert [program.nodes[place].shape for place in program.relus] == [(6, 4, 6), (4, 4, 6), (4, 2, 3)]
    assert all(program.nodes[place].is_relu for place in program.relus)
    assert len(read(network("resnet20", SHAPE), SHAPE).relus) == 1 + 2 * 9


def test_what_training_changes_is_read_at_every_use() -> None:
    """Weights and running statistics are not copied, and the mode of the model does not matter: it is evaluation's function."""
    model, (images, _) = network("residual", SHAPE), pictures(5, SHAPE)
    program = read(model, SHAPE)
    before = program.logits(images)
    with torch.no_grad():
        model.train()(2 * images)
        for parameter in model.parameters():
            parameter.mul_(1.1)
    found = program.logits(images)
    torch.testing.assert_close(found, model.eval()(images), rtol=0, atol=1e-12)
    assert (found - before).abs().max() > 0.01


def of(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict((f"l{i}", layer) for i, layer in enumerate(layers)))


class Decides(nn.Module):
    """Goes another way for dark images."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(128, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.mean() < 0.5:
            return self.last(images.flatten(1))
        return -self.last(images.flatten(1))


class Multiplies(Decides):
    """Its layers are linear; it is not."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.last(images.flatten(1))
        return logits * logits


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "max_pool": (lambda: LeNet(SHAPE, CLASSES), "MaxPool2d"),
    "elu": (lambda: Cnn7(SHAPE, CLASSES), "ELU"),
    "leaky": (lambda: of(nn.Conv2d(2, 2, 3), nn.LeakyReLU(), nn.Flatten()), "LeakyReLU (l1)"),
    "leaky_wrn": (lambda: WrnMadry(SHAPE, CLASSES, 1, 1), ""),
    "standardised": (lambda: of(Standardisation(), nn.Flatten(), nn.Linear(128, CLASSES)), ""),
    "circular": (lambda: of(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), nn.Flatten()), "Conv2d (l0)"),
    "same": (lambda: of(nn.Conv2d(2, 2, 3, padding="same"), nn.Flatten()), "Conv2d (l0)"),
    "batch_statistics": (lambda: of(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten()), "BatchNorm2d (l0)"),
    "parametrised": (lambda: of(bounded(nn.Conv2d(2, 2, 3), SHAPE), nn.Flatten()), "ParametrizedConv2d (l0)"),
    "layer_norm": (lambda: of(nn.Flatten(), nn.LayerNorm(128)), "LayerNorm (l1)"),
    "decides": (Decides, "Decides"),
    "multiplies": (Multiplies, "mul"),
    "no_logits": (lambda: nn.Sequential(nn.Conv2d(2, 2, 3)), "logits"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_bounds_is_refused_with_one_line_that_names_it(name: str) -> None:
    make, named = REFUSED[name]
    with pytest.raises(UserError) as caught:
        read(make(), SHAPE)
    message = str(caught.value)
    assert named in message
    assert "\n" not in message
    assert "expected" in message


class Written(nn.Module):
    """A forward pass in a line, of two convolutions and a dense layer."""

    def __init__(self, forward: Callable[..., torch.Tensor], relu: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.grey = nn.Conv2d(2, 1, 3, padding=1)
        self.relu, self.last, self.narrow = relu or nn.ReLU(), nn.Linear(256, CLASSES), nn.Linear(64, CLASSES)
        self.columns, self.line = nn.Flatten(2), forward

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.line(self, images)


class Ungiven(Written):
    """A second argument that nobody gives."""

    def forward(self, images: torch.Tensor, more: torch.Tensor | None = None) -> torch.Tensor:
        return self.last((self.first(images) if more is None else self.relu(self.first(images))).flatten(1))


def grown(m: Written, images: torch.Tensor) -> torch.Tensor:
    x = m.first(images)
    x += m.second(m.relu(x))
    return m.last(x.flatten(1))


def halves(m: Written, images: torch.Tensor) -> torch.Tensor:
    x = m.second(m.first(images))
    return m.last((x + x.mean((2, 3), keepdim=True)).flatten(1))


WRITTEN: dict[str, nn.Module] = {
    "a layer called relu that is none": Written(lambda m, x: m.last(m.relu(m.first(x)).flatten(1)), nn.ELU()),
    "a relu in place, its input used again": Written(
        lambda m, x: m.last((lambda h: m.second(m.relu(h)) + h)(m.first(x)).flatten(1)), nn.ReLU(inplace=True)),
    "a function in place, its input used again": Written(
        lambda m, x: m.last((lambda h: m.second(functional.relu(h, inplace=True)) + h)(m.first(x)).flatten(1))),
    "in place, and harmless": Written(lambda m, x: m.last(m.relu(m.first(x)).flatten(1)), nn.ReLU(inplace=True)),
    "a sum with a factor": Written(
        lambda m, x: m.last((lambda h: torch.add(m.second(h), h, alpha=2))(m.relu(m.first(x))).flatten(1))),
    "a sum by name": Written(lambda m, x: m.last((lambda h: torch.add(m.second(h), other=h))(m.relu(m.first(x))).flatten(1))),
    "a sum with a number": Written(lambda m, x: m.last((m.relu(m.first(x)) + 1).flatten(1))),
    "a difference": Written(lambda m, x: m.last((lambda h: m.second(h) - h)(m.relu(m.first(x))).flatten(1))),
    "a sum of itself": Written(lambda m, x: m.last((lambda h: h + h)(m.relu(m.first(x))).flatten(1))),
    "a sum that adds to its first": Written(grown),
    "a sum of unequal shapes": Written(halves),
    "a sum of one channel and four": Written(lambda m, x: m.last(m.relu(m.grey(x) + m.first(x)).flatten(1))),
    "a sum of four channels and one": Written(lambda m, x: m.last(m.relu(m.first(x) + m.grey(x)).flatten(1))),
    "another way in training": Written(lambda m, x: m.last((m.first(x) if m.training else m.relu(m.first(x))).flatten(1))),
    "relu by name": Written(lambda m, x: m.last(functional.relu(input=m.first(x)).flatten(1))),
    "a layer called by name": Written(lambda m, x: m.last(m.relu(m.first(input=x)).flatten(1))),
    "flattened from the columns": Written(lambda m, x: m.narrow(torch.flatten(m.relu(m.first(x)), 2)).flatten(1)[:, :CLASSES]),
    "flattened from the columns, by a layer": Written(lambda m, x: m.narrow(m.columns(m.relu(m.first(x)))).flatten(1)),
    "a relu of rows of columns": Written(lambda m, x: m.relu(m.narrow(m.columns(m.first(x)))).flatten(1)),
    "a relu of the image": Written(lambda m, x: m.last(m.first(m.relu(x)).flatten(1))),
    "a relu of a relu": Written(lambda m, x: m.last(m.relu(m.relu(m.first(x))).flatten(1))),
    "no relu": Written(lambda m, x: m.last(m.second(m.first(x)).flatten(1))),
    "a layer whose answer is not used": Written(lambda m, x: (m.second(m.first(x)), m.last(m.relu(m.first(x)).flatten(1)))[1]),
    "flattened twice": Written(lambda m, x: m.last(m.relu(m.first(x)).flatten(2).flatten(1))),
    "flattened by name": Written(lambda m, x: m.last(torch.flatten(m.relu(m.first(x)), start_dim=1))),
    "flattened in part": Written(lambda m, x: m.last(torch.flatten(m.relu(m.first(x)), 1, 2).flatten(1))),
    "two answers": Written(lambda m, x: (m.last(m.first(x).flatten(1)), m.first(x))),  # type: ignore[arg-type, return-value]
    "an argument nobody gives": Ungiven(lambda m, x: x),
    "cut": Written(lambda m, x: m.last(m.relu(m.first(x))[:, :, ::1].flatten(1))),
    "one layer at the end": Written(lambda m, x: m.relu(m.last(m.first(x).flatten(1)))),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_whatever_a_user_writes_is_read_right_or_refused(name: str) -> None:
    """A certificate of another function than the model's would be worth nothing. Rows carried back to the image see the same
    function as the pass to the logits: at radius 0 the bounds are the margins."""
    model, (images, labels) = WRITTEN[name].double().train(), pictures(5, SHAPE)
    try:
        program = read(model, SHAPE)
    except UserError:
        return
    logits = model.eval()(images)
    torch.testing.assert_close(program.logits(images), logits, rtol=0, atol=1e-12)
    for relaxation in RELAXATIONS:
        found = margins(program, images, labels, Ball("l2", 0.0), relaxation)
        torch.testing.assert_close(found, of_margins(logits, labels), rtol=0, atol=1e-11)
