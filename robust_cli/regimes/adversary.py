"""Attacks inside training: any attack of the house, on the model as it stands."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from robust_cli.attacks.classifiers import BaseClassifier, Classifier, SmoothedClassifier
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.regimes.batch import Progress
from robust_cli.smoothing.noise import ImageDraws, StepDraws
from robust_cli.smoothing.noises import make_noise

_BLOCK = 1  # of a step's stream: block 0 is the noise of `regimes.noise`
_WHOLE = 1 - 1e-4  # of the budget: 1, less what writing a fraction in six digits loses


class Attack(Protocol):
    """See `attacks`: images [n, C, H, W] in [0, 1] to adversarial ones, within its budget where it has one."""

    norm: Any

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor: ...


def check_budget(budget: float | None, norm: str) -> None:
    """Raises Wrong unless ``budget`` is a size in that norm, pixel units: in linf at most 1, which reaches any image."""
    most, expected = float("inf"), "a number >= 0, pixel units"
    if norm == Norm.linf:
        most, expected = 1.0, "a number in [0, 1] with an attack in linf (pixel units: 8/255 is 0.0314)"
    check(budget is not None and 0 <= budget <= most and math.isfinite(budget), "budget", expected, budget)


def check_reach(steps: int, step_size: float | None, name: str = "step_size") -> None:
    """Raises Wrong where ``steps`` steps of ``step_size`` budgets are shorter together than the ball's radius; None is fine.

    ``name``: the setting of the regime that the size is.
    """
    check(step_size is None or steps * step_size >= _WHOLE, name, f"null (2.5 / steps: set regime.{name}=null) or at least "
          f"1 / steps, {1 / steps:g}, as it is a fraction of the budget and less does not reach the ball's edge", step_size)


def check_attack(attack: Any, budget: float | None) -> None:
    """Raises Wrong unless ``attack`` can be used in training, with a budget exactly where it takes one, and can spend it."""
    check(callable(attack) and hasattr(attack, "norm"), "attack", "an attack (attack@regime.attack=pgd_linf)", attack)
    check(not hasattr(attack, "with_data"), "attack", "one that does not need the data set's images", type(attack).__name__)
    own = getattr(attack, "budget", None)
    check(own is None, "attack.budget", "null, the regime's own budget being the attack's", own)
    if getattr(attack, "closest", False):
        check(budget is None, "budget", "null with an attack that looks for the closest example", budget)
        return
    check_budget(budget, attack.norm)
    if getattr(attack, "steps", None) is not None:
        check_reach(attack.steps, getattr(attack, "step_size", None), "attack.step_size")


def check_within(attack: Any, budget: float | None, noise_std: float | None = None) -> None:
    """Raises Wrong unless ``attack`` moves images within a budget, and, with noise, can do so through its expectation."""
    check(not getattr(attack, "closest", False), "attack", "one within a budget (pgd_linf, fgsm), not one that looks "
          "for the closest example", type(attack).__name__)
    check_attack(attack, budget)
    if noise_std is not None:
        make_noise("gaussian", noise_std)  # which checks the size
        check(not getattr(attack, "by_scores", False), "attack", "one by gradients with noise_std: scores under noise differ by "
              "chance", type(attack).__name__)


def told(regime: Any) -> str | None:
    """A line on what a regime attacks its images with; None where it attacks none. A regime that walks itself is its attack."""
    attack = getattr(regime, "attack", regime)
    budget, norm = getattr(regime, "budget", None), getattr(attack, "norm", None)
    if norm is None or (attack is regime and budget is None):
        return None
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", type(attack).__name__).lower()
    steps = getattr(attack, "steps", None)
    parts = [f"{name} in {norm}"]
    parts += [f"{steps} step" + "s" * (steps != 1)] if steps else []
    parts += ["the closest example"] if getattr(attack, "closest", False) else []
    parts += [f"budget {budget:g}"] if isinstance(budget, int | float) else []
    return "adversarial images: " + ", ".join(parts)


def step_draws(images: torch.Tensor, progress: Progress) -> StepDraws:
    """What an attack draws in this step, for each of the images [n, ...]."""
    return StepDraws(images.device, progress.seed, "regime", progress.step, len(images), _BLOCK)


def victim(model: nn.Module, images: torch.Tensor, noise_std: float | None = None, draws: int = 1,
           objective: str = "mean_loss") -> Classifier:
    """What an attack sees of the model: evaluation mode with frozen weights while it is asked, in the precision of the training
    step around it. It says of no image that it is fooled, so that all steps are taken."""
    precision = "bf16" if torch.is_autocast_enabled(images.device.type) else "fp32"
    if noise_std:
        return SmoothedClassifier(model, noise_std, draws, objective, precision)
    return BaseClassifier(model, precision, stops=False)


def adversarial(attack: Any, budget: float | None, model: nn.Module, images: torch.Tensor, labels: torch.Tensor,
                progress: Progress, noise_std: float | None = None, draws: int = 1, objective: str = "mean_loss") -> torch.Tensor:
    """Adversarial images [n, C, H, W], detached, of the model in evaluation mode with frozen weights (both restored).

    ``budget`` in the norm of the attack, pixel units; 0 gives the images themselves. With ``noise_std`` the model is attacked
    through the mean over so many draws of Gaussian noise, of the loss or, by ``objective``, of the probabilities (see
    `SmoothedClassifier`). All steps are taken, also on images that are fooled already. In the precision of the training step
    around it.
    """
    if budget == 0:
        return images
    found: torch.Tensor = (attack if budget is None else replace(attack, budget=budget))(
        victim(model, images, noise_std, draws, objective), images, labels, step_draws(images, progress))
    return found.detach()
