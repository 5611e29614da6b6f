"""LeNet as AMR trains it (ICLR 2020 submission); on MNIST the same function as Madry et al.'s (2018) network, which SO trains."""

from __future__ import annotations

import torch
from torch import nn

from robust_cli.messages import check
from robust_cli.models.shapes import check_shape

INITIALISATIONS = ("torch", "madry")


class LeNet(nn.Module):
    """conv5-32, ReLU, pool2, conv5-64, pool2, ReLU, dense 1024, ReLU, dense K; convolutions keep the size (padding 2).

    [n, C, H, W] to logits [n, K]; sides from 4 pixels. The first block is convolution then ReLU, as AMR's regulariser needs; in
    the second AMR pools before the ReLU and Madry et al. (mnist_challenge) after it: the same function.
    AMR's text calls 3136 and 4096 the width of the first dense layer: they are its inputs (28x28 and 32x32), its width is 1024.
    Initial weights, ``initialisation``: ``torch``'s own (AMR's), or ``madry``: weights normal with standard deviation 0.1, cut at
    two of them, biases 0.1 (SO's).
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, initialisation: str = "torch") -> None:
        super().__init__()
        channels, height, width = check_shape(shape, classes, smallest=4)
        check(initialisation in INITIALISATIONS, "initialisation", " or ".join(INITIALISATIONS), initialisation)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 1024), nn.ReLU(),
            nn.Linear(1024, classes),
        )
        if initialisation == "madry":
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    nn.init.constant_(parameter, 0.1)
                else:
                    nn.init.trunc_normal_(parameter, std=0.1, a=-0.2, b=0.2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)
