"""Residual networks are the functions of their papers: written out here once more from the tensors of their state dicts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from small_networks import COLOUR, trained_a_little
from torch import nn
from torch.nn import functional

from robust_cli.models.classifier import parameters_count
from robust_cli.models.pre_activation import PreActivationUnit
from robust_cli.models.resnet import BasicBlock, ResNet
from robust_cli.models.standardisation import Standardisation
from robust_cli.models.wrn import Wrn
from robust_cli.models.wrn_madry import WrnMadry

State = dict[str, torch.Tensor]
ByHand = Callable[[torch.Tensor, State, int], torch.Tensor]


def normalised(images: torch.Tensor, state: State, name: str, epsilon: float) -> torch.Tensor:
    """Batch norm with its running statistics."""
    mean, variance, scale, shift = (state[f"{name}.{part}"][:, None, None]
                                    for part in ("running_mean", "running_var", "weight", "bias"))
    return (images - mean) / (variance + epsilon).sqrt() * scale + shift


def stages(network: nn.Module, shape: tuple[int, int, int], names: list[str]) -> list[tuple[int, ...]]:
    """The output sizes of some of the network's layers."""
    found: list[tuple[int, ...]] = []
    for name in names:
        network.get_submodule(f"layers.{name}").register_forward_hook(
            lambda _, __, output: found.append(tuple(output.shape[1:])))
    network.eval()(torch.zeros(1, *shape))
    return found


def test_stages_have_the_papers_sizes() -> None:
    blocks = ["conv1", "block1", "block2", "block3", "pool"]
    wide = [(16, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (256, 1, 1)]
    assert stages(Wrn(COLOUR, 10), COLOUR, blocks) == wide
    assert stages(WrnMadry(COLOUR, 10, units=1, width=4), COLOUR, blocks) == wide
    layers = ["conv1", "layer1", "layer2", "layer3", "pool"]
    for shortcut in ("projection", "zeros"):
        thin = [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (64, 1, 1)]
        assert stages(ResNet(COLOUR, 10, shortcut=shortcut), COLOUR, layers) == thin
        odd = [(16, 9, 28), (16, 9, 28), (32, 5, 14), (64, 3, 7), (64, 1, 1)]
        assert stages(ResNet((1, 9, 28), 10, shortcut=shortcut), (1, 9, 28), layers) == odd
    assert stages(Wrn((1, 9, 28), 10, width=1), (1, 9, 28), blocks) == odd


@pytest.mark.parametrize("depth", [20, 110])
def test_resnets_parameters_by_hand(depth: int) -> None:
    """Two convolutions and two batch norms (scale and shift) a block; He et al. give 0.27 and 1.7 million."""
    n = (depth - 2) // 6
    groups = sum(9 * inputs * width + 9 * width**2 * (2 * n - 1) + 2 * 2 * n * width
                 for inputs, width in ((16, 16), (16, 32), (32, 64)))
    zeros = 27 * 16 + 2 * 16 + groups + 64 * 10 + 10
    assert zeros == {20: 269_722, 110: 1_727_962}[depth]
    assert parameters_count(ResNet(COLOUR, 10, depth, "zeros")) == zeros
    assert parameters_count(ResNet(COLOUR, 10, depth)) == zeros + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


def wrn_by_hand(images: torch.Tensor, state: State, units: int) -> torch.Tensor:
    hidden = functional.conv2d(images, state["conv1.weight"], padding=1)
    for group, unit in ((g, u) for g in (1, 2, 3) for u in range(units)):
        name, stride = f"block{group}.layer.{unit}", 2 if group > 1 and unit == 0 else 1
        active = normalised(hidden, state, f"{name}.bn1", 1e-5).relu()
        branch = functional.conv2d(active, state[f"{name}.conv1.weight"], stride=stride, padding=1)
        branch = normalised(branch, state, f"{name}.bn2", 1e-5).relu()
        branch = functional.conv2d(branch, state[f"{name}.conv2.weight"], padding=1)
        if f"{name}.convShortcut.weight" in state:
            hidden = functional.conv2d(active, state[f"{name}.convShortcut.weight"], stride=stride)
        hidden = hidden + branch
    last = normalised(hidden, state, "bn1", 1e-5).relu().mean((2, 3))
    return last @ state["fc.weight"].T + state["fc.bias"]


def madry_by_hand(images: torch.Tensor, state: State, units: int) -> torch.Tensor:
    """Convolutions of stride 2 see nothing before the first pixel and one pixel of zeros after the last."""
    def leaky(values: torch.Tensor) -> torch.Tensor:
        return torch.where(values < 0, 0.1 * values, values)

    flat = images.flatten(1)
    images = (images - flat.mean(1)[:, None, None, None]) / flat.std(1, correction=0)[:, None, None, None]
    hidden = functional.conv2d(images, state["conv1.weight"], padding=1)
    for group, unit in ((g, u) for g in (1, 2, 3) for u in range(units)):
        name, shrinks = f"block{group}.{unit}", group > 1 and unit == 0
        active = leaky(normalised(hidden, state, f"{name}.bn1", 1e-3))
        if shrinks:
            branch = functional.conv2d(functional.pad(active, (0, 1, 0, 1)), state[f"{name}.conv1.1.weight"], stride=2)
        else:
            branch = functional.conv2d(active, state[f"{name}.conv1.weight"], padding=1)
        branch = leaky(normalised(branch, state, f"{name}.bn2", 1e-3))
        branch = functional.conv2d(branch, state[f"{name}.conv2.weight"], padding=1)
        shortcut = active if group == 1 and unit == 0 else hidden
        if shrinks:
            n, c, h, w = hidden.shape
            shortcut = hidden.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))
        zeros = torch.zeros(len(branch), (branch.shape[1] - shortcut.shape[1]) // 2, *branch.shape[2:])
        hidden = torch.cat([zeros, shortcut, zeros], 1) + branch
    return leaky(normalised(hidden, state, "bn1", 1e-3)).mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def resnet_by_hand(images: torch.Tensor, state: State, blocks: int) -> torch.Tensor:
    hidden = normalised(functional.conv2d(images, state["conv1.weight"], padding=1), state, "bn1", 1e-5).relu()
    for group, block in ((g, b) for g in (1, 2, 3) for b in range(blocks)):
        name, stride = f"layer{group}.{block}", 2 if group > 1 and block == 0 else 1
        branch = functional.conv2d(hidden, state[f"{name}.conv1.weight"], stride=stride, padding=1)
        branch = normalised(branch, state, f"{name}.bn1", 1e-5).relu()
        branch = functional.conv2d(branch, state[f"{name}.conv2.weight"], padding=1)
        branch = normalised(branch, state, f"{name}.bn2", 1e-5)
        if f"{name}.downsample.0.weight" in state:
            hidden = functional.conv2d(hidden, state[f"{name}.downsample.0.weight"], stride=2)
            hidden = normalised(hidden, state, f"{name}.downsample.1", 1e-5)
        elif stride == 2:
            zeros = torch.zeros_like(branch[:, : branch.shape[1] // 4])
            hidden = torch.cat([zeros, hidden[:, :, ::2, ::2], zeros], 1)
        hidden = (hidden + branch).relu()
    return hidden.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize(("network", "by_hand", "repeats"), [
    (lambda: Wrn((3, 16, 12), 10, depth=16, width=2), wrn_by_hand, 2),
    (lambda: Wrn((3, 16, 12), 10, depth=16, width=1), wrn_by_hand, 2),
    (lambda: WrnMadry((3, 16, 12), 10, units=2, width=2), madry_by_hand, 2),
    (lambda: WrnMadry((3, 16, 12), 10, units=2, width=1), madry_by_hand, 2),
    (lambda: ResNet((3, 16, 12), 10, depth=14), resnet_by_hand, 2),
    (lambda: ResNet((3, 16, 12), 10, depth=14, shortcut="zeros"), resnet_by_hand, 2),
])
def test_networks_are_these_functions(network: Callable[[], nn.Module], by_hand: ByHand, repeats: int) -> None:
    torch.manual_seed(0)
    made = trained_a_little(network(), (3, 16, 12)).double()
    images = torch.rand(4, 3, 16, 12, dtype=torch.float64)
    state = {name.removeprefix("layers."): tensor.double() for name, tensor in made.state_dict().items()}
    torch.testing.assert_close(made(images).detach(), by_hand(images, state, repeats), rtol=1e-9, atol=1e-9)


def silenced(network: nn.Module, last: str) -> None:
    """Every residual branch answers 0."""
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, PreActivationUnit | BasicBlock):
                end = part.get_submodule(last)
                assert isinstance(end, nn.Conv2d | nn.BatchNorm2d)
                for parameter in end.parameters():
                    parameter.zero_()


def unit_of(network: nn.Module, path: str) -> nn.Module:
    return network.get_submodule(f"layers.{path}")


def test_without_its_branch_a_unit_is_its_shortcut() -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 32, 8, 6)
    wide = trained_a_little(Wrn(COLOUR, 10, depth=16, width=2), COLOUR)
    silenced(wide, "conv2")
    assert torch.equal(unit_of(wide, "block1.layer.1")(images), images)
    projecting = unit_of(wide, "block2.layer.0")
    active = projecting.get_submodule("bn1")(images).relu()
    kernel = projecting.get_submodule("convShortcut").get_parameter("weight")
    assert kernel.shape == (64, 32, 1, 1)
    torch.testing.assert_close(projecting(images), torch.einsum("nchw,kc->nkhw", active[:, :, ::2, ::2], kernel[:, :, 0, 0]),
                               rtol=1e-4, atol=1e-4)


def test_without_its_branch_a_unit_of_madrys_averages_and_adds_channels() -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 32, 8, 6)
    network = trained_a_little(WrnMadry(COLOUR, 10, units=2, width=2), COLOUR)
    silenced(network, "conv2")
    assert torch.equal(unit_of(network, "block1.1")(images), images)
    halved = unit_of(network, "block2.0")(images).detach()
    assert halved.shape == (3, 64, 4, 3)
    torch.testing.assert_close(halved[:, 16:48], images.reshape(3, 32, 4, 2, 3, 2).mean((3, 5)))
    assert not bool(halved[:, :16].any())
    assert not bool(halved[:, 48:].any())
    first, thin = unit_of(network, "block1.0"), images[:, :16]
    normal = first.get_submodule("bn1")(thin).detach()
    expected = torch.where(normal < 0, 0.1 * normal, normal)
    assert torch.equal(first(thin).detach()[:, 8:24], expected)
    assert not bool(first(thin).detach()[:, :8].any())


@pytest.mark.parametrize("shortcut", ["projection", "zeros"])
def test_without_its_branch_a_basic_block_is_the_relu_of_its_shortcut(shortcut: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 16, 8, 6)
    network = trained_a_little(ResNet(COLOUR, 10, depth=14, shortcut=shortcut), COLOUR)
    silenced(network, "bn2")
    assert torch.equal(unit_of(network, "layer1.1")(images), images.clamp(min=0))
    found = unit_of(network, "layer2.0")(images).detach()
    assert found.shape == (3, 32, 4, 3)
    if shortcut == "zeros":
        assert torch.equal(found[:, 8:24], images[:, :, ::2, ::2].clamp(min=0))
        assert not bool(found[:, :8].any())
        assert not bool(found[:, 24:].any())
        return
    projected = unit_of(network, "layer2.0.downsample")(images).detach()
    assert torch.equal(found, projected.clamp(min=0))
    assert bool((projected < 0).any())


@pytest.mark.parametrize("make", [lambda: Wrn(COLOUR, 10, depth=16, width=4), lambda: WrnMadry(COLOUR, 10, units=1, width=4),
                                  lambda: ResNet(COLOUR, 10)])
def test_kernels_are_normal_by_outputs_and_batch_norms_plain(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    for part in make().modules():
        if isinstance(part, nn.Conv2d):
            values, side = part.weight.detach().double().flatten(), part.kernel_size[0]
            std = math.sqrt(2 / (side**2 * part.out_channels))
            assert part.bias is None
            assert abs(float(values.mean())) < 4 * std / math.sqrt(len(values))
            assert abs(float(values.std()) / std - 1) < 4 / math.sqrt(2 * len(values))
            assert float(values.abs().max()) > 2.2 * std  # not cut
        if isinstance(part, nn.BatchNorm2d):
            assert torch.equal(part.weight, torch.ones_like(part.weight))
            assert not bool(part.bias.any())


def test_last_layers_begin_as_their_authors_had_them() -> None:
    torch.manual_seed(0)
    wide, madry = Wrn(COLOUR, 10).get_submodule("layers.fc"), WrnMadry(COLOUR, 10).get_submodule("layers.fc")
    for layer in (wide, madry):
        assert not bool(layer.get_parameter("bias").any())
    weights, bound = madry.get_parameter("weight").detach().double(), math.sqrt(3 / 640)
    assert 0.999 * bound < float(weights.abs().max()) <= bound
    assert abs(float(weights.var()) * 640 - 1) < 4 * math.sqrt(0.8 / weights.numel())  # a uniform's kurtosis is 1.8


def test_every_image_is_standardised_by_itself() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 6, 5) * torch.tensor([0.1, 1.0, 0.5, 0.9]).view(4, 1, 1, 1)
    found = Standardisation()(images)
    for image, standard in zip(images.double(), found, strict=True):
        expected = (image - image.mean()) / math.sqrt(float(((image - image.mean()) ** 2).mean()))
        torch.testing.assert_close(standard.double(), expected, rtol=1e-5, atol=1e-5)


def test_an_image_of_one_colour_is_standardised_to_zeros_with_finite_gradients() -> None:
    """Also second ones, which gradient regularisers take; and near it the floor limits the magnification to 255 sqrt(N)."""
    images = torch.full((2, 3, 4, 4), 0.25, requires_grad=True)
    found = Standardisation()(images)
    assert torch.equal(found.detach(), torch.zeros_like(found))
    slope, = torch.autograd.grad(found[:, 0, 0, 0].sum(), images, create_graph=True)
    second, = torch.autograd.grad(slope.square().sum(), images)
    assert bool(slope.isfinite().all())
    assert bool(second.isfinite().all())
    nearly = torch.full((1, 3, 4, 4), 0.25)
    nearly[0, 0, 0, 0] += 1e-4
    expected = 1e-4 * (1 - 1 / 48) * 255 * math.sqrt(48)
    assert float(Standardisation()(nearly)[0, 0, 0, 0]) == pytest.approx(expected, rel=1e-2)


def test_madrys_network_does_not_see_brightness_and_contrast() -> None:
    """Which a network without its standardisation does."""
    torch.manual_seed(0)
    images = torch.rand(4, *COLOUR)
    change = torch.tensor([[1.0, 0.0], [0.3, 0.6], [0.5, -0.1], [2.0, -3.0]])[:, :, None, None, None]
    changed = change[:, 0] * images + change[:, 1]
    for network, blind in ((WrnMadry(COLOUR, 10, units=1, width=2), True), (Wrn(COLOUR, 10, depth=10, width=2), False)):
        trained_a_little(network, COLOUR)
        logits, other = (network(x).detach() for x in (images, changed))
        gap = float((logits - other).abs().max() / logits.abs().max())
        assert (gap < 1e-3) == blind
