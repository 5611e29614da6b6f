"""What an attack is to those who run it, and which attacks run at which budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.norms import Norm
from robust_cli.evaluation.storage import CLEAN
from robust_cli.messages import UserError, Wrong
from robust_cli.smoothing.noise import ImageDraws

KINDS = {"by_decisions": "decisions", "by_scores": "scores", "by_noise": "noise", "stored": "stored"}


class Attack(Protocol):
    """A method that proposes adversarial images within a budget: a frozen dataclass with a field ``budget``, in pixel units,
    None until the sweep sets it; or the closest ones found, with a class attribute ``closest`` that is true, and no budget.

    A class attribute says of an attack that it takes no gradients: ``by_decisions`` (it asks for answers alone), ``by_scores``
    (it compares logits, which a random classifier cannot give twice) or ``by_noise``. One with a method ``with_data(images)``
    is given the training images before it runs, and returns the attack that knows them. One made for a kind of model has a
    method ``check_victim(classifier)`` that raises Wrong for another.
    """

    @property
    def norm(self) -> str:
        """The norm of its budget."""

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Images float32 [n, C, H, W] within the budget of ``images`` and in [0, 1]; randomness from ``draws`` alone."""


class Planned(NamedTuple):
    """An attack at one budget, infinity for the closest examples."""

    name: str
    budget: float
    attack: Any


def is_closest(attack: Any) -> bool:
    """Whether an attack looks for the closest example instead of one within a budget."""
    return bool(getattr(attack, "closest", False))


def kind(attack: Any) -> str:
    """What an attack goes by: gradient, decisions, scores, noise, or stored images of another run; a list of several attacks by
    gradients as soon as one of them does."""
    if "gradient" in (kind(member) for member in getattr(attack, "attacks", {}).values()):
        return "gradient"
    return next((word for attribute, word in KINDS.items() if getattr(attack, attribute, False)), "gradient")


def check_suited(attacks: Mapping[str, Any], classifier: Classifier) -> None:
    """Raises UserError for an attack that cannot take this classifier."""
    for name, attack in attacks.items():
        by = kind(attack)
        if classifier.random and is_closest(attack) and by not in ("decisions", "stored"):
            raise UserError(f"attack.{name}: expected a base classifier, since a closest example is where a fixed answer changes "
                            "and a smoothed classifier's votes differ each time; take classifier=base, an attack with budgets, "
                            "or one by decisions (boundary, hop_skip_jump_linf)")
        if classifier.random and getattr(attack, "by_scores", False):
            raise UserError(f"attack.{name}: expected a base classifier, since it compares scores and those of a smoothed one "
                            "differ by chance; take classifier=base, or an attack by gradients or by decisions")
        if classifier.noisy_gradients and not classifier.random and is_closest(attack) and by == "gradient":
            raise UserError(f"attack.{name}: expected exact gradients, since it looks for the closest example; leave "
                            "gradient_noise out, or take an attack with budgets")
        if hasattr(attack, "check_victim"):
            _check_victim(name, attack, classifier)


def _check_victim(name: str, attack: Any, classifier: Classifier) -> None:
    try:
        attack.check_victim(classifier)
    except Wrong as wrong:
        raise UserError(f"attack.{name}: expected {wrong.expected}, found {wrong.found}") from wrong


def sweep(attacks: Mapping[str, Any], budgets: Mapping[str, Sequence[float]]) -> list[Planned]:
    """Every attack at every budget of its norm, ascending within each attack; a closest-example attack once, at infinity.

    Raises UserError on a norm without budgets, a budget that is not above 0, and two budgets that share a file name.
    """
    plan = []
    for name, attack in attacks.items():
        norm = str(Norm(attack.norm))
        chosen = sorted({float(budget) for budget in budgets.get(norm) or ()})
        if name == CLEAN or "@" in name:
            raise UserError(f"attack.{name}: expected another name, this one stands for clean or stored images")
        if not chosen:
            raise UserError(f"budgets.{norm}: expected at least one budget, since attack.{name} works in {norm}")
        if not all(0 < budget < float("inf") for budget in chosen):
            raise UserError(f"budgets.{norm}: expected numbers > 0 (the clean outcome is always computed), got {chosen}")
        if len({f"{budget:g}" for budget in chosen}) < len(chosen):
            raise UserError(f"budgets.{norm}: expected budgets that differ in their first six digits, got {chosen}")
        if is_closest(attack):
            plan.append(Planned(name, math.inf, attack))
            continue
        plan += [Planned(name, budget, replace(attack, budget=budget)) for budget in chosen]
    return plan
