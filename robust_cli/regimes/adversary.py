"""Attacks inside training: any attack of the house, on the model as it stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from robust_cli.attacks.classifiers import BaseClassifier, Classifier, SmoothedClassifier
from robust_cli.messages import check
from robust_cli.regimes.batch import Progress
from robust_cli.smoothing.noise import ImageDraws, StepDraws

_BLOCK = 1  # of a step's stream: block 0 is the noise of `regimes.noise`


class Attack(Protocol):
    """See `attacks`: images [n, C, H, W] in [0, 1] to adversarial ones, within its budget where it has one."""

    norm: Any

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor: ...


def check_attack(attack: Any, budget: float | None) -> None:
    """Raises Wrong unless ``attack`` can be used in training, with a budget exactly where it takes one."""
    check(callable(attack) and hasattr(attack, "norm"), "attack", "an attack (attack@regime.attack=pgd_linf)", attack)
    check(not hasattr(attack, "with_data"), "attack", "one that does not need the data set's images", type(attack).__name__)
    if getattr(attack, "closest", False):
        check(budget is None, "budget", "null with an attack that looks for the closest example", budget)
    else:
        check(budget is not None and 0 <= budget < float("inf"), "budget", "a number >= 0, pixel units", budget)


def adversarial(attack: Any, budget: float | None, model: nn.Module, images: torch.Tensor, labels: torch.Tensor,
                progress: Progress, noise_std: float | None = None, draws: int = 1) -> torch.Tensor:
    """Adversarial images [n, C, H, W], detached, of the model in evaluation mode with frozen weights (both restored).

    ``budget`` in the norm of the attack, pixel units; 0 gives the images themselves. With ``noise_std`` the model is attacked
    through the mean
    over so many draws of Gaussian noise. All steps are taken, also on images that are fooled already. In the precision of the
    training step around it.
    """
    if budget == 0:
        return images
    precision = "bf16" if torch.is_autocast_enabled(images.device.type) else "fp32"
    victim: Classifier = BaseClassifier(model, precision, stops=False)
    if noise_std:
        victim = SmoothedClassifier(model, noise_std, draws, "mean_loss", precision)
    stream = StepDraws(images.device, progress.seed, "regime", progress.step, len(images), _BLOCK)
    found: torch.Tensor = (attack if budget is None else replace(attack, budget=budget))(victim, images, labels, stream)
    return found.detach()
