from __future__ import annotations

import pytest
import torch
from torch import nn

from robust_cli.models.classifier import classifier, frozen, parameters_count


def mixed_model() -> nn.Sequential:
    """Some parts in training and some not, some parameters trained and some not."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    model = classifier(network, [0.5], [0.25])
    model.train()
    network[2].eval()
    network[1].weight.requires_grad_(False)
    return model


def state(model: nn.Module) -> tuple[list[bool], list[bool]]:
    return [part.training for part in model.modules()], [parameter.requires_grad for parameter in model.parameters()]


def test_the_network_sees_normalised_images() -> None:
    model = classifier(nn.Identity(), [0.5], [0.25])
    assert [name for name, _ in model.named_children()] == ["normalisation", "network"]
    assert torch.equal(model(torch.ones(1, 1, 2, 2)), torch.full((1, 1, 2, 2), 2.0))


def test_frozen_evaluates_and_gives_gradients_to_the_input_only() -> None:
    model, images = mixed_model(), torch.rand(4, 1, 3, 4, requires_grad=True)
    running = model.get_buffer("network.2.running_mean").clone()
    with frozen(model) as same:
        assert same is model
        modes, wanted = state(model)
        assert not any(modes)
        assert not any(wanted)
        assert torch.equal(model(images), model(images))
        model(images).sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(model.get_buffer("network.2.running_mean"), running)


def test_frozen_gives_every_part_its_own_mode_back() -> None:
    model = mixed_model()
    before = state(model)
    with frozen(model), frozen(model):
        pass
    assert state(model) == before
    assert len(set(before[0])) == len(set(before[1])) == 2  # or this test would prove nothing


def test_frozen_restores_after_an_exception() -> None:
    model = mixed_model()
    before = state(model)
    with pytest.raises(ZeroDivisionError), frozen(model):
        raise ZeroDivisionError
    assert state(model) == before


def test_parameters_are_counted_without_buffers() -> None:
    assert parameters_count(mixed_model()) == (12 * 8 + 8) + 16 + (8 * 3 + 3)
