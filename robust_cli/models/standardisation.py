"""Each image by itself brought to mean 0 and variance 1, as a layer."""

from __future__ import annotations

import torch
from torch import nn


class Standardisation(nn.Module):
    """(x - mean(x)) / max(std(x), 1 / (255 sqrt(N))) over all N = C H W numbers of each image; [n, C, H, W] to the same.

    The variance is that of the image itself (divided by N). The floor, for images of one colour, is TensorFlow's
    (per_image_standardization, on pixels from 0 to 255). The answer to a x + b, a > 0, is that to x: where a data set's
    normalisation, with numbers that differ by channel, comes first, the function is another than without it.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        parts = (1, 2, 3)
        variance, mean = torch.var_mean(images, parts, correction=0, keepdim=True)
        floor = 1 / (255**2 * images[0].numel())
        return (images - mean) * variance.clamp(min=floor).rsqrt()
