"""Public checkpoints of residual networks fill ours: by their names, which are written out here, and by no other names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_networks import trained_a_little
from torch import nn

from robust_cli.messages import UserError
from robust_cli.models.checkpoints import Found, load_state
from robust_cli.models.lenet import LeNet
from robust_cli.models.resnet import ResNet
from robust_cli.models.wrn import Wrn

State = dict[str, torch.Tensor]
COLOUR = (3, 8, 8)  # these networks have the same tensors for images of every size
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def cohens_names(blocks: int) -> list[str]:
    """Of Cohen et al.'s cifar_resnet: conv1, bn1, layer1 to layer3 of numbered blocks, downsample where channels change, fc."""
    found = ["conv1.weight", *(f"bn1.{part}" for part in NORM), "fc.weight", "fc.bias"]
    for name in (f"layer{group}.{block}" for group in (1, 2, 3) for block in range(blocks)):
        found += [f"{name}.{part}.weight" for part in ("conv1", "conv2")]
        found += [f"{name}.{norm}.{part}" for norm in ("bn1", "bn2") for part in NORM]
    for name in ("layer2.0.downsample", "layer3.0.downsample"):
        found += [f"{name}.0.weight", *(f"{name}.1.{part}" for part in NORM)]
    return found


def trades_names(units: int, group: str) -> list[str]:
    found = []
    for name in (f"{group}.layer.{unit}" for unit in range(units)):
        found += [f"{name}.{part}.weight" for part in ("conv1", "conv2")]
        found += [f"{name}.{norm}.{part}" for norm in ("bn1", "bn2") for part in NORM]
    return [*found, f"{group}.layer.0.convShortcut.weight"]


def inner(network: nn.Module, prefix: str = "") -> State:
    """A state dict with the names inside the sequence of layers."""
    return {prefix + name.removeprefix("layers."): tensor for name, tensor in network.state_dict().items()}


def loaded(network: nn.Module, content: object, path: Path) -> Found:
    torch.save(content, path)
    return load_state(network, path, 3)


def refused(network: nn.Module, content: object, path: Path) -> str:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UserError) as caught:
        loaded(network, content, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["1.module.", "module.1.", ""])
@pytest.mark.parametrize("depth", [20, 110])
def test_cohens_resnets_load(depth: int, prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = trained_a_little(ResNet(COLOUR, 10, depth), COLOUR), ResNet(COLOUR, 10, depth).eval()
    state = inner(source, prefix)
    assert sorted(state) == sorted(prefix + name for name in cohens_names((depth - 2) // 6))
    found = loaded(target, {"epoch": 90, "arch": f"cifar_resnet{depth}", "state_dict": state}, tmp_path / "checkpoint.pth.tar")
    assert (found.entry, found.prefix, found.hides_a_layer) == ("state_dict", prefix, prefix != "")
    images = torch.rand(2, *COLOUR)
    assert torch.equal(target(images), source(images))


def test_trades_wide_networks_load_without_the_group_that_they_never_use(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = trained_a_little(Wrn(COLOUR, 10, 16, 2), COLOUR), Wrn(COLOUR, 10, 16, 2).eval()
    state = inner(source, "module.")
    names = ["conv1.weight", *(f"bn1.{part}" for part in NORM), "fc.weight", "fc.bias"]
    names += [name for group in ("block1", "block2", "block3") for name in trades_names(2, group)]
    assert sorted(state) == sorted("module." + name for name in names)
    spare = {"module." + name: torch.zeros(3) for name in trades_names(2, "sub_block1")}
    assert loaded(target, state | spare, tmp_path / "w.pt").prefix == "module."
    images = torch.rand(2, *COLOUR)
    assert torch.equal(target(images), source(images))
    other = {name.replace("sub_block1", "sub_block2"): tensor for name, tensor in spare.items()}
    assert "module.sub_block2.layer.0.conv1.weight that the model lacks" in refused(target, state | other, tmp_path / "w.pt")


def test_what_differs_is_told_in_the_files_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    target, path = ResNet(COLOUR, 10), tmp_path / "w.pth"
    state = inner(ResNet(COLOUR, 10), "1.module.")
    missing = {name: tensor for name, tensor in state.items() if not name.endswith("layer3.2.conv2.weight")}
    text = refused(target, {"state_dict": missing}, path)
    assert "names taken after the prefix '1.module.': tensor layer3.2.conv2.weight is missing;" in text
    deeper = inner(ResNet(COLOUR, 10, 26), "1.module.")
    assert "the file has a tensor 1.module.layer1.3.conv1.weight that the model lacks" in refused(target, deeper, path)
    without = refused(ResNet(COLOUR, 10, shortcut="zeros"), state, path)
    assert "the file has a tensor 1.module.layer2.0.downsample.0.weight that the model lacks" in without


def test_a_plain_sequence_loads_and_our_own_names_come_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = LeNet(COLOUR, 10), LeNet(COLOUR, 10)
    assert loaded(target, inner(source), tmp_path / "w.pth").prefix == ""
    assert torch.equal(target.layers[0].weight, source.layers[0].weight)
    other = LeNet(COLOUR, 10)
    assert loaded(other, source.state_dict(), tmp_path / "w.pth").prefix == ""
    assert torch.equal(other.layers[9].bias, source.layers[9].bias)


def test_averages_stay_a_choice_also_under_inner_names(tmp_path: Path) -> None:
    averaged = {"ema_state_dict": inner(ResNet(COLOUR, 10)), "epoch": 1}
    assert refused(ResNet(COLOUR, 10), averaged, tmp_path / "w.pth").endswith("model.entry=ema_state_dict")
