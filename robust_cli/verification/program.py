"""A network as a list of affine layers, ReLUs and sums of branches, in the order in which they are computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robust_cli.verification.parts import Part


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
