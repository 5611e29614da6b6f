"""Noise of growing size: how often it fools a half-space, exactly; the same as the plain loop; what the quirk does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from toy_victims import PIXELS, SHAPE, Halfspace, Identity, curved, draws, grey, random_images, uneven_weights

from robust_cli.attacks.classifiers import BaseClassifier
from robust_cli.attacks.losses import fooled
from robust_cli.attacks.noise_search import NoiseSearch
from robust_cli.messages import Wrong

SEARCHES = {"gaussian": NoiseSearch(sizes=200), "uniform": NoiseSearch("uniform", sizes=200),
            "quirk": NoiseSearch(sizes=200, foolbox_quirk=True)}
every_search = pytest.mark.parametrize("attack", SEARCHES.values(), ids=SEARCHES)
N = 1000


def attacked(attack: Any, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, first: int = 0) -> torch.Tensor:
    return attack(BaseClassifier(model), images, labels, draws(len(images), first=first))


def answers(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images).argmax(1)


def below(lead: float, std: float) -> float:
    """P(z std <= lead), z standard normal."""
    return (1 + math.erf(lead / std / math.sqrt(2))) / 2


def share(attack: Any) -> float:
    """How many of N grey images are fooled over a half-space from which they are 0.15 away."""
    weight = uneven_weights()
    model = Halfspace(weight, 0.15 * float(weight.norm()) - float(weight.sum()) / 2)
    return float((answers(model, attacked(attack, model, grey(N), torch.ones(N).long())) == 0).float().mean())


def exact_share(sizes: int, step: float, quirk: bool) -> float:
    """1 - prod_k P(noise of size k does not fool): the noises are independent, and w.noise over |w| is normal."""
    stds = [((k + 1) * step) ** (2 if quirk else 1) / math.sqrt(3) for k in range(sizes)]
    return 1 - math.prod(below(0.15, std) for std in stds)


@pytest.mark.parametrize("sizes", [4, 8, 12])
@pytest.mark.parametrize("quirk", [False, True])
def test_how_often_gaussian_noise_has_fooled_up_to_a_size(sizes: int, quirk: bool) -> None:
    """The distribution of the first size that fools, at three sizes; no pixel of grey is clipped, or nearly so."""
    step = 0.044 if quirk else 0.02
    expected = exact_share(sizes, step, quirk)
    found = share(NoiseSearch(sizes=sizes, largest=sizes * step, foolbox_quirk=quirk))
    error = math.sqrt(max(expected * (1 - expected), 1 / N) / N)
    assert abs(found - expected) < 4.5 * error
    if sizes == 12:
        last = 1 - below(0.15, sizes * step * (sizes * step if quirk else 1) / math.sqrt(3))
        assert abs(found - last) > 10 * error  # one noise, scaled, would have fooled as often as its last size alone
        assert abs(found - exact_share(sizes, step, not quirk)) > 10 * error
        assert abs(share(Identity()) - expected) > 5 * error


@pytest.mark.parametrize("quirk", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_the_noise_itself(kind: str, quirk: bool) -> None:
    """One size, 0.3: its own draws times its scale, for those that it fools."""
    weight = uneven_weights()
    model = Halfspace(weight, 0.001 - float(weight.sum()) / 2)
    found = attacked(NoiseSearch(kind, sizes=1, largest=0.3, foolbox_quirk=quirk), model, grey(20), torch.ones(20).long())
    size = 0.09 if quirk else 0.3
    fresh = draws(20)
    noise = size / math.sqrt(3) * fresh.normal(*SHAPE) if kind == "gaussian" else size * (2 * fresh.uniform(*SHAPE) - 1)
    beaten = answers(model, found) == 0
    assert 3 < int(beaten.sum()) < 17
    assert torch.allclose(found[beaten], (grey(20) + noise).clamp(0, 1)[beaten], atol=1e-6)
    assert torch.equal(found[~beaten], grey(20)[~beaten])


def test_the_scales() -> None:
    assert NoiseSearch().scale(499) == pytest.approx(0.5 / math.sqrt(3))
    assert NoiseSearch("uniform").scale(499) == pytest.approx(0.5)
    assert NoiseSearch(foolbox_quirk=True).scale(499) == pytest.approx(0.25 / math.sqrt(3))
    assert NoiseSearch("uniform", foolbox_quirk=True, sizes=10, largest=2).scale(9) == pytest.approx(4)
    assert [NoiseSearch(kind).norm for kind in ("gaussian", "uniform")] == ["l2", "linf"]


def plain_search(attack: NoiseSearch, model: nn.Module, image: torch.Tensor, label: torch.Tensor, index: int) -> torch.Tensor:
    """One image, one size after the other, one draw each."""
    own = draws(1, first=index)
    for k in range(attack.sizes):
        unit = own.normal(*SHAPE) if attack.kind == "gaussian" else 2 * own.uniform(*SHAPE) - 1
        candidate = (image + attack.scale(k) * unit).clamp(0, 1)
        if bool(fooled(model(candidate).detach(), label)):
            return candidate
    return image


def victims() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model, images = curved().eval(), random_images(12)
    return model, images, answers(model, images)


@every_search
def test_it_is_the_plain_loop_in_any_batch(attack: NoiseSearch) -> None:
    """Images leave when they are fooled, several sizes go in a pass: which, changes no noise."""
    model, images, labels = victims()
    plain = torch.cat([plain_search(attack, model, images[k : k + 1], labels[k : k + 1], k) for k in range(12)])
    assert ((plain != images).flatten(1).any(1)).sum() > 8
    assert torch.allclose(attacked(attack, model, images, labels), plain, atol=1e-6)
    for k in range(3):
        assert torch.allclose(attacked(attack, model, images[k : k + 1], labels[k : k + 1], first=k)[0], plain[k], atol=1e-6)


@every_search
def test_edges(attack: NoiseSearch) -> None:
    """A wrong image is its own example, one that is no number comes back, one that nothing fools as well; the box is kept."""
    model, images, labels = victims()
    images, labels = images[:6].clone(), labels[:6].clone()
    images[:, 0, 0] = images[:, 0, 0].round()
    labels = answers(model, images)
    clean = attacked(attack, model, images, labels)
    labels[1] = (labels[1] + 1) % 3
    images[4, 0, 0, 0] = torch.nan
    found = attacked(attack, model, images, labels)
    assert torch.equal(found[1], images[1])
    assert torch.equal(found[4].nan_to_num(-1), images[4].nan_to_num(-1))
    others = [0, 2, 3, 5]
    assert torch.allclose(found[others], clean[others], atol=1e-6)
    assert ((clean >= 0) & (clean <= 1)).all()
    assert clean.dtype == torch.float32
    constant = Halfspace(torch.zeros(PIXELS), bias=1.0)
    assert torch.equal(attacked(attack, constant, images[:3], torch.ones(3).long()), images[:3])


@every_search
def test_the_model_is_left_as_it_was(attack: NoiseSearch) -> None:
    model, images = curved().train(), random_images(4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attacked(attack, model, images, torch.zeros(4).long())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("setting", [{"kind": "laplace"}, {"sizes": 0}, {"largest": 0.0}, {"largest": math.inf}], ids=repr)
def test_wrong_settings(setting: dict[str, Any]) -> None:
    with pytest.raises(Wrong, match=next(iter(setting))):
        NoiseSearch(**setting)
