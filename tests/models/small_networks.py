"""Every architecture in a size that a test can run, and how the tests prepare it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from robust_cli.composing.build import build
from robust_cli.models.alexnet import AlexNet
from robust_cli.models.cnn7 import Cnn7
from robust_cli.models.cnn_carlini import CnnCarlini
from robust_cli.models.cnn_large import CnnLarge
from robust_cli.models.cnn_mnist import CnnMnist
from robust_cli.models.cnn_pixeldp import CnnPixelDP
from robust_cli.models.cnn_small import CnnSmall
from robust_cli.models.cnn_trades import CnnTrades
from robust_cli.models.lenet import LeNet
from robust_cli.models.resnet import ResNet
from robust_cli.models.wrn import Wrn
from robust_cli.models.wrn_madry import WrnMadry

Shape = tuple[int, int, int]
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
CONF = Path(__file__).parents[2] / "conf" / "model"
KINDS: dict[str, Any] = {
    "lenet": LeNet, "lenet_madry": partial(LeNet, initialisation="madry"), "cnn_mnist": CnnMnist, "cnn7": Cnn7,
    "cnn_small": CnnSmall, "cnn_large": CnnLarge, "alexnet": AlexNet, "cnn_carlini": CnnCarlini,
    "cnn_carlini_standardised": partial(CnnCarlini, widths=[8, 8, 16], dropout=0.5, standardise=True), "cnn_trades": CnnTrades,
    "cnn_pixeldp": CnnPixelDP,
    "wrn": partial(Wrn, depth=10, width=2), "wrn_narrow": partial(Wrn, depth=16, width=1),
    "wrn_madry": partial(WrnMadry, units=2, width=2), "resnet": partial(ResNet, depth=14),
    "resnet_zeros": partial(ResNet, depth=14, shortcut="zeros")}
SMALLEST = {"cnn_mnist": 9, "alexnet": 29, "cnn_carlini": 16, "cnn_carlini_standardised": 16, "cnn_trades": 16, "wrn": 8,
            "wrn_narrow": 8, "wrn_madry": 8, "resnet": 8, "resnet_zeros": 8}  # sides in pixels; the others 4
LARGE = ("alexnet", "wrn_28_10", "wrn_34_10", "wrn_madry")


def odd_shape(name: str) -> Shape:
    """Small images that are not square, of sides that the network takes."""
    side = SMALLEST.get(name, 4)
    return (2, side + 4, side) if name == "wrn_madry" else (2, side + 1, side)


def trained_a_little(network: nn.Module, shape: Shape) -> nn.Module:
    """Last layers that are not zero, and batch norms that have seen something; in evaluation mode."""
    last = [part for part in network.modules() if isinstance(part, nn.Linear)]
    if last and not bool(last[-1].weight.any()):
        last[-1].reset_parameters()
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5)
                part.bias.uniform_(-0.5, 0.5)
    network.train()
    for _ in range(3):
        network(torch.rand(8, *shape))
    return network.eval()


def whole_configs() -> dict[str, Callable[[Shape, int], nn.Module]]:
    """What conf/model ships for training, by name: built for a shape and a number of classes; large ones without numbers."""
    nodes = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(CONF.glob("*.yaml"))}
    return {name: partial(_built, name, node) for name, node in nodes.items() if "???" not in node.values()}


def _built(name: str, node: dict[str, Any], shape: Shape, classes: int) -> nn.Module:
    with torch.device("meta" if name in LARGE else "cpu"):
        found = build(node, "model", shape=shape, classes=classes)
    assert isinstance(found, nn.Module)
    return found
