"""`robust certify`: from a trained run, or a model of one's own, to certified radii of its test images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from robust_cli.commands import proving, scoring, verifying
from robust_cli.commands.following import after_evaluation
from robust_cli.composing.task import command
from robust_cli.runs.console import duration, say, track
from robust_cli.runs.folder import RunFolder
from robust_cli.runs.ranks import ranks

if TYPE_CHECKING:
    import torch

    from robust_cli.composing.subject import Subject
    from robust_cli.smoothing.batching import Block
    from robust_cli.smoothing.collection import Collection
    from robust_cli.smoothing.place import Place
    from robust_cli.smoothing.scores import ScoreLog
    from robust_cli.smoothing.tally import Tally
    from robust_cli.smoothing.votes import NoisyVotes, Work

_AT_ONCE = 1000  # images that are looked at together
_PILOT = 50  # images after which the draws that the rest will take are foretold


@command("certify")
def main(config: DictConfig, folder: RunFolder) -> None:
    """Certify each image, and write certificates.csv and the curve: the network itself by proofs, or under noise by votes."""
    from robust_cli.composing.verifiers import verifiers

    if verifiers(config.certificate):
        verifying.verify(config, folder)
    else:
        count(config, folder)
    if ranks().leads:
        conclude(folder, config)


def count(config: DictConfig, folder: RunFolder) -> None:
    """Count noisy votes and certify them: writes votes.csv, certificates.csv and about.json."""
    from robust_cli.composing import subject as subjects
    from robust_cli.datasets.shards import positions
    from robust_cli.smoothing.collection import Collection
    from robust_cli.smoothing.place import place_of
    from robust_cli.smoothing.tally import Tally
    from robust_cli.smoothing.votes import NoisyVotes

    made, process = proving.procedure(config), ranks()
    subject = subjects.load_subject(config, "certify")
    place = place_of(subject.model, config.smoothing.layer, subject.images.shape)
    course = made.course(subject.images.shape, subject.classes, place.operator_norm)
    for first in range(0, len(subject.images), _AT_ONCE):
        made.noise.admit(subject.images.float(slice(first, first + _AT_ONCE)))
    subjects.introduce("certify", subject, config)
    say(f"  noise {made.noise.name} of std {made.noise.noise_std:g}{place.words}, sampling {made.name}: "
        f"{'up to ' * course.stops_early}{config.samples} draws an image after {course.selection} to select its class, failure "
        f"probability {config.failure_probability:g}; certificates: {', '.join(made.certificates)}")
    if course.note:
        say(f"  {course.note}")
    mine = positions(config.shard, len(subject.images))
    indices, labels = ([values[p] for p in mine] for values in (subject.images.indices.tolist(), subject.images.labels.tolist()))
    where = dict(zip(indices, mine, strict=True))
    if process.leads:
        subjects.record(folder, config, subject.device, subject.images, subject.about["model_fingerprint"])
        proving.keep_plan(folder, course)
        place.keep(folder.first_layer)
        gather(folder, indices, subject.classes)
    process.wait()

    collection = Collection(course, indices, labels, subject.classes)
    for row in Tally(folder.votes, subject.classes).rows():
        collection.take(*row)
    counter = NoisyVotes(place.after, subject.classes, made.noise, config.seed, subject.device, subject.about["precision"],
                         config.workers)
    own = folder.votes if process.size == 1 else folder.votes_of(process.rank)
    others = set(indices) - set(indices[process.rank :: process.size])
    todo = [block for block in collection.remaining() if block.index not in others]
    whose = f" (this process: {len(todo)} of {len(indices)} images)" if process.size > 1 else ""
    scores = scoring.log(folder, made, subject.classes, process.size)
    counting = Counting(subject, place, where, Tally(own, subject.classes), collection, todo, whose, scores, made.noise.noise_std)
    seconds = counting.run(counter) if todo else 0.0
    process.wait()
    if not process.leads:
        return
    gather(folder, indices, subject.classes, finished=True)
    if process.size > 1:
        collection = Collection(course, indices, labels, subject.classes)
        for row in Tally(folder.votes, subject.classes).rows():
            collection.take(*row)
    about = {**subject.about, "smoothing": place.describe(), "images": len(indices), "shard": config.shard,
             "shape": list(subject.images.shape)}
    proving.write_results(folder, config, made, course, collection, about,
                          seconds / counter.evaluations if counter.evaluations else None)


def gather(folder: RunFolder, indices: list[int], classes: int, finished: bool = False) -> None:
    """Take what other processes have counted into votes.csv; at the end put it in order."""
    from robust_cli.smoothing.tally import Tally

    tally, others = Tally(folder.votes, classes), folder.votes_of_ranks
    for path in others:
        Tally(path, classes)  # drops a line torn by a kill
    if others or finished:
        tally.put_in_order(indices, others)


@dataclass
class Counting:
    """The counting of some images: what is stored, said and asked for next as their votes come in."""

    subject: Subject
    place: Place
    where: dict[int, int]  # each image of the data set stands among the subject's
    tally: Tally
    collection: Collection
    todo: list[Block]
    whose: str = ""  # of several processes, which images are counted here
    scores: ScoreLog | None = None  # where softmax scores are kept, too
    noise_std: float = 0.0
    rate: float = 0.0  # draws per second
    done: int = 0  # images
    drawn: int = 0

    def image(self, index: int) -> torch.Tensor:
        """What the noise is added to: the image, float32 [C, H, W] in [0, 1], or the first layer's output of it."""
        position = self.where[index]
        point = self.place.each(self.subject.images.float(slice(position, position + 1)))
        self.place.admit(point, self.noise_std)
        return point[0]

    def run(self, counter: NoisyVotes) -> float:
        """Count to the end, and the seconds that took; what was counted is kept whatever happens."""
        most = sum(self.collection.most_left(block.index) for block in self.todo)
        self.rate = counter.draws_per_second(self.image(self.todo[0].index))
        say(f"  {self._limit}{most:,} draws to count at about {self.rate:,.0f}/s: {self._limit}{duration(most / self.rate)}"
            f"{self.whose}")
        began = time.monotonic()
        with track(most, "votes", "draws counted or saved" if self._limit else "draws") as self.progress:
            keep = self.scores.add if self.scores else None
            counter.serve(((self.image(block.index), block) for block in self.todo), self.answer, keep)
        if self._limit:
            say(f"  {self.drawn:,} draws were counted, {self.drawn / len(self.todo):,.0f} an image{self.whose}")
        return time.monotonic() - began

    def answer(self, block: Block, counts: list[int]) -> Work | None:
        """Store a block's votes; what its image wants next."""
        before = self.collection.most_left(block.index)
        self.tally.add(block.index, block.purpose, block.block, counts)
        self.collection.take(block.index, block.purpose, block.block, counts)
        self.drawn += block.draws
        self.progress.advance(before - self.collection.most_left(block.index))
        following = self.collection.wanted(block.index)
        if following is not None:
            return self.image(block.index), following
        self.done += 1
        if self._limit and self.done == _PILOT < len(self.todo):
            a_image, left = self.drawn / self.done, len(self.todo) - self.done
            say(f"  the first {_PILOT} images took {a_image:,.0f} draws each: about {duration(a_image * left / self.rate)} for "
                f"the other {left}")
        return None

    @property
    def _limit(self) -> str:
        return "at most " if self.collection.course.stops_early else ""


def conclude(folder: RunFolder, config: DictConfig) -> None:
    """The curve, the small table and what to do next."""
    from robust_cli.reporting import results

    results.certified(folder)
    say(f"run: {folder}")
    say(f"next: {after_evaluation(folder, config)}")
