"""The smallest FGSM and PGD that fool: exact thresholds of half-spaces, and the same as the plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from toy_victims import PIXELS, SHAPE, Halfspace, curved, draws, grey, random_images, uneven_weights

from robust_cli.attacks.classifiers import BaseClassifier
from robust_cli.attacks.geometry import distances
from robust_cli.attacks.losses import LOSSES, fooled
from robust_cli.attacks.minimal_size import MinimalFgsm, MinimalPgd
from robust_cli.messages import Wrong

ATTACKS: dict[str, Any] = {"fgsm": MinimalFgsm(), "fgm": MinimalFgsm(norm="l2"), "pgd": MinimalPgd(bisections=6)}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
DUAL = {"linf": 1, "l2": 2}


def attacked(attack: Any, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return attack(BaseClassifier(model), images, labels, draws(len(images)))


def answers(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images).argmax(1)


def at_threshold(size: float, norm: str) -> tuple[Halfspace, torch.Tensor]:
    """Label 1 of a grey image falls at ``size``: lead over the dual norm of the weights."""
    weight = uneven_weights()
    lead = size * float(torch.linalg.vector_norm(weight, ord=DUAL[norm]))
    return Halfspace(weight, lead - float(weight.sum()) / 2), torch.ones(1).long()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("size", [0.0031, 0.01234, 0.0567, 0.3333])
def test_fgsm_finds_the_size_of_the_grid_above_the_threshold(norm: str, size: float) -> None:
    model, labels = at_threshold(size, norm)
    found = attacked(MinimalFgsm(norm), model, grey(1), labels)
    away, step = float(distances(found, grey(1), norm)), (1.0 if norm == "linf" else PIXELS**0.5) / 1000
    assert answers(model, found)[0] == 0
    if size < 20 * step:
        step *= (int(size / step) + 1) / 20
    assert away == pytest.approx((int(size / step) + 1) * step, rel=1e-4)
    assert size < away < size + 1.001 * step


def test_the_finer_scan_can_be_left_out_and_the_grid_chosen() -> None:
    model, labels = at_threshold(0.0031, "linf")
    for attack, expected in ((MinimalFgsm(finer=0), 0.004), (MinimalFgsm(finer=3), 0.004), (MinimalFgsm(finer=5), 0.0032),
                             (MinimalFgsm(sizes=10, largest=0.05, finer=0), 0.005)):
        away = float(distances(attacked(attack, model, grey(1), labels), grey(1), "linf"))
        assert away == pytest.approx(expected, rel=1e-4)
    assert torch.equal(attacked(MinimalFgsm(largest=0.003), model, grey(1), labels), grey(1))


class Band(nn.Module):
    """Label 0 but where the sum of pixels lies in (9, 9.5) or above 12: not fooled again until far after it was."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        s = images.flatten(1).sum(1)
        return torch.stack([torch.zeros_like(s), torch.maximum(-(s - 9) * (s - 9.5), s - 12)], 1)


def test_the_first_size_counts_though_larger_ones_fail() -> None:
    found = attacked(MinimalFgsm(), Band(), grey(1), torch.zeros(1).long())
    assert float(distances(found, grey(1), "linf")) == pytest.approx(0.063, rel=1e-4)  # 8 + 16 size > 9


def plain_fgsm(model: nn.Module, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """One image, one size after the other."""
    inputs = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES["cross_entropy"](model(inputs), label).sum(), inputs)
    sizes = torch.arange(1, 1001) / 1000
    for _ in range(2):
        ways = ((size, (image + size * gradient.sign()).clamp(0, 1)) for size in sizes.tolist())
        size, found = next(((size, x) for size, x in ways if bool(fooled(model(x).detach(), label))), (0.0, image))
        if size == 0 or size > 0.0201:
            return found
        sizes = torch.arange(1, 21) / 20 * size
    return found


def plain_pgd(model: nn.Module, image: torch.Tensor, label: torch.Tensor, bisections: int) -> torch.Tensor:
    """One image, one run after the other; the nearest adversarial image of all."""
    best, nearest = image, float("inf")

    def run(size: torch.Tensor) -> bool:
        nonlocal best, nearest
        x = image
        for _ in range(40):
            inputs = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(LOSSES["cross_entropy"](model(inputs), label).sum(), inputs)
            x = (image + (x + 1 / 30 * size * gradient.sign() - image).clamp(-size, size)).clamp(0, 1)
            if bool(fooled(model(x).detach(), label)):
                if (away := float((x - image).abs().max())) < nearest:
                    best, nearest = x, away
                return True
        return False

    size, bad = torch.tensor(0.3), torch.tensor(0.0)  # float32, or rounding turns signs where a slope vanishes
    for _ in range(20):
        if run(size):
            break
        size = size * 1.5
    else:
        return image
    good = size
    for _ in range(bisections):
        size = (good + bad) / 2
        good, bad = (size, bad) if run(size) else (good, size)
    return best


def victims() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model, images = curved().eval(), random_images(20)
    labels = answers(model, images)
    labels[2] = (labels[2] + 1) % 3  # wrong from the beginning
    return model, images, labels


def test_fgsm_is_the_plain_scan() -> None:
    """In one batch, where an image leaves when it is fooled and several sizes go in a pass; also for those that no size fools."""
    model, images, labels = victims()
    found = attacked(MinimalFgsm(), model, images, labels)
    plain = torch.cat([plain_fgsm(model, images[k : k + 1], labels[k : k + 1]) for k in range(20)])
    away = distances(plain, images, "linf")
    assert torch.equal(found[2], images[2])
    assert (away[away > 0] < 0.02).any()  # some in the finer scan
    assert (away > 0.02).any()
    others = [k for k in range(20) if k != 2]
    assert torch.allclose(found[others], plain[others], atol=1e-6)


def test_fgsm_wastes_few_passes() -> None:
    """For an image alone, at most as many copies as had to be tried, and for many none."""
    for images, factor in ((1, 2), (300, 1)):
        model, labels = at_threshold(0.25, "linf")
        classifier = BaseClassifier(model)
        MinimalFgsm()(classifier, grey(images), labels.repeat(images), draws(images))
        assert classifier.network.backward_passes == images
        assert classifier.network.forward_passes <= images * (factor * 251 + 1)


def test_pgd_is_the_plain_loop() -> None:
    model, images, labels = victims()
    images, labels = images[:10], labels[:10]
    found = attacked(MinimalPgd(bisections=8), model, images, labels)
    plain = torch.cat([plain_pgd(model, images[k : k + 1], labels[k : k + 1], 8) for k in (0, 1, *range(3, 10))])
    assert torch.equal(found[2], images[2])
    assert torch.allclose(found[[0, 1, *range(3, 10)]], plain, atol=1e-5)


@pytest.mark.parametrize(("size", "start"), [(0.0031, 0.3), (0.0567, 0.01), (0.3333, 0.3), (0.48, 0.1)])
def test_pgd_finds_the_threshold(size: float, start: float) -> None:
    """From below by enlarging and from above by bisection, alone and beside one that fools at once."""
    model, labels = at_threshold(size, "linf")
    images = torch.cat([grey(1), grey(1) - 0.4 * size * uneven_weights().sign().view(1, *SHAPE)])
    found = attacked(MinimalPgd(size=start), model, images, labels.repeat(2))
    assert (answers(model, found) == 0).all()
    assert distances(found, images, "linf").tolist() == pytest.approx([size, 0.6 * size], rel=2e-4)


def test_pgd_enlarges_as_often_as_it_may() -> None:
    model, labels = at_threshold(0.4, "linf")
    reach = 0.1 * 1.5**3  # the fourth size; forty steps of a thirtieth of it go to its edge
    assert reach < 0.4 < 1.5 * reach
    assert torch.equal(attacked(MinimalPgd(size=0.1, tries=4), model, grey(1), labels), grey(1))
    found = attacked(MinimalPgd(size=0.1, tries=5, bisections=0), model, grey(1), labels)
    assert 0.4 < float(distances(found, grey(1), "linf")) <= 0.4 + 1.5 * reach / 30 + 1e-6


def test_pgd_is_no_farther_than_fgsm_on_a_curved_network() -> None:
    model, images, labels = victims()
    fgsm, pgd = (attacked(attack, model, images, labels) for attack in (MinimalFgsm(), MinimalPgd(bisections=12)))
    fooling = (answers(model, fgsm) != labels) & (distances(fgsm, images, "linf") > 0)
    assert (answers(model, pgd) != labels)[fooling].all()
    ratio = (distances(pgd, images, "linf") / distances(fgsm, images, "linf"))[fooling]
    assert float(ratio.median()) < 0.999


@every_attack
def test_where_there_is_no_example_the_image_comes_back(attack: Any) -> None:
    images, labels = random_images(3), torch.ones(3).long()
    for model in (Halfspace(torch.zeros(PIXELS), bias=1.0), Halfspace(0.01 * uneven_weights(), bias=1.0)):
        assert torch.equal(attacked(attack, model, images, labels), images)


@every_attack
def test_a_batch_is_its_images_one_by_one(attack: Any) -> None:
    model, images, labels = victims()
    whole = attacked(attack, model, images[:6], labels[:6])
    assert whole.dtype == torch.float32
    assert ((whole >= 0) & (whole <= 1)).all()
    for k in range(3):
        assert torch.allclose(attacked(attack, model, images[k : k + 1], labels[k : k + 1])[0], whole[k], atol=1e-5)


@every_attack
def test_one_image_that_is_no_number_does_not_fail_the_batch(attack: Any) -> None:
    model, images, labels = victims()
    images, labels = images[:5], labels[:5]
    damaged = images.clone()
    damaged[3, 0, 1, 1] = torch.nan
    found, whole = attacked(attack, model, damaged, labels), attacked(attack, model, images, labels)
    assert torch.allclose(found[[0, 1, 2, 4]], whole[[0, 1, 2, 4]], atol=1e-5)
    assert torch.equal(found[3].nan_to_num(-1), damaged[3].nan_to_num(-1))


@every_attack
def test_the_model_is_left_as_it_was(attack: Any) -> None:
    model, images = curved().train(), random_images(4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attacked(attack, model, images, torch.zeros(4).long())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("kind", "setting"), [
    (MinimalFgsm, {"norm": "l1"}), (MinimalFgsm, {"sizes": 0}), (MinimalFgsm, {"largest": 0.0}), (MinimalFgsm, {"finer": -1}),
    (MinimalPgd, {"norm": "l2"}), (MinimalPgd, {"size": 0.0}), (MinimalPgd, {"steps": 0}), (MinimalPgd, {"step_size": 0.0}),
    (MinimalPgd, {"tries": 0}), (MinimalPgd, {"bisections": -1})], ids=repr)
def test_wrong_settings(kind: Any, setting: dict[str, Any]) -> None:
    with pytest.raises(Wrong, match=next(iter(setting))):
        kind(**setting)
