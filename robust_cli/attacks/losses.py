"""What an attack raises: a loss for each image, [n], from logits [n, K] and labels int64 [n]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from robust_cli.messages import check

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
MARGIN_CONFIDENCE = 50.0  # kappa of STN's code
# How far another class has to lead, relative to the largest logit, for the image to count as fooled: the stored image is
# decided again in a batch of another shape, where float32 sums differ in their last digits.
ROUNDING = 1e-5


def _others(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The logits with the label's own set to -infinity, so that it takes no part."""
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf)


def _own(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, labels[:, None]).squeeze(1)


def lead(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """max_{j != y} z_j - z_y, [n]: above 0 where another class is answered."""
    return _others(logits, labels).amax(1) - _own(logits, labels)


def certain_lead(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`lead` less what rounding could turn, [n]: above 0 where another class is answered for certain; -infinity where a logit is
    not a number."""
    found = lead(logits, labels) - ROUNDING * logits.abs().amax(1).clamp_min(1e-30)
    return torch.where(found.isnan(), -torch.inf, found)


def fooled(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Whether another class leads by more than rounding, bool [n]; false where a logit is not a number."""
    return certain_lead(logits, labels) > 0


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


def difference_of_logits_ratio(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-(z_y - max_{j != y} z_j) / (z_(1) - z_(3)), z_(k) the k-th largest logit: in [-1, 0] where the label leads, else above 0.

    It changes neither with the scale nor with a shift of the logits, so a large scale cannot hide the gradient. Source: Croce
    and Hein 2020, eq. 6. Where three logits are equal on top its denominator is taken as 1e-12. Raises Wrong with less than
    three classes, which have no third logit.
    """
    check(logits.shape[1] >= 3, "loss", "another than difference_of_logits_ratio with less than 3 classes", logits.shape[1])
    top = logits.topk(3, dim=1).values
    return lead(logits, labels) / (top[:, 0] - top[:, 2]).clamp_min(1e-12)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin,
                           "difference_of_logits_ratio": difference_of_logits_ratio}


@dataclass(frozen=True)
class Toward:
    """The targeted form of a loss: raised where the network comes nearer to answering ``targets``, int64 [n].

    cross_entropy: log softmax(z)_t; margin: -max(0, max_{j != t} z_j - z_t + 50); difference_of_logits_ratio: -(z_y - z_t) over
    z_(1) - (z_(3) + z_(4)) / 2 (Croce and Hein 2020, eq. 7), for which Wrong is raised with less than four classes. Logits
    of several draws an image are taken image by image, as a smoothed classifier lays them.
    """

    targets: torch.Tensor
    name: str

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        wanted = self.targets.repeat_interleave(len(logits) // len(self.targets))
        if self.name == "cross_entropy":
            return -cross_entropy(logits, wanted)
        if self.name == "margin":
            return -torch.relu(_others(logits, wanted).amax(1) - _own(logits, wanted) + MARGIN_CONFIDENCE)
        check(logits.shape[1] >= 4, "loss", f"another than {self.name} with less than 4 classes", logits.shape[1])
        top = logits.topk(4, dim=1).values
        spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
        return (_own(logits, wanted) - _own(logits, labels)) / spread.clamp_min(1e-12)

    def select(self, rows: torch.Tensor) -> Toward:
        """The loss of some of the images."""
        return Toward(self.targets[rows], self.name)


def loss_of(loss: Loss, rows: torch.Tensor) -> Loss:
    """A batch's loss for some of its images (int64 positions): targets go with their images."""
    return loss.select(rows) if isinstance(loss, Toward) else loss
