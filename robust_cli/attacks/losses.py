"""What an attack raises: a loss for each image, [n], from logits [n, K] and labels int64 [n]."""

from __future__ import annotations

from collections.abc import Callable

import torch

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
MARGIN_CONFIDENCE = 50.0  # kappa of STN's code


def _others(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The logits with the label's own set to -infinity, so that it takes no part."""
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf)


def _own(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, labels[:, None]).squeeze(1)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log softmax(z)_y, in nats, >= 0.

    Written as softplus(logsumexp_{j != y} z_j - z_y), which is the same number; but where the label's probability rounds to
    1, this form keeps the loss and its gradient down to 1e-38 instead of losing the label's part of it.
    """
    return torch.nn.functional.softplus(_others(logits, labels).logsumexp(1) - _own(logits, labels))


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-max(0, z_y - max_{j != y} z_j + 50), <= 0: the margin loss of Carlini and Wagner with confidence 50.

    Source: STN's code, where "Carlini & Wagner" is projected gradient ascent of this loss inside the ball, not the optimisation
    of that name. It is constant once another class leads by 50.
    """
    return -torch.relu(_own(logits, labels) - _others(logits, labels).amax(1) + MARGIN_CONFIDENCE)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin}
