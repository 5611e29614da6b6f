"""From votes to a certify run's results: what `certify` and `merge` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from robust_cli.commands import scoring
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder, write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from robust_cli.certificates.certificate import Certificate
    from robust_cli.smoothing.collection import Collection
    from robust_cli.smoothing.noises import Noise
    from robust_cli.smoothing.plans.plan import Course, Sampling, Votes


@dataclass(frozen=True)
class Procedure:
    """Certificates, sampling plan and noise of a run, built from its config and checked to go together."""

    certificates: dict[str, Certificate]
    plan: Sampling
    name: str  # of the plan
    noise: Noise
    failure_probability: float

    def course(self, shape: tuple[int, ...], classes: int, operator_norm: float = 1.0) -> Course:
        """Everything fixed before the first draw, for images of a shape. What the noise may lack to the ideal is charged to the
        failure probability. ``operator_norm``: of what lies before the noise; radii are those of so many times less of it. Raises
        UserError where plan and certificates do not go together."""
        import math

        from robust_cli.certificates.in_norm import InItsNorm
        from robust_cli.smoothing.place import in_pixels

        pixels = math.prod(shape)
        charged = self.noise.residual(pixels, self.plan.samples + self.plan.selection)
        if charged >= self.failure_probability:
            raise UserError(f"failure_probability: expected more than {charged:.2g}, by which {self.plan.samples} draws of "
                            f"noise={self.noise.name} may differ from the ideal noise, got {self.failure_probability:g}")
        certificates = {name: InItsNorm(made, pixels) for name, made in self.certificates.items()}
        plan, noise_std = self._plan_for(pixels, operator_norm), in_pixels(self.noise.drawn_std, operator_norm)
        course = plan.course(certificates, noise_std, self.failure_probability - charged, classes)
        for name in certificates:
            course.largest_radius(name)  # what its bounds refuse (a failure probability too small) is refused before any draw
        return course

    def _plan_for(self, pixels: int, operator_norm: float) -> Sampling:
        """The plan; its usual table of radii, which is l2's, in linf where the certificates are."""
        from dataclasses import replace

        from robust_cli.smoothing.plans.sequential import Sequential, usual_radii

        in_linf = all(made.norm == "linf" for made in self.certificates.values())
        if not isinstance(self.plan, Sequential) or self.plan.radii is not None or not in_linf:
            return self.plan
        return replace(self.plan, radii=[radius / pixels**0.5 for radius in usual_radii(self.noise.noise_std / operator_norm)])


def procedure(config: DictConfig) -> Procedure:
    """Build what a certify config names. Raises UserError with the key that is wrong."""
    from robust_cli.certificates.certificate import check_noise
    from robust_cli.composing.build import build
    from robust_cli.smoothing.noises import make_noise

    noise = make_noise(config.noise.name, float(config.noise_std))
    certificates = {name: build(node, f"certificate.{name}") for name, node in config.certificate.items()}
    check_noise(certificates, noise.name)
    plan = build(config.sampling, "sampling", samples=config.samples, selection_samples=config.selection_samples)
    norms = sorted({made.norm for made in certificates.values()})
    if "linf" in norms and len(norms) > 1 and hasattr(plan, "radii"):
        raise UserError(f"certificate: expected certificates of one norm, in which the table of sampling=sequential is, got "
                        f"{' and '.join(norms)}; certify once for each, or with sampling=anytime or fixed")
    name = str(config.sampling._target_).rpartition(".")[2].lower()
    return Procedure(certificates, plan, name, noise, config.failure_probability)


def keep_plan(folder: RunFolder, course: Course) -> None:
    """Write plan.json before the first draw; in a run that goes on, see that it is still the same."""
    said = _through_json(course.describe())
    if not folder.plan.exists():
        write_json(folder.plan, said)
    elif (before := folder.read_plan()) != said:
        different = [key for key in before if before.get(key) != said.get(key)]
        raise UserError(f"{folder.plan}: expected the sampling plan that this run began with, which differs now in "
                        f"{', '.join(different) or 'its keys'} (another version of robust?); certify into a new folder")


def _through_json(said: Mapping[str, Any]) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(json.dumps(said))
    return found


def write_results(folder: RunFolder, config: DictConfig, made: Procedure, course: Course, collection: Collection,
                  about: Mapping[str, Any], seconds_a_draw: float | None) -> None:
    """certificates.csv, a TSV per certificate, and about.json. Radii in full."""
    import pandas as pd

    from robust_cli.reporting.reading.published_tsv import write_sidecar, write_tsv

    votes, draws = scoring.complete(folder, made, course, collection), collection.draws
    assert votes.stopped is not None
    skipped = [reason == "skipped" for reason in votes.stopped]
    found = {name: course.bounds(name, votes) for name in made.certificates}
    shared = {"index": collection.indices, "label": collection.labels}
    answers = {"majority": _none(majority(votes.estimation), skipped),
               "prediction": _none(predictions(made, course, votes), skipped)}
    parts = [pd.DataFrame({
        "certificate": name, "norm": certificate.norm, "bounds": certificate.bounds, **shared, "predicted": found[name].predicted,
        **scoring.answers(certificate, found[name], votes, answers),
        "p1_lower": found[name].p1_lower, "p2_upper": found[name].p2_upper,
        "radius": course.radius(name, found[name]), "draws": draws, "stopped": votes.stopped,
    }) for name, certificate in made.certificates.items()]
    pd.concat(parts).to_csv(folder.certificates, index=False)
    for name, part in zip(made.certificates, parts, strict=True):
        write_tsv(part, folder.tsv(name), None if seconds_a_draw is None else part["draws"] * seconds_a_draw)
    written = {
        **about, "noise": made.noise.name, "noise_std": made.noise.noise_std, "samples": config.samples,
        "selection_samples": course.selection, "failure_probability": config.failure_probability, "discount": config.discount,
        "sampling": {"name": made.name, **_settings(config.sampling)}, "comparable": course.comparable,
        "label_aware": bool(getattr(made.plan, "label_aware", False)), "evaluations": int(draws.sum()),
        "certificates": {name: {
            "kind": type(c).__name__, "norm": c.norm, "bounds": c.bounds, "interval": c.interval, "multiplicity": c.multiplicity,
            "statement": found[name].statement, "largest_radius": course.largest_radius(name), **scoring.said(c),
        } for name, c in made.certificates.items()}}
    folder.write_about(written)
    plan = _through_json(course.describe())
    for name in made.certificates:
        write_sidecar(folder.tsv(name), written, name, plan)


def _settings(node: DictConfig) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "_target_"}


def predictions(made: Procedure, course: Course, votes: Votes) -> NDArray[np.int64]:
    """Algorithm 1's class of each image (-1: abstains) from votes whose number was fixed beforehand: the estimation votes of a
    plan that never stops early, else the selection votes."""
    import numpy as np

    from robust_cli.smoothing.plans.prediction import predicted_class

    if not course.stops_early:
        return predicted_class(votes.estimation, course.failure_probability, made.plan.samples)
    if votes.selection is None:
        return np.full(len(votes.estimation), -1)
    return predicted_class(votes.selection, course.failure_probability, course.selection)


def majority(votes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class with the most votes, int64 [N]; -1 on a tie at the top, which is no class's answer (nor is it in an attack)."""
    import numpy as np

    second, first = np.sort(votes, axis=1)[:, -2:].T
    return np.where(first > second, votes.argmax(1), -1)


def _none(answers: NDArray[np.int64], skipped: list[bool]) -> NDArray[np.int64]:
    """No answer for images that were skipped because of their label."""
    import numpy as np

    return np.where(skipped, -1, answers)
