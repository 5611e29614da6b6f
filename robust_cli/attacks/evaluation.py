"""Everything around an attack: outcomes, distances, costs, their rows on the disk, and going on after a kill.

An attack proposes one final image; what came of it is measured here, on the float32 image as it is stored. A base classifier
answers for itself. A smoothed classifier is decided once by fresh votes that the attack has not seen: the majority, where a
tie at the top counts as fooled. An image is robust only if it is classified as its label both clean and after the attack;
an image whose clean outcome is wrong is not attacked: it is stored as it is, with its clean outcome and no cost.

A closest-example attack (a class attribute ``closest``, no budget) runs once: one row for each image, of budget infinity, with
the distance of the nearest example found. It returns the image itself where it found none, which is then still robust.
Its robust accuracy at any budget follows: fooled, at a distance within it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.geometry import distances
from robust_cli.attacks.norms import Norm
from robust_cli.attacks.storage import CLEAN, FIXED, columns, keep_originals, open_images
from robust_cli.datasets.images import Images
from robust_cli.messages import UserError, Wrong
from robust_cli.runs.console import track
from robust_cli.runs.folder import RunFolder
from robust_cli.runs.rows import RowLog
from robust_cli.smoothing.noise import ImageDraws

TOLERANCE = 1e-6  # relative, on the budget
Decide = Callable[[torch.Tensor, Sequence[int], str], Any]


class Attack(Protocol):
    """A method that proposes adversarial images within a budget: a frozen dataclass with a field ``budget``, in pixel units,
    None until the sweep sets it; or the closest ones found, with a class attribute ``closest`` that is true, and no budget."""

    @property
    def norm(self) -> str:
        """The norm of its budget."""

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Images float32 [n, C, H, W] within the budget of ``images`` and in [0, 1]; randomness from ``draws`` alone."""


def is_closest(attack: Any) -> bool:
    """Whether an attack looks for the closest example instead of one within a budget."""
    return bool(getattr(attack, "closest", False))


def check_suited(attacks: Mapping[str, Any], random: bool) -> None:
    """Raises UserError for an attack that cannot take a random classifier."""
    for name in (name for name, attack in attacks.items() if random and is_closest(attack)):
        raise UserError(f"attack.{name}: expected a base classifier, since a closest example is where a fixed answer changes and "
                        "a smoothed classifier's votes differ each time; take classifier=base, or an attack with budgets")


def sweep(attacks: Mapping[str, Any], budgets: Mapping[str, Sequence[float]]) -> list[tuple[str, float, Any]]:
    """(name, budget, attack with that budget), budgets ascending within each attack; a closest-example attack once, infinity.

    Raises UserError on a norm without budgets, a budget that is not above 0, and two budgets that share a file name.
    """
    plan = []
    for name, attack in attacks.items():
        norm = str(Norm(attack.norm))
        chosen = sorted({float(budget) for budget in budgets.get(norm) or ()})
        if name == CLEAN:
            raise UserError(f"attack.{name}: expected another name, this one stands for the clean images")
        if not chosen:
            raise UserError(f"budgets.{norm}: expected at least one budget, since attack.{name} works in {norm}")
        if not all(0 < budget < float("inf") for budget in chosen):
            raise UserError(f"budgets.{norm}: expected numbers > 0 (the clean outcome is always computed), got {chosen}")
        if len({f"{budget:g}" for budget in chosen}) < len(chosen):
            raise UserError(f"budgets.{norm}: expected budgets that differ in their first six digits, got {chosen}")
        if is_closest(attack):
            plan.append((name, math.inf, attack))
            continue
        plan += [(name, budget, replace(attack, budget=budget)) for budget in chosen]
    return plan


@dataclass(frozen=True)
class _Batch:
    """Some images of the subset: float32 [n, C, H, W] on the device, with positions, indices and labels, int64 [n] on the CPU."""

    images: torch.Tensor
    positions: torch.Tensor
    indices: torch.Tensor
    labels: torch.Tensor

    def select(self, rows: torch.Tensor) -> _Batch:
        return _Batch(self.images[rows.to(self.images.device)], self.positions[rows], self.indices[rows], self.labels[rows])


Answer = tuple[int, list[Any]]  # the class predicted, -1 for none; votes, empty texts for a base classifier


@dataclass(frozen=True)
class _Evaluation:
    """What stays fixed during an evaluation, and the rows so far by (attack, budget, index)."""

    classifier: Classifier
    images: Images
    seed: int
    batch_size: int
    device: torch.device
    decide: Decide | None
    log: RowLog
    done: dict[tuple[str, float, int], dict[str, str]]

    def batches(self) -> Iterator[_Batch]:
        """The subset in groups that do not depend on what is done already: what is computed again is computed alike."""
        indices, labels = self.images.indices.cpu(), self.images.labels.cpu()
        for positions in torch.arange(len(self.images)).split(self.batch_size):
            images = self.images.float(positions.to(self.images.pixels.device)).to(self.device)
            yield _Batch(images, positions, indices[positions], labels[positions])

    def missing(self, name: str, budget: float, batch: _Batch) -> torch.Tensor:
        """Rows of a batch whose image has no outcome yet."""
        return torch.tensor([(name, budget, i) not in self.done for i in batch.indices.tolist()]).nonzero().flatten()

    def answers(self, batch: _Batch, purpose: str) -> list[Answer]:
        """The classifier's answer to each image, by fresh votes if it is random."""
        if self.decide is None:
            logits = self.classifier.network.logits(batch.images)
            predicted = torch.where(logits.isnan().any(1), -1, logits.argmax(1))
            return [(p, [""] * len(self.images.class_names)) for p in predicted.tolist()]
        votes = torch.as_tensor(self.decide(batch.images, batch.indices.tolist(), purpose)).cpu()
        first, second = votes.topk(2, dim=1).values.T
        return list(zip(torch.where(first > second, votes.argmax(1), -1).tolist(), votes.tolist(), strict=True))

    def append(self, name: str, norm: str, budget: float, batch: _Batch, originals: torch.Tensor, answers: list[Answer],
               passes: list[tuple[float, float]]) -> None:
        """Append the outcomes of the images that have none yet."""
        l2, linf = (distances(batch.images, originals, n).tolist() for n in (Norm.l2, Norm.linf))
        missing, rows = self.missing(name, budget, batch).tolist(), []
        for k in missing:
            index, label, (predicted, votes) = int(batch.indices[k]), int(batch.labels[k]), answers[k]
            robust = int(predicted == label)
            rows.append([name, norm, budget, index, label, predicted, robust, l2[k], linf[k], *passes[k], *votes])
        self.log.append(rows)
        for row in rows:
            self.done[name, budget, row[3]] = dict(zip(self.log.columns, map(str, row), strict=True))

    def clean(self, batch: _Batch) -> None:
        """Outcomes of clean images."""
        if len(self.missing(CLEAN, 0.0, batch)):
            answers = self.answers(batch, f"decision/{CLEAN}")
            self.append(CLEAN, "", 0.0, batch, batch.images, answers, [(0, 0)] * len(answers))

    def attack(self, name: str, budget: float, attack: Attack, batch: _Batch, store: np.memmap[Any, Any]) -> None:
        """Attack the images whose clean outcome is right: all images to the disk, then their rows."""
        missing = self.missing(name, budget, batch)
        if not len(missing):
            return
        clean = [self.done[CLEAN, 0.0, index] for index in batch.indices.tolist()]
        answers: list[Answer] = [(int(row["predicted"]), [row[c] for c in self.log.columns[len(FIXED):]]) for row in clean]
        passes: list[tuple[float, float]] = [(0, 0)] * len(clean)
        right = torch.tensor([row["robust"] == "1" for row in clean]).nonzero().flatten()
        final = batch
        if len(right):
            proposed, cost = self.propose(name, budget, attack, batch.select(right))
            final = replace(batch, images=batch.images.index_copy(0, right.to(self.device), proposed))
        # An image with a row stays the image that its row tells of.
        store[final.positions[missing].numpy()] = final.select(missing).images.cpu().numpy()
        store.flush()
        if len(right):
            decided = self.answers(final.select(right), f"decision/{name}/{budget!r}")
            for k, answer in zip(right.tolist(), decided, strict=True):
                answers[k], passes[k] = answer, cost
        self.append(name, str(attack.norm), budget, final, batch.images, answers, passes)

    def propose(self, name: str, budget: float, attack: Attack, batch: _Batch) -> tuple[torch.Tensor, tuple[float, float]]:
        """The attack's final images, within budget and box, and the forward and backward passes for each."""
        draws = ImageDraws(self.device, self.seed, f"attack/{name}/{budget!r}", batch.indices.tolist())
        network = self.classifier.network
        before = network.forward_passes, network.backward_passes
        try:
            final = attack(self.classifier, batch.images, batch.labels.to(self.device), draws).detach()
        except Wrong as wrong:  # a setting that this classifier rules out
            raise UserError(f"attack.{name}.{wrong}") from wrong
        _check(final, batch, attack.norm, name, budget)
        forward, backward = network.forward_passes - before[0], network.backward_passes - before[1]
        return final, (forward / len(final), backward / len(final))


def _check(final: torch.Tensor, batch: _Batch, norm: str, name: str, budget: float) -> None:
    """Whether an attack kept its promise; raises UserError naming it and the first image that shows otherwise."""
    if final.shape != batch.images.shape or final.dtype != torch.float32:
        raise UserError(f"attack.{name}: expected float32 images {list(batch.images.shape)}, got {final.dtype} "
                        f"{list(final.shape)}: the attack is broken")
    distance = distances(final, batch.images, norm)
    boxed = ((final >= 0) & (final <= 1)).flatten(1).all(1)  # false for nan as well
    wrong = (~(distance <= budget * (1 + TOLERANCE)) | ~boxed).nonzero().flatten().tolist()
    if wrong:
        k = wrong[0]
        within = "" if math.isinf(budget) else f" within {norm} {budget:g} of the originals"
        raise UserError(f"attack.{name}: expected images in [0, 1]{within}, got distance "
                        f"{float(distance[k]):.9g}, pixels {float(final[k].min()):g} to {float(final[k].max()):g} "
                        f"(image {int(batch.indices[k])}, {len(wrong)} in its batch): the attack is broken")


def evaluate(attacks: Mapping[str, Any], classifier: Classifier, images: Images, budgets: Mapping[str, Sequence[float]], *,
             seed: int, batch_size: int, device: torch.device | str, folder: RunFolder, decide: Decide | None = None) -> None:
    """Run every attack at every budget of its norm; append one row for each image to ``folder.outcomes``, clean rows first.

    ``decide(images float32 [n, C, H, W], indices, purpose) -> counts int64 [n, K]``: fresh votes of a smoothed classifier, whose
    ``purpose`` names attack and budget; None for a base classifier. Images with a row are kept: cut anywhere and run again with
    the same arguments, the files end up the same (on a CPU, bit for bit). Raises UserError on wrong budgets, on images
    outside budget or box (a broken attack), and on a folder that holds other images.
    """
    assert (decide is not None) == classifier.random, "votes decide a random classifier, and no other"
    assert len(set(images.indices.tolist())) == len(images), "an image twice in one subset"
    check_suited(attacks, classifier.random)
    plan = sweep(attacks, budgets)
    keep_originals(images, folder)
    log = RowLog(folder.outcomes, columns(len(images.class_names)))
    done = {(row["attack"], float(row["budget"]), int(row["index"])): row for row in log.read()}
    work = _Evaluation(classifier, images, seed, batch_size, torch.device(device), decide, log, done)
    with track(len(images), "clean images", "images") as progress:
        for batch in work.batches():
            work.clean(batch)
            progress.advance(len(batch.images))
    for name, budget, attack in plan:
        begun = any(key[:2] == (name, budget) for key in done)
        store = open_images(folder.adversarial(name, budget), (len(images), *images.shape), begun)
        at = f"closest in {attack.norm}" if is_closest(attack) else f"at {attack.norm} {budget:g}"
        with track(len(images), f"{name} {at}", "images") as progress:
            for batch in work.batches():
                work.attack(name, budget, attack, batch, store)
                progress.advance(len(batch.images))
