"""Training with noise after the first layer: the noise is where it should be, of the size asked for, and learned through."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from robust_cli.messages import UserError, Wrong
from robust_cli.models.classifier import classifier
from robust_cli.models.cnn_small import CnnSmall
from robust_cli.regimes.batch import Batch, Progress
from robust_cli.regimes.pixeldp import PixelDP

PROGRESS = Progress(step=5, epoch=1, total=100, seed=7)
SHAPE = (1, 8, 8)


class Spy(nn.Module):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.seen.append(inputs)
        return inputs


class Layers(nn.Module):
    """A dense first layer, known: 3 W x, and what comes after it is seen."""

    def __init__(self, dense: bool) -> None:
        super().__init__()
        self.spy = Spy()
        first = [nn.Flatten(), nn.Linear(64, 50)] if dense else [nn.Conv2d(1, 6, 3, stride=2)]
        last = nn.Linear(50 if dense else 54, 3)
        self.layers = nn.Sequential(*first, self.spy, nn.Flatten(), last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def images(n: int = 40) -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.rand(n, *SHAPE, generator=generator), torch.arange(n) % 3, torch.arange(n))


def noise_of(regime: PixelDP, progress: Progress = PROGRESS, dense: bool = False, batch: Batch | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    model, batch = classifier(Layers(dense), [0.2], [0.5]), batch or images()
    regime.loss(model, batch, progress)
    (seen,) = model.network.spy.seen
    before = model.network.layers[: 2 if dense else 1]
    return (seen - before(model.normalisation(batch.images))).detach().double()


@pytest.mark.parametrize("dense", [True, False])
def test_the_noise_is_gaussian_after_the_first_layer_in_its_units(dense: bool) -> None:
    noise = noise_of(PixelDP(noise_std=0.7), dense=dense, batch=images(400)).flatten()
    n = noise.numel()
    assert abs(noise.mean()) < 5 * 0.7 / math.sqrt(n)
    assert abs(noise.std() - 0.7) < 5 * 0.7 / math.sqrt(2 * n)  # whatever the normalisation's 0.5 and the layer's weights
    assert abs((noise / 0.7).pow(4).mean() - 3) < 5 * math.sqrt(96 / n)


def test_it_is_fresh_at_every_step_and_the_same_again_for_the_same() -> None:
    regime = PixelDP()
    assert torch.equal(noise_of(regime), noise_of(regime))
    for other in (replace(PROGRESS, step=6), replace(PROGRESS, seed=8)):
        assert (noise_of(regime) - noise_of(regime, other)).std() > 0.5


def test_it_rises_where_that_is_asked_for() -> None:
    whole = noise_of(PixelDP())
    half = noise_of(PixelDP(noise_warmup=0.12))  # step 5 of the 12 in which it rises
    torch.testing.assert_close(half, whole / 2, rtol=1e-4, atol=1e-5)
    risen = noise_of(PixelDP(noise_warmup=0.12), replace(PROGRESS, validating=True))
    torch.testing.assert_close(risen, whole, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_cross_entropy_behind_the_noise_and_reaches_the_first_layer() -> None:
    torch.manual_seed(0)
    model, batch = classifier(Layers(False), [0.2], [0.5]), images()
    found = PixelDP(noise_std=0.4).loss(model, batch, PROGRESS)
    (seen,) = model.network.spy.seen
    logits = model.network.layers[3](seen.flatten(1))
    torch.testing.assert_close(found.total, nn.functional.cross_entropy(logits, batch.labels))
    assert set(found.terms) == {"cross_entropy_noisy"}
    found.total.backward()
    assert all(parameter.grad is not None and parameter.grad.norm() > 0 for parameter in model.parameters())


def test_the_noise_is_float32_also_under_autocast() -> None:
    torch.manual_seed(0)
    model = classifier(Layers(False), [0.2], [0.5])
    with torch.autocast("cpu", torch.bfloat16):
        PixelDP(noise_std=0.4).loss(model, images(), PROGRESS)
    assert model.network.spy.seen[0].dtype == torch.float32


def test_it_trains_what_has_a_first_layer_and_refuses_the_rest() -> None:
    PixelDP().loss(classifier(CnnSmall(SHAPE, 3), [0.5], [1.0]), images(), PROGRESS).total.backward()
    with pytest.raises(UserError, match="regime=pixeldp"):
        PixelDP().loss(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), images(), PROGRESS)
    for settings in ({"noise_std": 0.0}, {"noise_std": math.inf}, {"noise_warmup": 1.5}):
        with pytest.raises(Wrong, match=next(iter(settings))):
            PixelDP(**settings)
    assert PixelDP.layer == "first"


def test_the_papers_factor_from_attack_size_to_noise() -> None:
    """sqrt(2 ln(1.25 / delta)) / epsilon at epsilon 1, delta 0.05, as the docstring has it."""
    assert math.sqrt(2 * math.log(1.25 / 0.05)) == pytest.approx(2.537272, abs=5e-7)
    assert "2.537272" in (PixelDP.__doc__ or "")
