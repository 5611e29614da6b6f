"""Distrust of an attack run's own numbers: what in its rows says that they flatter the classifier. Sentences, each with its page.

A difference between two attacks is taken on the same images. For a base classifier, whose answers are fixed, one of more than a
hundredth of the images and of at least two counts; for a smoothed one, decided by votes, it has to exceed three of its paired
standard errors too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from robust_cli.reporting.attacked import accuracy as attacked
from robust_cli.reporting.attacked.meeting import distances_to_meeting
from robust_cli.reporting.estimates import estimate
from robust_cli.reporting.reading.load import Attacked

SHARE = 0.01  # of the images: a smaller difference says nothing
LEAST = 2  # images, likewise
ERRORS = 3.0  # standard errors that chance explains
USED = 0.8  # share of the budget that images left standing should have used
UNMOVED = 0.1  # share of the images left standing that an attack may leave where they were
FEWEST = 10  # images of which a median, or a share, says something
_WITHOUT_GRADIENTS = {"square": "scores", "boundary": "decisions", "hop_skip_jump": "decisions", "noise": "noise", "lrc": "noise"}


@dataclass(frozen=True)
class _Attack:
    """An attack of a run with its frame (budget 0: clean); kind: gradient, scores, decisions or noise."""

    name: str
    norm: str
    kind: str
    single: bool  # one step
    targeted: bool  # toward chosen classes, not all of them
    closest: bool
    frame: pd.DataFrame

    @property
    def strong(self) -> bool:
        """Whether nothing without gradients, and no single step, should find more."""
        return self.kind == "gradient" and not self.single and not self.targeted

    @property
    def budgets(self) -> list[float]:
        return sorted(float(b) for b in self.frame["budget"].unique() if b > 0)

    def at(self, budget: float) -> pd.DataFrame:
        return self.frame[self.frame["budget"] == budget].set_index("index")


class _Excess(NamedTuple):
    """How many more of the images they share one attack leaves than another, at a budget."""

    share: float
    budget: float
    weaker: _Attack
    stronger: _Attack

    @property
    def numbers(self) -> str:
        images = len(self.weaker.at(self.budget).index.intersection(self.stronger.at(self.budget).index))
        return (f"{self.weaker.name} leaves {100 * self.share:.1f} % more of the {images} images than {self.stronger.name} at "
                f"{self.weaker.norm} {self.budget:g}")


def doubts(run: Attacked) -> list[str]:
    """What an attack run's own rows say against its numbers; for an attack and a reason one sentence, the plainest case of it."""
    attacks = [_known(run, name) for name in run.own]
    sentences: list[str] = []
    for norm in dict.fromkeys(attack.norm for attack in attacks):
        group = [attack for attack in attacks if attack.norm == norm]
        sentences += [*_weaker(run, group), *_without_gradients(run, group), *_huge(run, group)]
    for attack in attacks:
        sentences += [*_boxed(attack), *_unmoved(attack)]
    return sentences


def _known(run: Attacked, name: str) -> _Attack:
    """What the run says of an attack; where it says nothing, the names tell."""
    about = run.about.get("attacks", {}).get(name, {})
    settings, target = about.get("settings") or {}, str(about.get("target") or "")
    words = f"{name} {target}"
    named = next((kind for word, kind in _WITHOUT_GRADIENTS.items() if word in words), "gradient")
    if any(key.startswith("attacks.") and key.endswith(".loss") for key in settings):
        about = {**about, "kind": "gradient"}  # a list with gradient attacks, whatever else is in it
    single = name == "fgm" or "fgsm" in words.lower() or target.endswith(".FastGradient")
    return _Attack(name, str(run.of(name)["norm"].iloc[0]), str(about.get("kind") or named), single,
                   "targeted" in words or "choice" in settings, attacked.is_closest(run, name), attacked.frame(run, name))


def _beyond(run: Attacked, difference: np.ndarray) -> bool:
    """Whether a paired difference of 0/1 outcomes [n] is one to speak of."""
    found = estimate(difference)
    chance = ERRORS * found.error if run.about.get("classifier") == "smoothed" else 0.0
    return bool(found.images and found.value > max(SHARE, chance) and difference.sum() >= LEAST)


def _excesses(run: Attacked, weaker: _Attack, stronger: _Attack) -> Iterator[_Excess]:
    """At every budget that both have, where ``weaker`` leaves more images than ``stronger``."""
    for budget in sorted({*weaker.budgets} & {*stronger.budgets}):
        both = weaker.at(budget)["robust"].to_frame("one").join(stronger.at(budget)["robust"].rename("other"), how="inner")
        difference = (both["one"] - both["other"]).to_numpy(dtype=np.float64)
        if _beyond(run, difference):
            yield _Excess(float(difference.mean()), budget, weaker, stronger)


def _largest(found: Sequence[_Excess]) -> Sequence[_Excess]:
    """The plainest of them, at the smallest budget among equals; none of none."""
    return sorted(found, key=lambda e: (-e.share, e.budget))[:1]


def _weaker(run: Attacked, group: Sequence[_Attack]) -> Iterator[str]:
    """Attacks with steps that leave more than the single step."""
    steps = [attack for attack in group if attack.single and not attack.closest]
    for attack in (a for a in group if a.strong and not a.closest):
        for excess in _largest([e for step in steps for e in _excesses(run, attack, step)]):
            yield (f"{excess.numbers}, though an attack with steps should leave no more than a single one: its steps are too few "
                   "or too large, or its gradients are masked; give it more steps, restarts or another loss, and count the worst "
                   'case (docs/messages.md, "A stronger attack is weaker than FGSM").')


def _without_gradients(run: Attacked, group: Sequence[_Attack]) -> Iterator[str]:
    """Attacks without gradients that beat the best attack with them, budget by budget."""
    with_gradients = [attack for attack in group if attack.strong]
    for attack in (a for a in group if a.kind != "gradient"):
        found = []
        for budget in attack.budgets:
            rivals = [rival for rival in with_gradients if budget in rival.budgets]
            best = min(rivals, key=lambda rival: float(rival.at(budget)["robust"].mean()), default=None)
            found += [e for e in _excesses(run, best, attack) if e.budget == budget] if best is not None else []
        for excess in _largest(found):
            yield (f"{excess.numbers}, which takes no gradients and knows less: they are masked (zero, noisy or misleading), "
                   f"and what {excess.weaker.name} leaves flatters the classifier; count the worst case over both "
                   '(docs/messages.md, "An attack without gradients beats the gradient attacks").')


def _huge(run: Attacked, group: Sequence[_Attack]) -> Iterator[str]:
    """Budgets at which images can all be turned into one: only those of one class may stand."""
    gradient = [attack for attack in group if attack.kind == "gradient"]
    if not gradient or not run.folder.originals.exists():
        return
    apart = distances_to_meeting(run, gradient[0].frame["index"].unique(), gradient[0].norm)
    found: list[tuple[int, float, _Attack, int, int]] = []
    for budget in sorted({b for attack in gradient for b in attack.budgets}):
        best = min((a for a in gradient if budget in a.budgets), key=lambda a: float(a.at(budget)["robust"].mean()))
        rows = best.at(budget)
        meeting = rows[apart.reindex(rows.index).to_numpy() <= budget * (1 + attacked.TOLERANCE)]
        standing = meeting[meeting["robust"] == 1]["label"].value_counts()
        missed = int(standing.sum() - standing.max()) if len(standing) else 0
        if _beyond(run, np.arange(len(rows)) < missed):
            found.append((missed, budget, best, len(meeting), int(standing.sum())))
    for missed, budget, best, meeting_images, left in sorted(found, key=lambda f: (-f[0], f[1]))[:1]:
        yield (f"{best.name}, the best gradient attack at {best.norm} {budget:g}, leaves {left} of {meeting_images} images that "
               "this budget turns into one and the same image, on which no classifier is right for two classes: it missed at "
               f"least {missed} of them, so its gradients are masked or it is too weak; more steps, another loss and an attack "
               'without gradients show which (docs/messages.md, "Accuracy does not fall to 0 at a huge budget").')


def _standing(attack: _Attack, worth: Callable[[pd.DataFrame, float], float]) -> tuple[float, float, int] | None:
    """(worth, budget, images) where the images that an attack with a budget leaves are worth most; none below `FEWEST`."""
    found = []
    for budget in attack.budgets:
        rows = attack.at(budget)
        rows = rows[rows["robust"] == 1]
        if len(rows) >= FEWEST:
            found.append((worth(rows, budget), budget, len(rows)))
    return max(found, default=None)


def _boxed(attack: _Attack) -> Iterator[str]:
    """Images left standing far inside the ball, though they moved."""
    if attack.kind != "gradient" or attack.closest or attack.norm not in ("l2", "linf"):
        return

    def unused(rows: pd.DataFrame, budget: float) -> float:
        moved = rows[rows[attack.norm] > 0][attack.norm]
        return 1 - float(moved.median()) / budget if len(moved) >= FEWEST else -np.inf

    found = _standing(attack, unused)
    if found is not None and found[0] > 1 - USED:
        share, budget, images = found
        yield (f"the {images} images that {attack.name} leaves at {attack.norm} {budget:g} are at a median distance of "
               f"{(1 - share) * budget:.3g}, {100 * (1 - share):.0f} % of the budget: clipping to [0, 1] took the rest, so the "
               "box was the limit and not the budget; take more steps, which fill it again where they can, and read the number "
               'as one of a smaller budget (docs/messages.md, "The box used up the budget").')


def _unmoved(attack: _Attack) -> Iterator[str]:
    """Images left standing exactly where they were."""
    if attack.kind != "gradient" or attack.closest:
        return
    found = _standing(attack, lambda rows, _: float(((rows["l2"] == 0) & (rows["linf"] == 0)).mean()))
    if found is not None and found[0] >= UNMOVED:
        share, budget, images = found
        yield (f"{attack.name} did not move {round(share * images)} of the {images} images that it leaves at {attack.norm} "
               f"{budget:g}, as where a gradient is zero, so their robustness was not tested; take another loss, a random start "
               'or an attack without gradients (docs/messages.md, "Zero gradients").')
