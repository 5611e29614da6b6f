"""Several networks, of which the first that can certify its own answer gives the class (Wong et al. 2018, the second paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from robust_cli.messages import check
from robust_cli.models.classifier import frozen
from robust_cli.verification.bounds import NORMS
from robust_cli.verification.certified import proof


class Cascade(nn.Module):
    """Images [n, C, H, W] in [0, 1] to the logits [n, K] of the first stage that proves its class on the whole ball of ``radius``
    around the image, else to those of the last stage.

    Source: Wong, Schmidt, Metzen and Kolter 2018, section 3.3. The proof is that of `certified.proof`, in float64. Stages after
    ``in_use`` are not trained yet and not asked. Gradients flow to the images through the stage that answers.

    The paper counts an image as certified where some stage certifies it. That is a statement about this stage, not about the
    cascade: around the image another stage may answer. Mangal et al. 2023 (On the perils of cascading robust classifiers) find
    such images for most of those counted. What is proven of the cascade itself is `agreed`.
    """

    gate_radius: torch.Tensor
    gate_order: torch.Tensor
    used: torch.Tensor

    def __init__(self, stages: Sequence[nn.Module], norm: str, radius: float) -> None:
        super().__init__()
        check(len(stages) >= 1, "stages", "at least one network", len(stages))
        check(norm in NORMS, "norm", " or ".join(NORMS), norm)
        check(0 < radius < math.inf, "radius", "a number > 0", radius)
        self.stages, self.norm = nn.ModuleList(stages), norm
        self.register_buffer("gate_radius", torch.tensor(radius, dtype=torch.float64))
        self.register_buffer("gate_order", torch.tensor(2 if norm == "l2" else 0))  # 0: linf; part of what the model is
        self.register_buffer("used", torch.tensor(len(stages)))

    @property
    def radius(self) -> float:
        """That of the balls which a stage must certify to answer."""
        return float(self.gate_radius)

    @property
    def in_use(self) -> int:
        """Stages that are asked."""
        return int(self.used)

    @in_use.setter
    def in_use(self, count: int) -> None:
        self.used.fill_(count)

    @property
    def asked(self) -> list[nn.Module]:
        return list(self.stages)[: self.in_use]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits_of(images, self.chosen(images))

    def logits_of(self, images: torch.Tensor, stage: torch.Tensor) -> torch.Tensor:
        """Each image's logits by its stage (int64 [n])."""
        if not len(images):
            return self.stages[-1](images)
        places, logits = [], []
        for k in stage.unique().tolist():
            mine = (stage == k).nonzero()[:, 0]
            places.append(mine)
            logits.append(self.stages[k](images[mine]))
        return torch.cat(logits)[torch.cat(places).argsort()]

    @torch.no_grad()
    def chosen(self, images: torch.Tensor) -> torch.Tensor:
        """Which stage answers each image, int64 [n]. The last one is not asked for a proof, which would change nothing."""
        stage = torch.full((len(images),), self.in_use - 1, device=images.device)
        left = torch.arange(len(images), device=images.device)
        for k, network in enumerate(self.asked[:-1]):
            sure = certifies(network, images[left], self.norm, self.radius)
            stage[left[sure]] = k
            left = left[~sure]
        return stage

    @torch.no_grad()
    def answering(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which stage answers each image, int64 [n], and whether it certifies its answer, bool [n] (the last one may not)."""
        stage = self.chosen(images)
        certified = stage < self.in_use - 1
        last = (~certified).nonzero()[:, 0]
        certified[last] = certifies(self.asked[-1], images[last], self.norm, self.radius)
        return stage, certified

    @torch.no_grad()
    def agreed(self, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Whether every stage gives the images these classes (int64 [n]): bool [n].

        Theorem. Let every stage give x the class y, and let the last stage be certified at x with a radius r of at most the
        gate's. Then the cascade gives y to every x' within r of x. For let stage j answer x' by its certificate: its class is the
        same on the ball of the gate's radius around x', in which x lies, so it is y. Where no stage certifies x' the last one
        answers, whose class at x' is y by its certificate at x.
        """
        same = torch.ones(len(images), dtype=torch.bool, device=images.device)
        for network in self.asked:
            same &= network(images).argmax(1) == classes
        return same


def certifies(network: nn.Module, images: torch.Tensor, norm: str, radius: float, rough: bool = False) -> torch.Tensor:
    """Whether a network, in evaluation mode, proves its own class of each image on the ball of a radius: bool [n]; ``rough`` as
    in `Proof.holds`."""
    if not len(images):
        return torch.zeros(0, dtype=torch.bool, device=images.device)
    with frozen(network), torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        return proof(network, tuple(images.shape[1:])).holds(images, network(images).argmax(1), norm, radius, rough)
