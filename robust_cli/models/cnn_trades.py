"""TRADES's small network for MNIST (Zhang et al. 2019)."""

from __future__ import annotations

import torch
from torch import nn

from robust_cli.messages import check
from robust_cli.models.cnn_carlini import left
from robust_cli.models.shapes import check_shape


class CnnTrades(nn.Module):
    """conv3-32, ReLU, conv3-32, ReLU, pool2, conv3-64, ReLU, conv3-64, ReLU, pool2, dense 200, ReLU, dropout, dense 200,
    ReLU, dense K; convolutions without padding.

    [n, C, H, W] to logits [n, K]; sides from 16 pixels. ``dropout``: probability in [0, 1) that a unit of the first dense
    layer is dropped in training. The layers are those of `CnnCarlini` for MNIST. What differs: the dropout of 0.5, which is
    off there; these widths for colour images too; the initial weights, kernels normal with variance 2 / inputs (He et al.
    2015) and biases 0, and the last layer's weights and biases 0, so that training begins with equal logits; the dense layers
    between are torch's own.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        channels, height, width = check_shape(shape, classes, smallest=16)
        check(0 <= dropout < 1, "dropout", "a probability in [0, 1)", dropout)
        last = nn.Linear(200, classes)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * left(height) * left(width), 200), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(200, 200), nn.ReLU(),
            last,
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)
