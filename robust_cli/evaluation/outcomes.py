"""Everything around an attack: outcomes, distances, costs, their rows on the disk, and going on after a kill.

An attack proposes one final image; what came of it is measured here, on the float32 image as it is stored. A base classifier
answers for itself. A smoothed classifier is decided once by fresh votes that the attack has not seen: the majority, where a
tie at the top counts as fooled. An image is robust only if it is classified as its label both clean and after the attack;
an image whose clean outcome is wrong is not attacked: it is stored as it is, with its clean outcome and no cost.

A closest-example attack (a class attribute ``closest``, no budget) runs once: one row for each image, of budget infinity, with
the distance of the nearest example found. It returns the image itself where it found none, which is then still robust.
Its robust accuracy at any budget follows: fooled, at a distance within it.

On a smoothed classifier with two objectives every gradient attack climbs both, the second on the images that votes of the
attack's own do not call fooled beyond chance. Whatever is tried on the way: the final image is decided by votes not used before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.ensemble import relay
from robust_cli.attacks.geometry import distances
from robust_cli.attacks.losses import lead
from robust_cli.attacks.norms import Norm
from robust_cli.datasets.images import Images
from robust_cli.evaluation.plan import Planned, check_suited, is_closest, kind, sweep
from robust_cli.evaluation.storage import CLEAN, FIXED, columns, keep_originals, open_images
from robust_cli.evaluation.stored import eight_bit
from robust_cli.messages import UserError, Wrong
from robust_cli.runs.console import track
from robust_cli.runs.folder import RunFolder
from robust_cli.runs.rows import RowLog
from robust_cli.smoothing.noise import ImageDraws

TOLERANCE = 1e-6  # relative, on the budget
LUCK = 3.0  # standard errors of a lead in votes, at most sqrt(votes) each
Store = np.memmap[Any, Any]
Decide = Callable[[torch.Tensor, Sequence[int], str], Any]


@dataclass(frozen=True)
class Rules:
    """How an evaluation goes about its images.

    labels: what an attack leads away from, ``dataset`` (the true label) or ``predicted`` (the classifier's own clean answer, so
    that nothing of the label can leak into the image). The two differ only on images that are wrong when clean, and those
    are attacked only with ``also_wrong``; they count as not robust whatever comes of it. reuse: an image that was fooled at a
    smaller budget (by votes: beyond chance) keeps that adversarial image at the larger ones, where it is decided anew; only
    the others are attacked.
    """

    labels: str = "dataset"
    also_wrong: bool = False
    reuse: bool = True


@dataclass(frozen=True)
class _Batch:
    """Some images of the subset: float32 [n, C, H, W] on the device, with positions, indices and labels, int64 [n] on the CPU."""

    images: torch.Tensor
    positions: torch.Tensor
    indices: torch.Tensor
    labels: torch.Tensor

    def select(self, rows: torch.Tensor) -> _Batch:
        return _Batch(self.images[rows.to(self.images.device)], self.positions[rows], self.indices[rows], self.labels[rows])

    def replaced(self, rows: torch.Tensor, images: torch.Tensor) -> _Batch:
        """With other images in some rows."""
        return replace(self, images=self.images.index_copy(0, rows.to(self.images.device), images))


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
    folder: RunFolder
    rules: Rules
    log: RowLog
    done: dict[tuple[str, float, int], dict[str, str]]

    def batches(self, positions: torch.Tensor) -> Iterator[_Batch]:
        """Images of the subset in groups that do not depend on what is done already: what is computed again is computed alike."""
        indices, labels = self.images.indices.cpu(), self.images.labels.cpu()
        for part in positions.split(self.batch_size) if len(positions) else ():
            images = self.images.float(part.to(self.images.pixels.device)).to(self.device)
            yield _Batch(images, part, indices[part], labels[part])

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
               cost: tuple[float, float], right: list[bool]) -> None:
        """Append the outcomes of the images that have none yet; ``right``: whose clean outcome is."""
        l2, linf = (distances(batch.images, originals, n).tolist() for n in (Norm.l2, Norm.linf))
        missing, rows = self.missing(name, budget, batch).tolist(), []
        for k in missing:
            index, label, (predicted, votes) = int(batch.indices[k]), int(batch.labels[k]), answers[k]
            robust = int(right[k] and predicted == label)
            rows.append([name, norm, budget, index, label, predicted, robust, l2[k], linf[k], *cost, *votes])
        self.log.append(rows)
        for row in rows:
            self.done[name, budget, row[3]] = dict(zip(self.log.columns, map(str, row), strict=True))

    def clean(self, batch: _Batch) -> None:
        """Outcomes of clean images."""
        if len(self.missing(CLEAN, 0.0, batch)):
            answers = self.answers(batch, f"decision/{CLEAN}")
            self.append(CLEAN, "", 0.0, batch, batch.images, answers, (0, 0), [True] * len(answers))

    def standing(self, planned: Planned, earlier: float | None) -> torch.Tensor:
        """Which images of the subset are to be attacked, bool [N]: right when clean, not fooled at the next smaller budget."""
        indices = self.images.indices.tolist()
        right = torch.tensor([self.done[CLEAN, 0.0, i]["robust"] == "1" for i in indices])
        chosen = torch.ones_like(right) if self.rules.also_wrong and not is_closest(planned.attack) else right
        return chosen if earlier is None else chosen & ~(right & self.beaten_at(planned.name, earlier, indices))

    def beaten_at(self, name: str, budget: float, indices: Sequence[int]) -> torch.Tensor:
        """Which images an attack fooled at a budget for certain, bool [n]: their points serve the larger ones.

        Where votes decide, another class has to lead by three standard errors: a point that fooled by luck would stand at the
        larger budget, where the attack is stronger, and flatter the defence.
        """
        rows = [self.done[name, budget, index] for index in indices]
        beaten = torch.tensor([row["robust"] == "0" for row in rows], dtype=torch.bool)
        if self.decide is None:
            return beaten
        votes = torch.tensor([[float(row[c]) for c in self.log.columns[len(FIXED):]] for row in rows], dtype=torch.float64)
        labels = torch.tensor([int(row["label"]) for row in rows])
        return beaten & (lead(votes, labels) > LUCK * votes.sum(1).sqrt())

    def keep(self, planned: Planned, earlier: float | None, batch: _Batch, store: Store) -> None:
        """Rows of images that are not attacked: wrong when clean, which stay as they are, or fooled at the next smaller budget,
        whose adversarial images are decided anew."""
        missing = self.missing(planned.name, planned.budget, batch)
        if not len(missing):
            return
        clean = [self.done[CLEAN, 0.0, index] for index in batch.indices.tolist()]
        answers: list[Answer] = [(int(row["predicted"]), [row[c] for c in self.log.columns[len(FIXED):]]) for row in clean]
        right, final = [row["robust"] == "1" for row in clean], batch
        rows = torch.tensor(right).nonzero().flatten()
        if len(rows):
            assert earlier is not None, "an image that is right when clean is attacked"
            mine = batch.select(rows)
            path = self.folder.adversarial(planned.name, earlier)
            found = open_images(path, (len(self.images), *self.images.shape), begun=True)[mine.positions.numpy()]
            final = final.replaced(rows, torch.from_numpy(found).to(self.device))
            for k, answer in zip(rows.tolist(), self.answers(final.select(rows), _purpose(planned)), strict=True):
                answers[k] = answer
        self.write(planned, final, batch, store, answers, (0, 0), right)

    def attack(self, planned: Planned, batch: _Batch, store: Store) -> None:
        """Attack the images of a batch: their final images to the disk, then their rows."""
        if not len(self.missing(planned.name, planned.budget, batch)):
            return
        clean = [self.done[CLEAN, 0.0, index] for index in batch.indices.tolist()]
        labels = batch.labels
        if self.rules.labels == "predicted":
            predicted = torch.tensor([int(row["predicted"]) for row in clean])
            labels = torch.where(predicted < 0, labels, predicted)
        proposed, cost = self.propose(planned, batch, labels)
        final = replace(batch, images=proposed)
        answers = self.answers(final, _purpose(planned))
        self.write(planned, final, batch, store, answers, cost, [row["robust"] == "1" for row in clean])

    def write(self, planned: Planned, final: _Batch, batch: _Batch, store: Store, answers: list[Answer],
              cost: tuple[float, float], right: list[bool]) -> None:
        """Final images of a batch to the disk, then their rows. An image with a row stays the image that its row tells of."""
        missing = self.missing(planned.name, planned.budget, batch)
        store[final.positions[missing].numpy()] = final.select(missing).images.cpu().numpy()
        store.flush()
        self.append(planned.name, str(planned.attack.norm), planned.budget, final, batch.images, answers, cost, right)

    def propose(self, planned: Planned, batch: _Batch, labels: torch.Tensor) -> tuple[torch.Tensor, tuple[float, float]]:
        """The attack's final images, within budget and box, and the forward and backward passes for each, means of the batch."""
        name, budget, attack = planned
        draws = ImageDraws(self.device, self.seed, f"attack/{name}/{budget!r}", batch.indices.tolist())
        network = self.classifier.network
        before = network.forward_passes, network.backward_passes
        try:
            final = run(attack, self.classifier, batch.images, labels.to(self.device), draws).detach()
        except Wrong as wrong:  # a setting that this classifier rules out
            raise UserError(f"attack.{name}.{wrong}") from wrong
        _check(final, batch, planned)
        forward, backward = network.forward_passes - before[0], network.backward_passes - before[1]
        return final, (forward / len(final), backward / len(final))


def _purpose(planned: Planned) -> str:
    """Of the votes that decide its final images, which nothing else uses."""
    return f"decision/{planned.name}/{planned.budget!r}"


def run(attack: Any, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
    """An attack's images; a gradient attack climbs every view of the classifier, one after the other on those still standing."""
    views = classifier.views() if kind(attack) in ("gradient", "noise") else [classifier]
    if len(views) == 1:
        return attack(views[0], images, labels, draws)
    return relay([(attack, view) for view in views], images, labels, draws)


def _check(final: torch.Tensor, batch: _Batch, planned: Planned) -> None:
    """Whether an attack kept its promise; raises UserError naming it and the first image that shows otherwise."""
    name, budget, attack = planned
    if final.shape != batch.images.shape or final.dtype != torch.float32:
        raise UserError(f"attack.{name}: expected float32 images {list(batch.images.shape)}, got {final.dtype} "
                        f"{list(final.shape)}: the attack is broken")
    distance = distances(final, batch.images, attack.norm)
    boxed = ((final >= 0) & (final <= 1)).flatten(1).all(1)  # false for nan as well
    held = math.inf if getattr(attack, "rounded", False) else budget * (1 + TOLERANCE)
    wrong = (~(distance <= held) | ~boxed).nonzero().flatten().tolist()
    if wrong:
        k = wrong[0]
        within = "" if math.isinf(budget) else f" within {attack.norm} {budget:g} of the originals"
        raise UserError(f"attack.{name}: expected images in [0, 1]{within}, got distance "
                        f"{float(distance[k]):.9g}, pixels {float(final[k].min()):g} to {float(final[k].max()):g} "
                        f"(image {int(batch.indices[k])}, {len(wrong)} in its batch): the attack is broken")


def evaluate(attacks: Mapping[str, Any], classifier: Classifier, images: Images, budgets: Mapping[str, Sequence[float]], *,
             seed: int, batch_size: int, device: torch.device | str, folder: RunFolder, decide: Decide | None = None,
             rules: Rules | None = None, more: Sequence[Planned] = (), rounded: bool = False) -> None:
    """Run every attack at every budget of its norm; append one row for each image to ``folder.outcomes``, clean rows first.

    ``decide(images float32 [n, C, H, W], indices, purpose) -> counts int64 [n, K]``: fresh votes of a smoothed classifier, whose
    ``purpose`` names attack and budget; None for a base classifier. ``more``: what runs after these attacks (images of other
    runs); ``rounded``: decide each attack's images once more rounded to 8 bits. Images with a row are kept: cut anywhere
    and run again with the same arguments, the files end up the same (on a CPU, bit for bit). Raises UserError on wrong
    budgets, on images outside budget or box (a broken attack), and on a folder that holds other images.
    """
    assert (decide is not None) == classifier.random, "votes decide a random classifier, and no other"
    assert len(set(images.indices.tolist())) == len(images), "an image twice in one subset"
    check_suited(attacks, classifier)
    plan, rules = sweep(attacks, budgets), rules or Rules()
    plan = [*(eight_bit(plan, images, folder) if rounded else plan), *more]
    keep_originals(images, folder)
    log = RowLog(folder.outcomes, columns(len(images.class_names)))
    done = {(row["attack"], float(row["budget"]), int(row["index"])): row for row in log.read()}
    work = _Evaluation(classifier, images, seed, batch_size, torch.device(device), decide, folder, rules, log, done)
    with track(len(images), "clean images", "images") as progress:
        for batch in work.batches(torch.arange(len(images))):
            work.clean(batch)
            progress.advance(len(batch.images))
    earlier: dict[str, float] = {}
    for planned in plan:
        name, budget, attack = planned
        begun = any(key[:2] == (name, budget) for key in done)
        store = open_images(folder.adversarial(name, budget), (len(images), *images.shape), begun)
        at = f"closest in {attack.norm}" if is_closest(attack) else f"at {attack.norm} {budget:g}"
        with track(len(images), f"{name} {at}", "images") as progress:
            standing = work.standing(planned, earlier.get(name))
            for batch in work.batches((~standing).nonzero().flatten()):
                work.keep(planned, earlier.get(name), batch, store)
                progress.advance(len(batch.images))
            for batch in work.batches(standing.nonzero().flatten()):
                work.attack(planned, batch, store)
                progress.advance(len(batch.images))
        if rules.reuse and kind(attack) != "stored":
            earlier[name] = budget
