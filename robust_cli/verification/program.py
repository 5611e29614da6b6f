"""A network read as a list of affine layers, ReLUs and sums of branches, in the order in which they are computed."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn import functional

from robust_cli.messages import UserError
from robust_cli.models.normalisation import Normalisation
from robust_cli.models.resnet import EverySecondAndZeros
from robust_cli.models.wrn_madry import AveragesAndZeros
from robust_cli.verification.parts import Convolution, DensePart, Linear, Part, of_batches, of_images

_LINEAR = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.ZeroPad2d, EverySecondAndZeros, AveragesAndZeros)
_SAME = (nn.Identity, nn.Dropout, nn.Dropout2d)
_RELUS = {functional.relu, torch.relu, "relu"}
_SUMS = {operator.add, torch.add, "add"}
_FLATTEN = {torch.flatten, "flatten"}
_WHAT = ("expected dense layers, convolutions, batch norms, ReLUs, flatten, means of pixels and sums of branches, whose bounds "
         "are known")
_DO = ("train one of them (model=cnn_small, model=resnet20), or certify the smoothed classifier, whatever it is made of "
       "(certificate=[neyman_pearson])")


@dataclass(frozen=True)
class Node:
    """A layer: ``inputs`` are the places of the nodes it takes, ``shape`` is that of its values without the batch. It is affine
    where it has a part; else a ReLU of one input, the sum of two, or the image itself, with none."""

    name: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    part: Part | None = None

    @property
    def is_relu(self) -> bool:
        return self.part is None and len(self.inputs) == 1


@dataclass(frozen=True)
class Program:
    """Nodes in the order of computation; the first is the image [C, H, W] in pixel units, the last the logits [K]."""

    nodes: tuple[Node, ...]

    @property
    def relus(self) -> list[int]:
        """Places of the ReLUs."""
        return [place for place, node in enumerate(self.nodes) if node.is_relu]

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """What the network computes, [n, K], of images [n, C, H, W], in evaluation mode."""
        values: list[torch.Tensor] = []
        for node in self.nodes:
            values.append(computed(node, values, images) if not node.is_relu else values[node.inputs[0]].relu())
        return values[-1]


def computed(node: Node, values: list[torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """The values of a node that is no ReLU."""
    if node.part is not None:
        return node.part(values[node.inputs[0]])
    return images if not node.inputs else values[node.inputs[0]] + values[node.inputs[1]]


class _Tracer(fx.Tracer):
    """Follows a network's forward pass; normalisation and the residual networks' shortcuts are whole layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (Normalisation, *_LINEAR)) or super().is_leaf_module(m, module_qualified_name)


def read(model: nn.Module, shape: tuple[int, ...]) -> Program:
    """The layers of a model of images [n, C, H, W], ``shape`` = (C, H, W), to logits [n, K]. Its weights are not copied.

    Raises UserError that names the layer for which no bounds are known.
    """
    try:
        graph = _Tracer().trace(model)
    except UserError:
        raise
    except Exception as error:  # whatever the model's own code raises when it is followed with a symbol for the images
        raise UserError(f"certificate lp_dual: expected a network whose layers can be listed, {type(model).__name__} decides "
                        f"on its values or shapes ({' '.join(str(error).split())[:100]}); {_DO}") from error
    first = next(iter(model.parameters()), torch.zeros(1))
    nodes: list[Node] = [Node("image", (), tuple(shape))]
    places: dict[fx.Node, int] = {}
    layers = dict(model.named_modules())
    for step in graph.nodes:
        if step.op == "placeholder":
            places[step] = 0
        elif step.op == "output":
            assert isinstance(step.args[0], fx.Node)
            return _ended(nodes, places[step.args[0]])
        else:
            places[step] = _placed(step, nodes, places, layers, first)
    raise AssertionError("a traced graph ends with its output")


def _ended(nodes: list[Node], last: int) -> Program:
    if len(nodes[last].shape) != 1:
        raise UserError(f"certificate lp_dual: expected a network that ends in logits [n, K], {nodes[last].name} gives "
                        f"{list(nodes[last].shape)} for an image")
    return Program(tuple(nodes[: last + 1]))


def _placed(step: fx.Node, nodes: list[Node], places: dict[fx.Node, int], layers: dict[str, nn.Module],
            like: torch.Tensor) -> int:
    """The place of a traced step's values; a node is added where it computes something."""
    inputs = tuple(places[argument] for argument in step.args if isinstance(argument, fx.Node))
    layer = layers[str(step.target)] if step.op == "call_module" else None
    name = str(step.target) if layer is not None else step.name
    if isinstance(layer, _SAME):
        return inputs[0]
    if isinstance(layer, nn.ReLU) or step.target in _RELUS:
        nodes.append(Node(name, inputs[:1], nodes[inputs[0]].shape))
    elif step.target in _SUMS and len(inputs) == 2:
        nodes.append(Node(name, inputs, nodes[inputs[0]].shape))
    else:
        part = _part(step, layer)
        if part is None or len(inputs) != 1:
            what = f"{type(layer).__name__} ({name})" if layer is not None else f"{name}()"
            raise UserError(f"certificate lp_dual: {_WHAT}; found {what}; {_DO}")
        with torch.no_grad():
            shape = part(torch.zeros(1, *nodes[inputs[0]].shape, dtype=like.dtype, device=like.device)).shape[1:]
        nodes.append(Node(name, inputs, tuple(shape), part))
    return len(nodes) - 1


def _part(step: fx.Node, layer: nn.Module | None) -> Part | None:
    """The affine layer of a step, where it is one that is known."""
    if isinstance(layer, nn.Linear):
        return DensePart(layer)
    if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return Convolution(layer)
    if isinstance(layer, Normalisation):
        return of_images(layer)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.running_mean is not None:
        return of_batches(layer)
    if isinstance(layer, _LINEAR):
        return Linear(layer)
    if step.target in _FLATTEN:
        return Linear(lambda values: values.flatten(1))
    return None


