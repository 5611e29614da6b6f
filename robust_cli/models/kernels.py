"""Initial kernels of residual networks."""

from __future__ import annotations

from torch import nn


def normal_by_outputs(network: nn.Module) -> None:
    """Convolutions normal with variance 2 / (side^2 outputs) (He et al. 2015, section 2.2, the backward case)."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
