"""Accuracy by counting, the sign of a collapse, and which hardware auto means."""

from __future__ import annotations

import pytest
import torch
from small_problem import network, stripes
from torch import nn

from robust_cli.messages import UserError
from robust_cli.regimes.stability import Stability
from robust_cli.regimes.standard import Standard
from robust_cli.regimes.trades import Trades
from robust_cli.training.evaluation import accuracy, collapse, predictions, sample
from robust_cli.training.hardware import chosen_device, chosen_precision
from robust_cli.training.settings import Device, Precision

CPU = torch.device("cpu")


class Column(nn.Module):
    """Right on the striped images by construction: the brightness of each class's own column."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, :, [1, 3, 5]].sum(1)


@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
def test_accuracy_counts(batch_size: int) -> None:
    images = stripes(30)
    assert accuracy(Column(), images, batch_size, CPU) == 1.0
    wrong = images.labels.clone()
    wrong[:6] = (wrong[:6] + 1) % 3
    moved = type(images)(images.pixels, wrong, images.indices, images.class_names)
    assert accuracy(Column(), moved, batch_size, CPU) == pytest.approx(24 / 30)
    assert torch.equal(predictions(Column(), moved, batch_size, CPU), images.labels)


def test_accuracy_is_that_of_evaluation_mode_and_leaves_the_model_as_it_was() -> None:
    model = network(dropout=0.9).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (predictions(model, stripes(60), 60, CPU) for _ in range(2))
    assert torch.equal(first, second)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_sample_is_evenly_spaced() -> None:
    assert sample(stripes(10), 20).indices.tolist() == list(range(1000, 1010))
    assert sample(stripes(10), 5).indices.tolist() == [1000, 1002, 1004, 1006, 1008]
    assert len(sample(stripes(999), 100)) == 100


LABELS = torch.arange(1000) % 10


def _known(classes: int) -> torch.Tensor:
    """Right for the first classes, and class 0 for the others."""
    return torch.where(classes > LABELS, LABELS, 0)


@pytest.mark.parametrize(("predicted", "collapsed"), [
    (LABELS, False), (_known(5), False), (_known(4), True), (_known(1), True), ((LABELS + 1) % 10, True),
    (torch.where(torch.arange(1000) < 60, LABELS, _known(4)), True)])  # a few stray predictions are no knowledge
def test_collapse_of_ten_classes(predicted: torch.Tensor, collapsed: bool) -> None:
    assert (collapse(predicted, LABELS, Standard(), 1000) is not None) == collapsed


def test_collapse_says_how_far() -> None:
    text = collapse(_known(3), LABELS, Standard(), 1000)
    assert text is not None
    assert "3 of 10 classes" in text
    assert "30.0%" in text
    assert "10.0%" in text
    assert "training.init_from" in text


def test_the_advice_names_settings_that_the_regime_has_and_a_beginning_is_no_collapse() -> None:
    for regime, named, not_named in ((Stability(weight=5.0), "the regime's weight", "budget"),
                                     (Standard(), "learning_rate", "weight,"),
                                     (Trades(), "regime.budget_warmup=0.5", "noise_warmup")):
        text = collapse(_known(3), LABELS, regime, 1000)
        assert text is not None
        assert "has collapsed" in text
        assert named in text
        assert not_named not in text
    early = collapse(_known(3), LABELS, Stability(weight=5.0), 7)
    assert early is not None
    assert "hardly learned anything in 7 step(s)" in early
    assert "weight" not in early


def test_collapse_of_two_classes_and_of_one() -> None:
    labels = torch.arange(100) % 2
    assert collapse(torch.zeros(100, dtype=torch.int64), labels, Standard(), 1000) is not None
    right = torch.where(torch.arange(100) < 30, 1 - labels, labels)
    assert collapse(right, labels, Standard(), 1000) is None  # 70 % right, both classes
    assert collapse(torch.zeros(9, dtype=torch.int64), torch.zeros(9, dtype=torch.int64), Standard(), 1000) is None


def test_auto_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device(Device.auto) == CPU
    with pytest.raises(UserError, match="device=cpu"):
        chosen_device(Device.cuda)
    assert chosen_precision(Precision.auto, CPU) is Precision.fp32
    assert chosen_precision(Precision.bf16, CPU) is Precision.bf16
    for native, expected in ((True, Precision.bf16), (False, Precision.fp32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert chosen_precision(Precision.auto, torch.device("cuda")) is expected
