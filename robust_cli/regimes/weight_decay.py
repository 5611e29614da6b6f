"""A penalty on the weights' squares: a baseline of SGR.

Symbols -> words: lambda -> weight; W -> the kernels of convolutions and dense layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from robust_cli.messages import UserError, check
from robust_cli.regimes.batch import Batch, Losses, Progress

_KERNELS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def squared_kernels(model: nn.Module) -> torch.Tensor:
    """Sum of the squares of all kernels of convolutions and dense layers, a float32 scalar; a shared kernel counts once.

    Biases and the parameters of normalisation are none of them. Raises UserError for a model without any.
    """
    kernels = {id(part.weight): part.weight for part in model.modules() if isinstance(part, _KERNELS)}
    if not kernels:
        raise UserError("regime: expected a model with convolutions or dense layers, whose kernels to decay, found none; take "
                        "regime=standard training.weight_decay=2e-4, which decays all parameters")
    # The length of each, then its square: at half the cost of the square of every number.
    lengths = [torch.linalg.vector_norm(kernel.float()) for kernel in kernels.values()]
    return torch.stack(lengths).square().sum()


@dataclass(frozen=True)
class WeightDecay:
    """L = CE(f(x), y) + weight / 2 * sum of W^2 over the kernels of convolutions and dense layers; not biases, not norms.

    Source: a baseline of SGR (Roth et al. 2018), which does not say its weight; 2e-4 is Madry et al.'s and TRADES' on
    CIFAR-10. STN's penalty on its CIFAR network (`cnn7`), 1e-4 times the sum of squares, is weight 2e-4 too.

    ``training.weight_decay`` adds weight * W to the gradient in the optimiser, with adam as with sgd: the same step for the
    kernels. It composes with every regime but decays all parameters, biases and norms' scales too, and is in no loss; here the
    penalty is a part of the objective, in the record and in the validation loss. Set one of the two.
    """

    weight: float = 2e-4
    noise_std: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        check(0 <= self.weight < math.inf, "weight", "a number >= 0", self.weight)

    def loss(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: cross_entropy and weight_decay, the penalty with its factor weight / 2."""
        cross_entropy = nn.functional.cross_entropy(model(batch.images).float(), batch.labels)
        penalty = self.weight / 2 * squared_kernels(model)
        return Losses(cross_entropy + penalty, {"cross_entropy": cross_entropy, "weight_decay": penalty})
