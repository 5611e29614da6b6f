"""From a model to its program, by following its forward pass; what would be another function is refused.

A certificate of another function than the model's is the worst mistake here, and tracing makes it easily: hooks, settings of
functions, memory that is written in place and branches of the code leave no trace. So only what is known exactly is taken, and
in the end both functions are compared on some images.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.nn import functional

from robust_cli.messages import UserError
from robust_cli.models.classifier import frozen
from robust_cli.models.normalisation import Normalisation
from robust_cli.models.resnet import EverySecondAndZeros
from robust_cli.models.wrn_madry import AveragesAndZeros
from robust_cli.verification.parts import Convolution, DensePart, Linear, Part, of_batches, of_images
from robust_cli.verification.program import Node, Program

_LINEAR = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.ZeroPad2d, EverySecondAndZeros, AveragesAndZeros)
_SAME = (nn.Identity, nn.Dropout, nn.Dropout2d)
_RELUS = {functional.relu, torch.relu, "relu"}
_SUMS = {operator.add, torch.add, "add"}
_FLATTEN = {torch.flatten, "flatten"}
_WHAT = ("expected dense layers, convolutions, batch norms, ReLUs, flatten, means of pixels and sums of branches, whose bounds "
         "are known")
_DO = ("train one of them (model=cnn_small, cnn_large, resnet20), or certify the smoothed classifier, whatever it is made of "
       "(certificate=[neyman_pearson])")
_SAME_LOGITS = {torch.float64: 1e-9, torch.float32: 1e-3}  # relative to the largest; rounding is far below


class _Tracer(fx.Tracer):
    """Follows a network's forward pass; normalisation and the residual networks' shortcuts are whole layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in (Normalisation, *_LINEAR) or super().is_leaf_module(m, module_qualified_name)


def read(model: nn.Module, shape: tuple[int, ...]) -> Program:
    """The layers of a model of images [n, C, H, W], ``shape`` = (C, H, W), to logits [n, K], in evaluation mode. Its weights are
    not copied.

    Raises UserError that names the layer for which no bounds are known, and for a model that computes something else than its
    layers say.
    """
    for name, part in model.named_modules():
        if part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part):
            raise _refused(f"a hook or a replaced forward of {type(part).__name__} ({name or 'the model'})")
    program = _Reader(model, shape).program()
    _check_same(model, program, shape)
    return program


def _refused(what: str) -> UserError:
    return UserError(f"lp_dual: {_WHAT}; found {what}; {_DO}")


@torch.no_grad()
def _check_same(model: nn.Module, program: Program, shape: tuple[int, ...]) -> None:
    """Raise UserError where model and program differ on images inside and outside of [0, 1]."""
    like = next(model.parameters(), torch.zeros(1))
    generator = torch.Generator().manual_seed(0)
    images = torch.cat([torch.rand(2, *shape, generator=generator), 3 * torch.randn(2, *shape, generator=generator)]).to(like)
    with frozen(model), torch.autocast(like.device.type, enabled=False):
        one, other = model(images.clone()), program.logits(images)
    allowed = _SAME_LOGITS.get(like.dtype, 0.1) * (1 + float(other.abs().max()))
    if not isinstance(one, torch.Tensor) or one.shape != other.shape or not float((one - other).abs().max()) <= allowed:
        raise _refused(f"that {type(model).__name__} computes something else than its layers, or no numbers")


class _Reader:
    """The nodes of a model's traced steps, one after the other."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        self.layers, self.like = dict(model.named_modules()), next(model.parameters(), torch.zeros(1))
        self.nodes: list[Node] = [Node("image", (), tuple(shape))]
        self.places: dict[fx.Node, int] = {}
        try:
            self.graph = _Tracer().trace(model)
        except UserError:
            raise
        except Exception as error:  # whatever the model's own code raises when it is followed with a symbol for the images
            raise UserError(f"lp_dual: expected a network whose layers can be listed, {type(model).__name__} decides "
                            f"on its values or shapes ({' '.join(str(error).split())[:100]}); {_DO}") from error

    def program(self) -> Program:
        """All steps from the image to the logits."""
        for step in self.graph.nodes:
            if step.op == "placeholder":
                if self.places:
                    raise _refused("a model of more than images")
                self.places[step] = 0
            elif step.op == "output":
                return self._ended(step)
            else:
                self.places[step] = self._place(step)
        raise AssertionError("a traced graph ends with its output")

    def _ended(self, step: fx.Node) -> Program:
        last = self.places[step.args[0]] if isinstance(step.args[0], fx.Node) else 0
        shape = self.nodes[last].shape
        if len(shape) != 1 or shape[0] < 2:
            raise _refused(f"that the network ends in {list(shape)} for an image, not in logits of two classes or more")
        return Program(tuple(self.nodes[: last + 1]))

    def _place(self, step: fx.Node) -> int:
        """The place of a step's values; a node is added where it computes something."""
        inputs = tuple(self.places[argument] for argument in step.args if isinstance(argument, fx.Node))
        layer = self.layers[str(step.target)] if step.op == "call_module" else None
        called = step.target if step.op in ("call_function", "call_method") else None
        name = str(step.target) if layer is not None else step.name
        if type(layer) in _SAME:
            return inputs[0]
        shape = self.nodes[inputs[0]].shape if inputs else ()
        if type(layer) is nn.ReLU or called in _RELUS:
            if len(inputs) != 1:
                raise _refused(f"{name}() of an argument by name")
            self._check_not_shared(step, layer, name)
            return self._add(Node(name, inputs[:1], shape))
        if called in _SUMS:
            if len(inputs) != 2 or len(step.args) != 2 or step.kwargs or self.nodes[inputs[1]].shape != shape:
                raise _refused(f"{name}() of other things than two branches of one shape")
            return self._add(Node(name, inputs, shape))
        part = _part(step, layer, called)
        if part is None or len(inputs) != 1:
            raise _refused(f"{type(layer).__name__} ({name})" if layer is not None else f"{name}()")
        with torch.no_grad():
            after = part(torch.zeros(1, *shape, dtype=self.like.dtype, device=self.like.device)).shape[1:]
        if len(after) not in (1, 3):
            raise _refused(f"values of shape {list(after)} ({name})")
        return self._add(Node(name, inputs, tuple(after), part))

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _check_not_shared(self, step: fx.Node, layer: nn.Module | None, name: str) -> None:
        """A ReLU in place also changes its input, for whoever else reads it."""
        in_place = getattr(layer, "inplace", False) or step.kwargs.get("inplace", False) or True in step.args
        if in_place and any(len(node.users) > 1 or node.op == "placeholder" for node in self._same_memory(step)):
            raise _refused(f"{name}, a ReLU in place whose input is used again (inplace=False makes it one that is known)")

    def _same_memory(self, step: fx.Node) -> Iterator[fx.Node]:
        """The input of a step, and what that is a view of."""
        source = step.args[0]
        while isinstance(source, fx.Node):
            yield source
            layer = self.layers.get(str(source.target)) if source.op == "call_module" else None
            if not (isinstance(layer, (*_SAME, nn.Flatten)) or source.target in _FLATTEN):
                return
            source = source.args[0]


def _part(step: fx.Node, layer: nn.Module | None, called: object) -> Part | None:
    """The affine layer of a step, where it is one that is known."""
    if type(layer) is nn.Linear:
        return DensePart(layer)
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return Convolution(layer)
    if type(layer) is Normalisation:
        return of_images(layer)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        known = type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d) and layer.running_mean is not None
        return of_batches(layer) if known else None
    if type(layer) in _LINEAR:
        assert layer is not None
        return Linear(layer)
    if called in _FLATTEN and [*step.args[1:], *step.kwargs.values()] == [1]:
        return Linear(lambda values: values.flatten(1))
    return None
