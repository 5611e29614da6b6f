"""Several attacks as one: each on the images that those before it have not beaten.

Symbols -> words: epsilon -> budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

import torch

from robust_cli.attacks.classifiers import Classifier, in_turn
from robust_cli.attacks.norms import Norm
from robust_cli.datasets.images import Images
from robust_cli.messages import Wrong, check
from robust_cli.smoothing.noise import ImageDraws

Attack = Callable[[Classifier, torch.Tensor, torch.Tensor, ImageDraws], torch.Tensor]


def relay(tries: Sequence[tuple[Attack, Classifier]], images: torch.Tensor, labels: torch.Tensor,
          draws: ImageDraws) -> torch.Tensor:
    """Each attack in turn on its classifier and the images not beaten yet; of each image the worst candidate, [n, C, H, W].

    The first classifier judges all candidates by its own answer: on a smoothed one by fresh votes that no attack has seen. An
    image leaves once another class leads beyond the judge's doubt; until then a later candidate takes the place of an earlier
    one where another class leads more. One try alone is not judged.
    """
    def attempt(which: int, rows: torch.Tensor, mine: ImageDraws) -> torch.Tensor:
        attack, classifier = tries[which]
        return attack(classifier, images[rows], labels[rows], mine).detach()

    return in_turn(attempt, len(tries), tries[0][1], labels, draws)


@dataclass(frozen=True)
class Ensemble:
    """Several attacks within one budget, in the order given: cheap ones first, since each goes on with what those before it left.

    An image counts as robust only if every one of them failed; see `relay`. A member's own budget is not used.

    Source: Croce and Hein 2020, section 6 (AutoAttack), whose list is Auto-PGD on the cross entropy, targeted Auto-PGD,
    targeted FAB and the square attack.
    """

    norm: str = Norm.linf
    attacks: Mapping[str, Any] = field(default_factory=dict)
    budget: float | None = None

    def __post_init__(self) -> None:
        check(self.norm in set(Norm), "norm", " or ".join(Norm), self.norm)
        check(isinstance(self.attacks, Mapping) and len(self.attacks) > 0, "attacks", "at least one attack by name", self.attacks)
        for name, attack in self.attacks.items():
            known = is_dataclass(attack) and all(hasattr(attack, part) for part in ("norm", "__call__"))
            check(known, f"attacks.{name}", "an attack", attack)
            closest = getattr(attack, "closest", False)
            check(not closest, f"attacks.{name}", "an attack that works within a budget", type(attack).__name__)
            check(attack.norm == self.norm, f"attacks.{name}.norm", f"{self.norm}, the norm of the ensemble", str(attack.norm))
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    @property
    def by_scores(self) -> bool:
        """Whether an attack among them compares scores from query to query, which no random classifier allows."""
        return any(getattr(attack, "by_scores", False) for attack in self.attacks.values())

    def with_data(self, images: Images) -> Ensemble:
        """The same with the training images given to the attacks that want them."""
        return replace(self, attacks={name: attack.with_data(images) if hasattr(attack, "with_data") else attack
                                      for name, attack in self.attacks.items()})

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Adversarial images float32 [n, C, H, W] in the ball and in [0, 1]. A Wrong of one of the attacks names it."""
        assert self.budget is not None, "a budget has to be set"
        members = [_Member(name, replace(attack, budget=self.budget)) for name, attack in self.attacks.items()]
        return relay([(member, classifier) for member in members], images, labels, draws)


@dataclass(frozen=True)
class _Member:
    """An attack that is told apart by its name where a setting of it is wrong for the classifier."""

    name: str
    attack: Attack

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        try:
            return self.attack(classifier, images, labels, draws)
        except Wrong as wrong:
            raise Wrong(f"attacks.{self.name}.{wrong.name}", wrong.expected, wrong.found) from wrong
