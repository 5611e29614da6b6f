"""Running second moments of perturbations, and of the images: what SGR carries from step to step.

Symbols (SGR, Roth et al. 2018) -> words: xi -> perturbations; beta -> averaging; S_t -> the running averages, Sigma -> what is
made of them; Cov -> the matrix form; CovFun -> the function form; mu -> the mean perturbation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from robust_cli.covariance import CovarianceFunction, covariance_function
from robust_cli.messages import UserError

AUTO, MATRIX, FUNCTION = "auto", "matrix", "function"
FORMS = (AUTO, MATRIX, FUNCTION)
SMALL = 1024  # numbers of an image up to which auto is the matrix
LARGEST = 8192  # numbers of an image that a matrix is kept for: 256 MiB of it


def _moments(perturbations: torch.Tensor, form: str) -> dict[str, torch.Tensor]:
    """Of a batch [m, C, H, W], raw, over m: ``mean`` [C, H, W] and ``matrix`` [d, d] or ``intra`` and ``inter`` [R]."""
    mean = perturbations.mean(0)
    if form == MATRIX:
        rows = perturbations.flatten(1)
        return {"mean": mean, "matrix": rows.T @ rows / len(rows)}
    found = covariance_function(perturbations)
    return {"mean": mean, "intra": found.intra} | ({} if found.inter is None else {"inter": found.inter})


@dataclass
class RunningCovariance:
    """S_t = (1 - averaging) S_{t-1} + averaging Cov(xi_1..m), S_0 = 0, and the mean perturbation in the same way.

    Source: SGR, eq. 14-16. Cov is the raw second moment (1/m) sum_i xi_i xi_i'. form=matrix keeps it [d, d]; form=function
    keeps the covariance function, by rounded displacement within a channel and between two; form=auto the matrix for images of up
    to 1024 numbers. After t updates with one and the
    same C, S_t = (1 - (1 - averaging)^t) C: ``share`` is that factor. All is constant: no gradient passes through.
    """

    averaging: float
    form: str
    reach: int | None = None
    updates: int = 0
    averages: dict[str, torch.Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, perturbations: torch.Tensor) -> None:
        """Take in a batch's perturbations [m, C, H, W]. Raises UserError where they are too large for a matrix."""
        size = perturbations[0].numel()
        if self.form == AUTO:
            self.form = MATRIX if size <= SMALL else FUNCTION
        if self.form == MATRIX and size > LARGEST:
            raise UserError(f"regime.form=matrix: expected images of at most {LARGEST} numbers, found {size}; "
                            "set regime.form=function")
        with torch.autocast(perturbations.device.type, enabled=False):
            new = _moments(perturbations, self.form)
        old = {name: self.averages[name].to(value) if name in self.averages else torch.zeros_like(value)
               for name, value in new.items()}
        self.averages = {name: torch.lerp(old[name], value, self.averaging) for name, value in new.items()}
        self.updates += 1

    @property
    def share(self) -> float:
        """1 - (1 - averaging)^t: how much of a constant covariance the average has come to."""
        return 1 - (1 - self.averaging) ** self.updates

    def variance(self) -> torch.Tensor:
        """The mean of S_t's diagonal, a scalar."""
        return self.averages["matrix"].diagonal().mean() if self.form == MATRIX else self.averages["intra"][0]

    def quadratic(self, gradients: torch.Tensor) -> torch.Tensor:
        """g' S_t g of each gradient [n, C, H, W]: [n]. In the function form it may be below 0 (`CovarianceFunction.form`)."""
        with torch.autocast(gradients.device.type, enabled=False):
            if self.form == MATRIX:
                rows = gradients.flatten(1)
                return (rows @ self.averages["matrix"].to(rows) * rows).sum(1)
            return CovarianceFunction(self.averages["intra"], self.averages.get("inter")).form(gradients, self.reach)

    def along_mean(self, gradients: torch.Tensor) -> torch.Tensor:
        """g' mu_t of each gradient [n, C, H, W]: [n]."""
        return (gradients * self.averages["mean"].to(gradients)).flatten(1).sum(1)

    def state_dict(self) -> dict[str, Any]:
        """See `batch.Stateful`."""
        return {"form": self.form, "updates": self.updates, "averages": dict(self.averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `batch.Stateful`."""
        self.form, self.updates, self.averages = state["form"], int(state["updates"]), dict(state["averages"])


@dataclass
class RunningVariance:
    """The mean variance of a pixel over all images seen so far: the mean diagonal of the data's (centred) covariance.

    Exact over the images that were shown, each of them counted alike: after an epoch, that of the training set (as augmented).
    """

    images: int = 0
    total: torch.Tensor | None = None  # float64 [C, H, W]
    squares: torch.Tensor | None = None  # float64 [C, H, W]

    @torch.no_grad()
    def update(self, images: torch.Tensor) -> None:
        """Take in a batch [n, C, H, W]."""
        values = images.double()
        total, squares = values.sum(0), values.square().sum(0)
        self.total = total if self.total is None else self.total.to(total) + total
        self.squares = squares if self.squares is None else self.squares.to(squares) + squares
        self.images += len(images)

    def __call__(self) -> torch.Tensor:
        """The variance, a scalar; 0 before the first image. Divides by the number of images."""
        if self.total is None or self.squares is None:
            return torch.zeros((), dtype=torch.float64)
        return (self.squares / self.images - (self.total / self.images).square()).mean().clamp_min(0)

    def state_dict(self) -> dict[str, Any]:
        """See `batch.Stateful`."""
        return {"images": self.images, "total": self.total, "squares": self.squares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `batch.Stateful`."""
        self.images, self.total, self.squares = int(state["images"]), state["total"], state["squares"]
