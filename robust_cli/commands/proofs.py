"""The proofs of a run of verifiers: each image's row, group by group, kept as soon as it is there."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from robust_cli.messages import UserError, Wrong
from robust_cli.reporting.reading.about import DETERMINISTIC
from robust_cli.runs.console import Track, duration, say, track
from robust_cli.runs.folder import RunFolder
from robust_cli.runs.rows import RowLog

if TYPE_CHECKING:
    import torch
    from torch import nn

    from robust_cli.composing.subject import Subject

COLUMNS = ("certificate", "norm", "bounds", "index", "label", "predicted", "majority", "prediction", "p1_lower", "p2_upper",
           "radius", "draws", "stopped")
AT_ONCE = {"cpu": 8, "cuda": 64}  # images of a group: what a kill can cost; part of a logit's last bits, so never a setting
_TIMED = 4  # images proven before a run begins, to say how long it will take
_LONG = 5.0  # seconds of the first of them, after which it alone has to do


class Verifier(Protocol):
    """A method that proves a network's answers: a frozen dataclass with a class attribute ``verifies`` that is true."""

    @property
    def norm(self) -> str:
        """'l2', 'linf' or 'l1': of what is proven."""

    @property
    def radius(self) -> float | None:
        """The radius to prove, pixel units, > 0; None: the largest that it can prove of each image."""

    def __call__(self, model: nn.Module, images: torch.Tensor, classes: torch.Tensor, norm: str,
                 radius: float | None) -> torch.Tensor:
        """For images float32 [n, C, H, W] in [0, 1] and the model's classes of them, int64 [n]: bool [n], whether every image
        within ``radius`` is proven to have that class; or, where that is None, float64 [n], the largest radius proven (0: none).
        """


def rows_of(folder: RunFolder) -> dict[tuple[str, int], dict[str, str]]:
    """The rows of certificates.csv as text, by certificate and image. Raises UserError where it is damaged."""
    log = RowLog(folder.certificates, COLUMNS)
    try:
        return {(row["certificate"], int(row["index"])): row for row in log.read()}
    except ValueError as error:
        raise UserError(f"{log.path}: the file is damaged ({error}): start a new run") from error


@dataclass
class Proofs:
    """The proving of some images of a subject, in groups that do not depend on what is there already."""

    subject: Subject
    verifiers: Mapping[str, Verifier]
    positions: Sequence[int]
    folder: RunFolder
    seconds: dict[str, float] = field(default_factory=dict)  # an image took, by verifier; what was there already has none

    def __post_init__(self) -> None:
        size = AT_ONCE[self.subject.device.type]
        self.groups = [self.positions[k : k + size] for k in range(0, len(self.positions), size)]
        self.indices = self.subject.images.indices.tolist()
        # Nothing is written yet: a network that cannot be verified leaves no run.
        self.done = set(rows_of(self.folder)) if self.folder.certificates.exists() else set()

    def missing(self, name: str, group: Sequence[int]) -> list[int]:
        """The positions in a group that have no row of a verifier yet."""
        return [position for position in group if (name, self.indices[position]) not in self.done]

    def estimate(self) -> None:
        """Time each verifier that has work left on a few images, whose results are not kept, and say how long the rest takes."""
        left = {name: sum(len(self.missing(name, group)) for group in self.groups) for name in self.verifiers}
        if self.done:
            say(f"  going on: {len(self.done)} of {len(self.positions) * len(self.verifiers)} proofs are there")
        left, total = {name: number for name, number in left.items() if number}, 0.0
        for name, number in left.items():
            each = self._timed(name)
            total += each * number
            say(f"  {name}: about {each:.2g} s an image, timed on a few")
        if left:
            say(f"  about {duration(total)} for {sum(left.values()):,} proofs")

    def _timed(self, name: str) -> float:
        """Seconds an image: of the first, once it has paid for what is made once, and where that was quick of a few."""
        each = math.inf
        self.prove(name, self.positions[:1])
        for few in (self.positions[:1], self.positions[:_TIMED]):
            began = time.perf_counter()
            self.prove(name, few)
            each = (time.perf_counter() - began) / len(few)
            if each > _LONG:
                break
        return each

    def run(self) -> None:
        """Prove what is missing; each group's rows are on the disk before the next begins."""
        log = RowLog(self.folder.certificates, COLUMNS)
        todo = [(name, group) for name in self.verifiers for group in self.groups if self.missing(name, group)]
        total = sum(len(self.missing(name, group)) for name, group in todo)
        if not todo:
            return
        with track(total, "verifying", "proofs") as progress:
            for name in self.verifiers:
                self._run_one(name, [group for of, group in todo if of == name], log, progress)

    def _run_one(self, name: str, groups: Sequence[Sequence[int]], log: RowLog, progress: Track) -> None:
        began, images, proven = time.monotonic(), 0, 0
        for group in groups:
            missing = self.missing(name, group)
            rows = [row for position, row in zip(group, self.prove(name, group), strict=True) if position in missing]
            log.append(rows)
            self.done |= {(name, self.indices[position]) for position in missing}
            images, proven = images + len(group), proven + sum(row[COLUMNS.index("radius")] > 0 for row in rows)
            progress.advance(len(rows), f"{name}: {proven} of {sum(map(len, groups))} proven")
            self.seconds[name] = (time.monotonic() - began) / images

    def prove(self, name: str, group: Sequence[int]) -> list[list[Any]]:
        """The rows of one verifier for the images at some positions: of the class that the network names, right or wrong."""
        import torch

        from robust_cli.models.classifier import frozen

        verifier, at = self.verifiers[name], torch.tensor(list(group), device=self.subject.device)
        images, labels = self.subject.images.float(at), self.subject.images.labels[at].tolist()
        with frozen(self.subject.model) as model, torch.no_grad():
            classes = answers(model, images, AT_ONCE[self.subject.device.type])
            try:
                found = verifier(model, images, classes, verifier.norm, verifier.radius)
            except Wrong as wrong:  # a setting that does not fit this network
                raise UserError(f"certificate.{name}.{wrong.name}: expected {wrong.expected}, got {wrong.found!r}") from wrong
            except torch.OutOfMemoryError as error:
                raise UserError(f"certificate.{name}: {len(group)} images at once need more memory than {self.subject.device} "
                                "has; take a device with more, or train a smaller network (larger strides, fewer channels)") \
                    from error
        radii = as_radii(name, found, verifier.radius, len(group))
        named = zip([self.indices[position] for position in group], labels, classes.tolist(), radii, strict=True)
        return [[name, verifier.norm, DETERMINISTIC, index, label, answer, answer, answer, "", "", radius, 0, "complete"]
                for index, label, answer, radius in named]


def gate_radius(model: nn.Module) -> float | None:
    """Of a cascade, several networks of which the first that proves its class answers, the radius of these proofs; else None."""
    from robust_cli.verification.cascade import Cascade

    return model.radius if isinstance(model, Cascade) else None


def answers(model: nn.Module, images: torch.Tensor, rows: int) -> torch.Tensor:
    """The network's classes, int64 [n], from a forward pass of ``rows`` rows, the last ones empty: the same classes bit for bit
    however the images are grouped. (A cascade splits the images by its stages anyway, and would prove the empty ones.) Radii are
    only the same to the verifier's tolerance: bounds in float64, whose last bits may depend on the images beside.

    Raises UserError where the network answers nan.
    """
    from robust_cli.models.classifier import memory_format

    wanted = rows if gate_radius(model) is None else len(images)
    padded = images.new_zeros((wanted, *images.shape[1:])).to(memory_format=memory_format(model, images.device))
    padded[: len(images)] = images
    logits: torch.Tensor = model(padded)[: len(images)]
    if logits.isnan().any():
        raise UserError("certify: expected numbers from the model, found nan; its weights are broken: train again")
    return logits.argmax(1)


def as_radii(name: str, found: torch.Tensor, radius: float | None, images: int) -> list[float]:
    """A verifier's answer as radii; raises UserError where it is none."""
    import torch

    wanted = torch.float64 if radius is None else torch.bool
    if not isinstance(found, torch.Tensor) or found.shape != (images,) or found.dtype != wanted:
        what = f"{found.dtype} of shape {list(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise UserError(f"certificate.{name}: expected its class to answer {images} images at radius={radius} by "
                        f"{wanted} of shape [{images}], found {what}")
    radii = found.tolist() if radius is None else [radius if proven else 0.0 for proven in found.tolist()]
    if not all(number >= 0 for number in radii):  # nan is not, either
        raise UserError(f"certificate.{name}: expected its class to answer radii >= 0, found "
                        f"{next(number for number in radii if not number >= 0)}")
    return radii
