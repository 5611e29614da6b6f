"""Structured gradient regularisation (SGR): the gradient norm weighed by the covariance of adversarial perturbations.

Symbols (SGR, Roth et al. 2018) -> words: lambda -> weight; phi_y(x) -> the label's softmax probability; xi -> perturbations;
Sigma -> covariance; beta -> averaging; mu -> the mean perturbation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from robust_cli.messages import check
from robust_cli.regimes.adversary import adversarial, check_attack
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.input_gradient import log_probability_gradient
from robust_cli.regimes.running_covariance import AUTO, FORMS, MATRIX, RunningCovariance, RunningVariance

GRADIENT, SIGN, ATTACK = "gradient", "sign", "attack"
DATA, UNIT, NONE = "data", "unit", "none"
_NOTHING = 1e-30  # a variance up to here is none: its inverse would leave float32


@dataclass
class StructuredGradient:
    """L = CE(f(x), y) + weight * Omega, Omega = 1/2 mean grad_x log phi_y' Sigma grad_x log phi_y, by double backpropagation.

    Source: SGR (Roth et al. 2018), eq. 11 and Algorithm 1. Sigma is a running average of the second moments of perturbations
    xi, constant in the backward pass; a step first takes in its own. To second order, and in the mean over labels drawn from
    phi, weight * Omega is what perturbations of covariance weight * Sigma add to the cross entropy.

    perturbations: ``gradient``, xi = grad_x CE; ``sign``, its signs; ``attack``, what the attack adds to an image (FGSM, PGD,
    DeepFool or any other, on the model as it stands). The first two come from the gradient that Omega needs anyway. With
    ``update_every`` k the covariance is renewed at every k-th step.

    form: the ``matrix`` [d, d], or the covariance ``function`` of the distance of two pixels within a channel and between two
    (eq. 16), applied by FFT without the matrix and, where a reach is given, only as far as that; ``auto``: the matrix for
    images of up to 1024 numbers. Eq. 16 rounds distances to whole pixels, which leaves Sigma indefinite (with exp(-r / 8) on
    32x32 pixels its least eigenvalue is -0.7): an image's grad' Sigma grad then counts as 0 where it is below, so that
    Omega >= 0.

    normalise: ``data`` scales Sigma so that its mean diagonal is that of the images' covariance (a running estimate), which
    makes the weight a ratio of noise to signal (the paper); ``unit`` scales it to 1, as the 2019 version of the paper does; with
    ``none`` Sigma is that of the perturbations in pixel units, and the weight 1 stands for them themselves.

    mean_term: adds - mean grad_x log phi_y' mu to Omega (eq. 12), mu the running mean of the (scaled) perturbations. The average
    starts at 0 and is (1 - (1 - averaging)^t) of what it averages after t updates; with ``bias_correction`` it is divided by
    that, without it, as in the paper, Sigma rises. Under a normalisation this changes mu alone.
    """

    weight: float = 1.0
    perturbations: str = GRADIENT
    attack: Any = None
    budget: float | None = None
    averaging: float = 0.1
    update_every: int = 1
    form: str = AUTO
    reach: int | None = None
    normalise: str = DATA
    mean_term: bool = False
    bias_correction: bool = True
    weight_warmup: float = 0.0
    noise_std: ClassVar[float | None] = None
    _covariance: RunningCovariance = field(init=False, repr=False, compare=False)
    _variance: RunningVariance = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check(0 <= self.weight < math.inf, "weight", "a number >= 0", self.weight)
        check(self.perturbations in (GRADIENT, SIGN, ATTACK), "perturbations", f"{GRADIENT}, {SIGN} or {ATTACK}",
              self.perturbations)
        if self.perturbations == ATTACK:
            check_attack(self.attack, self.budget)
        else:
            for name in ("attack", "budget"):
                check(getattr(self, name) is None, name, f"null with perturbations={self.perturbations}", getattr(self, name))
        check(0 < self.averaging <= 1, "averaging", "a number in (0, 1]", self.averaging)
        check(self.update_every >= 1, "update_every", "a whole number >= 1", self.update_every)
        check(self.form in FORMS, "form", ", ".join(FORMS), self.form)
        check(self.reach is None or self.reach >= 0, "reach", "a whole number >= 0, or null", self.reach)
        check(self.reach is None or self.form != MATRIX, "reach", "null with form=matrix", self.reach)
        check(self.normalise in (DATA, UNIT, NONE), "normalise", f"{DATA}, {UNIT} or {NONE}", self.normalise)
        check(0 <= self.weight_warmup <= 1, "weight_warmup", "a share of the steps in [0, 1]", self.weight_warmup)
        self._covariance = RunningCovariance(self.averaging, self.form, self.reach)
        self._variance = RunningVariance()

    def loss(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: cross_entropy and structured_gradient (Omega, before its weight); with mean_term its part as mean_perturbation.

        On validation images, and in evaluation mode, Sigma is that of the last step; before the first one it is 0.
        """
        learning = model.training and not progress.validating
        due = learning and (progress.step % self.update_every == 0 or not self._covariance.updates)
        moved = self._attacked(model, batch, progress) if due and self.perturbations == ATTACK else None
        log_probability, gradient = log_probability_gradient(model, batch.images, batch.labels)
        if learning and self.normalise == DATA:
            self._variance.update(batch.images)
        if due:
            self._covariance.update(self._of_gradient(gradient) if moved is None else moved)
        cross_entropy = -log_probability.mean()
        terms = self._terms(gradient)
        weight = self.weight * progress.risen(self.weight_warmup)
        return Losses(cross_entropy + weight * sum(terms.values()), {"cross_entropy": cross_entropy, **terms})

    def _attacked(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> torch.Tensor:
        return adversarial(self.attack, self.budget, model, batch.images, batch.labels, progress) - batch.images

    def _of_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        """The perturbation raises the cross entropy, and the gradient is that of the log probability."""
        return -gradient if self.perturbations == GRADIENT else -gradient.sign()

    def _terms(self, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parts of Omega at gradients of the log probability [n, C, H, W]."""
        if not self._covariance.updates:
            return {"structured_gradient": torch.zeros((), device=gradient.device)}
        started = self._covariance.share if self.bias_correction else 1.0
        scale = self._scale(self._covariance.variance() / started) / started
        terms = {"structured_gradient": 0.5 * (scale * self._covariance.quadratic(gradient)).clamp_min(0).mean()}
        if self.mean_term:
            terms["mean_perturbation"] = -(scale / started).sqrt() * self._covariance.along_mean(gradient).mean()
        return terms

    def _scale(self, variance: torch.Tensor) -> torch.Tensor:
        """What a covariance whose mean diagonal is ``variance`` is multiplied by; 0 where nothing has moved yet."""
        if self.normalise == NONE:
            return torch.ones_like(variance)
        wanted = self._variance().to(variance) if self.normalise == DATA else torch.ones_like(variance)
        moved = variance > _NOTHING
        return torch.where(moved, wanted / torch.where(moved, variance, 1.0), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """See `batch.Stateful`: the running averages."""
        return {"covariance": self._covariance.state_dict(), "variance": self._variance.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `batch.Stateful`."""
        self._covariance.load_state_dict(state["covariance"])
        self._variance.load_state_dict(state["variance"])
