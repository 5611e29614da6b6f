"""What a certify run keeps and says beside its votes where a certificate is of expected softmax. Without one: nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from robust_cli.certificates.certificate import Certificate
    from robust_cli.commands.proving import Procedure
    from robust_cli.smoothing.collection import Collection
    from robust_cli.smoothing.plans.plan import Bounds, Course, Votes
    from robust_cli.smoothing.scores import ScoreLog


def wanted(made: Procedure) -> list[str]:
    """The names of the certificates of expected softmax."""
    from robust_cli.certificates.certificate import scores_of

    return [name for name, certificate in made.certificates.items() if scores_of(certificate) == "softmax"]


def log(folder: RunFolder, made: Procedure, classes: int, processes: int) -> ScoreLog | None:
    """Where the scores of a run go that begins or goes on; None where none are wanted. Raises UserError where several processes
    share the run, and where scores of counted votes are missing."""
    from robust_cli.smoothing.scores import ScoreLog
    from robust_cli.smoothing.tally import Tally

    names = wanted(made)
    if not names:
        return None
    if processes > 1:
        raise UserError(f"certificate.{names[0]}: expected one process, which alone keeps softmax scores, found {processes}; "
                        "certify without torchrun (parts of the images: shard=1/2, shard=2/2, then robust merge)")
    kept = ScoreLog(folder.scores, classes)
    kept.check(Tally(folder.votes, classes).rows())
    return kept


def complete(folder: RunFolder, made: Procedure, course: Course, collection: Collection) -> Votes:
    """All votes of a run, with the scores where they are wanted, whose file is put in order."""
    from dataclasses import replace

    from robust_cli.smoothing.scores import ScoreLog

    votes = collection.votes()
    if not wanted(made):
        return votes
    kept = ScoreLog(folder.scores, collection.classes)
    kept.put_in_order(collection.indices)
    return replace(votes, scores=kept.read(course, collection.indices))


def join(target: RunFolder, parts: Sequence[RunFolder], made: Procedure, classes: int) -> None:
    """The scores of parts as those of one run, where they are wanted."""
    from robust_cli.smoothing.scores import ScoreLog

    if not wanted(made):
        return
    kept = ScoreLog(target.scores, classes)
    for part in parts:
        if not part.scores.exists():
            raise UserError(f"{part.scores}: expected the softmax scores of this part, found no such file; certify it again")
        kept.take(ScoreLog(part.scores, classes).rows())


def answers(certificate: Certificate, found: Bounds, votes: Votes,
            of_votes: Mapping[str, NDArray[np.int64]]) -> Mapping[str, NDArray[np.int64]]:
    """majority and prediction of each image: by its votes, or, for a certificate of expected softmax, the class of the largest
    mean softmax and the class that the bounds prove to have the largest expectation."""
    from robust_cli.certificates.certificate import scores_of
    from robust_cli.smoothing.plans.expected import answers

    if scores_of(certificate) == "votes":
        return of_votes
    assert votes.scores is not None
    return {"majority": answers(votes.scores), "prediction": found.predicted}


def said(certificate: Certificate) -> dict[str, Any]:
    """For about.json: what the probabilities are of, where they are not of votes."""
    from robust_cli.certificates.certificate import scores_of

    return {} if scores_of(certificate) == "votes" else {"scores": scores_of(certificate)}
