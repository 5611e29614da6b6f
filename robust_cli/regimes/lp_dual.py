"""Training a network, or a cascade of them, on what its dual bounds prove.

Symbols (Wong and Kolter 2018) -> words: epsilon -> radius; J(x, g(e_y - e_k)) -> the margins' lower bounds; k of the random
projections -> projections.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from robust_cli.messages import UserError, check
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.smoothing.noise import keyed_generator
from robust_cli.verification.bounds import NORMS, Ball, margins
from robust_cli.verification.cascade import Cascade, certifies
from robust_cli.verification.cost import available_bytes, check_fits
from robust_cli.verification.projections import projected_margins
from robust_cli.verification.reading import read

_NEVER = -1


@dataclass
class LpDual:
    """L = CE(-m(x), y), m_k the lower bound of logit[y] - logit[k] over the ball of ``radius`` around x (`bounds.margins`).

    Source: Wong and Kolter 2018, eq. 14; Wong, Schmidt, Metzen and Kolter 2018 for l2 balls, random projections and cascades. As
    cross entropy grows with each margin's fall, L is above the largest cross entropy in the ball. Radii are in pixel units, also
    of normalised data (the public code's are in normalised units). Batch normalisation enters with its running statistics, which
    the clean pass renews and through which no gradient flows.

    The radius grows linearly from ``start_radius`` over the first ``radius_warmup`` of each stage's steps (the papers: 20 of 60
    epochs). ``projections``: estimate the norms in all layers but the last with so many random vectors; None: exact, for which
    large networks take too much memory. Certificates are always exact.

    ``stages`` > 1 trains a `Cascade`. The first ``given_stages`` come finished with the weights to start from (those of a network
    for one, else of a cascade of so many); the epochs are shared out evenly among the others. Each is trained on the images whose
    class those before could not certify at ``radius``, asked once (in float32), when a stage's turn has come, of the image as
    it comes then (augmented images change). Batches are those of the loop without the images that are settled, so the later ones
    are small.
    """

    norm: str = "l2"
    radius: float = 1.58
    start_radius: float = 0.01
    radius_warmup: float = 1 / 3
    projections: int | None = None
    stages: int = 1
    given_stages: int = 0
    noise_std: ClassVar[float | None] = None
    _fits: bool = field(default=False, init=False, repr=False, compare=False)  # the first batch, into memory
    _stage: int = field(default=0, init=False, repr=False, compare=False)
    _asked: torch.Tensor = field(init=False, repr=False, compare=False)  # by index: how many stages were asked for it
    _settled: torch.Tensor = field(init=False, repr=False, compare=False)  # by index: the stage that certifies it, or never

    def __post_init__(self) -> None:
        check(self.norm in NORMS, "norm", " or ".join(NORMS), self.norm)
        check(0 < self.radius < math.inf, "radius", "a number > 0, pixel units", self.radius)
        check(0 <= self.start_radius <= self.radius, "start_radius", f"a number in [0, radius={self.radius:g}]",
              self.start_radius)
        check(0 <= self.radius_warmup <= 1, "radius_warmup", "a share of a stage's steps in [0, 1]", self.radius_warmup)
        check(self.projections is None or self.projections >= 1, "projections", "a whole number >= 1, or null", self.projections)
        check(self.stages >= 1, "stages", "a whole number >= 1", self.stages)
        check(0 <= self.given_stages < self.stages, "given_stages", f"a whole number >= 0 and below stages={self.stages}",
              self.given_stages)
        self._asked, self._settled = torch.zeros(0, dtype=torch.int16), torch.zeros(0, dtype=torch.int16)

    @property
    def phases(self) -> int:
        """In how many parts of equal length the training falls, each with the learning rate's whole schedule."""
        return self.stages - self.given_stages

    def plan(self, epochs: int) -> str:
        """A line on what is trained."""
        how = "exact bounds" if self.projections is None else f"{self.projections} random projections"
        line = f"trained on what is proven in the {self.norm} ball of radius {self.radius:g}, by {how}"
        if self.stages == 1:
            return line
        given = f" ({self.given_stages} given)" if self.given_stages else ""
        return f"{line}; a cascade of {self.stages} networks{given}, {epochs // self.phases} epochs each"

    def network(self, make: Callable[[], nn.Module]) -> nn.Module:
        """The model that is trained: one network, or a cascade of as many as there are stages."""
        return make() if self.stages == 1 else Cascade([make() for _ in range(self.stages)], self.norm, self.radius)

    def started(self, model: nn.Module) -> nn.Module:
        """The part of the model that training.init_from fills: of a cascade its given stages, with none the first one."""
        if not isinstance(model, Cascade):
            return model
        stages = list(model.stages)[: max(self.given_stages, 1)]
        return stages[0] if len(stages) == 1 else Cascade(stages, self.norm, self.radius)

    def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: robust_cross_entropy (the whole loss), cross_entropy of the clean images, and uncertified, the share of the
        images whose label the bounds do not prove at the radius of this step (with projections an estimate, no proof); of a
        cascade also left, the share that the stages before have left to this one, of whom the others are means."""
        if hasattr(model, "_orig_mod"):
            raise UserError("training.compile=true: expected a model whose layers can be listed, which a compiled one's cannot; "
                            "set training.compile=false")
        if not isinstance(model, Cascade):
            return self._of_network(model, batch, progress)
        if not progress.validating:
            self._stage = min(self.given_stages + progress.step * self.phases // progress.total, self.stages - 1)
            model.in_use = self._stage + 1
        left = self._left(model, batch, keep=not progress.validating)
        share = {"left": left.float().mean()}
        network = model.stages[self._stage]
        if not left.any():
            nothing = left.new_zeros((), dtype=torch.float32, requires_grad=True)  # of no weight: optimisers pass over those
            return Losses(nothing, dict.fromkeys(("robust_cross_entropy", "cross_entropy", "uncertified"), nothing) | share)
        found = self._of_network(network, Batch(batch.images[left], batch.labels[left], batch.indices[left]), progress)
        return Losses(found.total, found.terms | share)

    def _of_network(self, network: nn.Module, batch: Batch, progress: Progress) -> Losses:
        with torch.no_grad():
            clean = functional.cross_entropy(network(batch.images).float(), batch.labels)
        program, ball = read(network, tuple(batch.images.shape[1:])), Ball(self.norm, self._radius_now(progress))
        device = batch.images.device
        if not self._fits and network.training:
            check_fits(program, len(batch.labels), available_bytes(device), training=True, projections=self.projections)
            self._fits = True
        with torch.autocast(device.type, enabled=False):
            if self.projections is None or progress.validating:
                least = margins(program, batch.images, batch.labels, ball)
            else:
                generator = keyed_generator(device, progress.seed, "regime", progress.step)
                least = projected_margins(program, batch.images, batch.labels, ball, self.projections, generator)
        loss = functional.cross_entropy(-least, batch.labels)
        others = functional.one_hot(batch.labels, least.shape[1]) == 0
        uncertified = (least.detach().where(others, torch.inf).min(1).values <= 0).float().mean()
        return Losses(loss, {"robust_cross_entropy": loss, "cross_entropy": clean, "uncertified": uncertified})

    def _radius_now(self, progress: Progress) -> float:
        """That of a training step; the whole radius on validation images."""
        if progress.validating:
            return self.radius
        a_stage = max(progress.total // self.phases, 1)
        done = (progress.step % a_stage + 1) / max(self.radius_warmup * a_stage, 1)
        return self.start_radius + (self.radius - self.start_radius) * min(done, 1.0)

    @torch.no_grad()
    def _left(self, model: Cascade, batch: Batch, keep: bool) -> torch.Tensor:
        """Which of a batch's images no stage before this one certifies: bool [n]. With ``keep`` what was found is remembered."""
        highest = int(batch.indices.max()) + 1 if keep else 0
        grow = (0, max(0, highest - len(self._settled)))
        self._asked, self._settled = functional.pad(self._asked, grow), functional.pad(self._settled, grow, value=_NEVER)
        indices = batch.indices.cpu()
        asked = self._asked[indices] if keep else torch.zeros(len(indices), dtype=torch.int16)
        settled = self._settled[indices] if keep else torch.full((len(indices),), _NEVER, dtype=torch.int16)
        for stage in range(self._stage):
            todo = ((settled == _NEVER) & (asked <= stage)).nonzero()[:, 0]
            sure = certifies(model.stages[stage], batch.images[todo.to(batch.images.device)], self.norm, self.radius,
                             rough=True).cpu()
            settled[todo[sure]] = stage
        if keep:
            self._settled[indices], self._asked[indices] = settled, asked.clamp(min=self._stage)
        return (settled == _NEVER).to(batch.images.device)

    def state_dict(self) -> dict[str, Any]:
        """See `batch.Stateful`: which images the stages before have settled."""
        return {"stage": self._stage, "asked": self._asked.clone(), "settled": self._settled.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `batch.Stateful`."""
        self._stage, self._asked, self._settled = state["stage"], state["asked"], state["settled"]
