"""A classifier in two parts, at its first layer: what lies before the first non-linearity is affine, the rest takes it on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from robust_cli.messages import UserError
from robust_cli.models.standardisation import Standardisation

AFFINE = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class FirstLayer:
    """normalisation, affine (with a Flatten before it where it is dense) and rest: rest(affine(normalisation(x))) is the model.

    The parts are the model's own, not copies: training them trains it.
    """

    normalisation: nn.Module
    flatten: nn.Module | None
    affine: nn.Conv2d | nn.Linear
    rest: nn.Sequential

    @property
    def before(self) -> nn.Sequential:
        """Images [n, C, H, W] to the first layer's output, before any non-linearity."""
        return nn.Sequential(self.normalisation, *([self.flatten] if self.flatten is not None else []), self.affine)

    @property
    def follower(self) -> nn.Module:
        """The layer right after the affine one."""
        return self.rest[0]


def first_layer(model: nn.Module, wanted_by: str) -> FirstLayer:
    """The parts of a `classifier`, whose network is one nn.Sequential named ``layers`` that begins with a convolution or a dense
    layer. Compiled models are looked into.

    ``wanted_by``: the setting that needs it, for the message (``regime=moment``). Raises UserError for another kind of model.
    """
    inner = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    layers = getattr(getattr(inner, "network", None), "layers", None)
    normalisation = getattr(inner, "normalisation", None)
    if not isinstance(layers, nn.Sequential) or not isinstance(normalisation, nn.Module):
        raise UserError(f"{wanted_by}: expected a model whose layers are one sequence that begins with a convolution or a dense "
                        f"layer, found {type(getattr(inner, 'network', inner)).__name__}; take one of `robust list model`")
    begin = 1 if len(layers) and isinstance(layers[0], nn.Flatten) else 0
    affine = layers[begin] if len(layers) > begin + 1 else None
    if not isinstance(affine, AFFINE):
        found = "none after it" if affine is None else type(affine).__name__
        way_out = "set model.standardise=false (cnn_carlini) or " if isinstance(affine, Standardisation) else ""
        raise UserError(f"{wanted_by}: expected a model whose first layer is a convolution or dense, followed by others, found "
                        f"{found}; {way_out}take one of `robust list model`")
    return FirstLayer(normalisation, layers[0] if begin else None, affine, layers[begin + 1 :])
