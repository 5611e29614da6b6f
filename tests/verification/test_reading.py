"""A model that computes something else than its layers say is refused: certified would be another function than it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from robust_cli.messages import UserError
from robust_cli.verification.certified import proof
from robust_cli.verification.reading import read

SIDE = 4


class Net(nn.Module):
    """flatten, dense 16-8, then what a case does with h, dense 8-3."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(SIDE * SIDE, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.between(self.first(torch.flatten(images, 1))))

    def between(self, h: torch.Tensor) -> torch.Tensor:
        return functional.relu(h)


class Halves(nn.ReLU):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) / 2


class Bent(nn.Flatten):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).abs()


class OfAState(Net):
    calls = 0

    def between(self, h: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return h.relu() if self.calls % 2 else h


class OfAGuide(Net):
    def forward(self, images: torch.Tensor, guide: torch.Tensor | None = None) -> torch.Tensor:
        h = self.first(torch.flatten(images, 1))
        return self.last(functional.relu(h) if guide is None else h + self.first(torch.flatten(guide, 1)))


class NeverInEvaluation(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.norm.running_mean.fill_(3.0)

    def train(self, mode: bool = True) -> NeverInEvaluation:
        return super().train(True)

    def between(self, h: torch.Tensor) -> torch.Tensor:
        return self.norm(h).relu()


def doing(name: str, between: Any, *layers: tuple[str, nn.Module]) -> Any:
    kind = type(name, (Net,), {"between": between})

    def make() -> nn.Module:
        model = kind()
        for key, layer in layers:
            setattr(model, key, layer)
        return model

    return pytest.param(make, id=name)


def hooked(kind: str, where: str) -> Any:
    def make() -> nn.Module:
        model = Net()
        part = model if where == "model" else model.first
        register = {"before": part.register_forward_pre_hook, "after": part.register_forward_hook}[kind]
        register((lambda _, inputs: (inputs[0] * 2,)) if kind == "before" else lambda _, __, output: output * 2)
        return model

    return pytest.param(make, id=f"a hook {kind} {where}")


def replaced() -> nn.Module:
    model = Net()
    model.first.forward = lambda h: functional.linear(h, model.first.weight) * 2  # type: ignore[method-assign]
    return model


OTHERS = [
    doing("a ReLU in place whose input is used again", lambda self, h: self.relu(h) + h, ("relu", nn.ReLU(inplace=True))),
    doing("the same by the function", lambda self, h: functional.relu(h, inplace=True) + h),
    doing("the same behind a view", lambda self, h: functional.relu(self.drop(h), True) + h, ("drop", nn.Dropout())),
    doing("a sum with a factor", lambda self, h: torch.add(h.relu(), self.middle(h), alpha=-2)),
    doing("the same by the method", lambda self, h: h.relu().add(self.middle(h), alpha=2)),
    doing("a sum that is broadcast", lambda self, h: h.relu() + self.one(h), ("one", nn.Linear(8, 1))),
    doing("a difference", lambda self, h: h.relu() - self.middle(h)),
    doing("a constant", lambda self, h: h.relu() + 1),
    doing("a multiple", lambda self, h: h.relu() * 2),
    doing("a layer that is only called relu", lambda self, h: self.relu(h), ("relu", nn.LeakyReLU(0.5))),
    doing("a ReLU that is more", lambda self, h: self.relu(h), ("relu", Halves())),
    doing("a flatten that is more", lambda self, h: self.flat(h.relu()), ("flat", Bent())),
    doing("dropout by the function", lambda self, h: functional.dropout(h.relu(), 0.5)),
    hooked("before", "model"), hooked("after", "model"), hooked("before", "layer"), hooked("after", "layer"),
    pytest.param(replaced, id="a forward that was replaced"),
    pytest.param(OfAState, id="a state"), pytest.param(OfAGuide, id="another argument that makes a difference"),
    pytest.param(NeverInEvaluation, id="batch norm that never leaves training"),
]


@pytest.mark.parametrize("make", OTHERS)
def test_another_function_is_refused_in_one_line(make: Any) -> None:
    torch.manual_seed(0)
    model = make().eval()
    with pytest.raises(UserError) as raised:
        proof(model, (1, SIDE, SIDE))
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith("lp_dual: expected")
    assert "neyman_pearson" in text


TAKEN = [
    doing("plain", lambda self, h: functional.relu(h)),
    doing("a ReLU in place that is alone", lambda self, h: self.relu(h), ("relu", nn.ReLU(inplace=True))),
    doing("twice the same branch", lambda self, h: h.relu() + h.relu()),
    doing("three uses", lambda self, h: self.middle(h).relu() + h.relu() + h),
    doing("dropout as a layer", lambda self, h: self.drop(h).relu(), ("drop", nn.Dropout())),
]


@pytest.mark.parametrize("make", TAKEN)
def test_its_like_that_are_known_give_the_models_logits(make: Any) -> None:
    torch.manual_seed(0)
    model, images = make().eval().double(), 3 * torch.randn(16, 1, SIDE, SIDE, dtype=torch.float64)
    torch.testing.assert_close(read(model, (1, SIDE, SIDE)).logits(images), model(images), rtol=1e-12, atol=1e-12)


def test_weights_that_are_no_numbers_are_refused() -> None:
    model = Net().eval()
    with torch.no_grad():
        model.last.bias[0] = torch.nan
    with pytest.raises(UserError, match="no numbers"):
        proof(model, (1, SIDE, SIDE))


def test_a_single_logit_is_no_classifier() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 1))
    with pytest.raises(UserError, match="two classes"):
        read(model, (1, SIDE, SIDE))


def test_a_network_that_is_constant_is_proven_on_a_ball_of_all_images() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    made, images = proof(model, (1, SIDE, SIDE)), torch.rand(2, 1, SIDE, SIDE)
    assert made.largest(images, torch.tensor([2, 1]), "l2", 1e-3).tolist() == [4.0, 0.0]
    assert made.largest(images, torch.tensor([2, 1]), "linf", 1e-3).tolist() == [1.0, 0.0]
