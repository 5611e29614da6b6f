"""`robust certify`: from a trained run to certified radii of its test images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from robust_cli.commands.following import after_evaluation
from robust_cli.composing.task import command
from robust_cli.runs.console import duration, say, track
from robust_cli.runs.folder import RunFolder

if TYPE_CHECKING:
    import numpy as np

    from robust_cli.composing.subject import Subject
    from robust_cli.smoothing.sampling import Bounds, FixedSampling, Votes
    from robust_cli.smoothing.tally import Tally
    from robust_cli.smoothing.votes import Block, NoisyVotes


@command("certify")
def main(config: DictConfig, folder: RunFolder) -> None:
    """Count noisy votes and certify them: writes votes.csv, certificates.csv and the curve."""
    from robust_cli.composing import subject as subjects
    from robust_cli.composing.build import build
    from robust_cli.smoothing.sampling import FixedSampling, Votes
    from robust_cli.smoothing.tally import Tally
    from robust_cli.smoothing.votes import NoisyVotes

    certificates = {name: build(node, f"certificate.{name}") for name, node in config.certificate.items()}
    plan = FixedSampling(config.samples, config.selection_samples)
    for name, certificate in certificates.items():
        plan.check(certificate.bounds, f"certificate.{name}.bounds")
    subject = subjects.load_subject(config, "certify")
    noise_std = float(config.noise_std)

    subjects.introduce("certify", subject, config)
    say(f"  noise_std {noise_std:g}, {config.samples} draws an image after {config.selection_samples} to select its class, "
        f"failure probability {config.failure_probability:g}; certificates: {', '.join(certificates)}")
    subjects.record(folder, config, subject.device, subject.images, subject.about["model_fingerprint"])
    counter = NoisyVotes(subject.model, subject.classes, noise_std, config.seed, subject.device, subject.about["precision"],
                         config.workers)
    tally = Tally(folder.votes, subject.classes)
    collect(counter, tally, subject, plan)

    indices = subject.images.indices.tolist()
    votes = Votes(tally.counts(indices, "estimation"),
                  tally.counts(indices, "selection") if plan.selection_samples else None)
    bounds = {name: plan.bounds(votes, config.failure_probability, c.bounds, c.interval, c.multiplicity)
              for name, c in certificates.items()}
    write_certificates(folder, subject, votes, certificates, bounds, noise_std)
    folder.write_about({
        **subject.about, "noise_std": noise_std, "samples": config.samples, "selection_samples": config.selection_samples,
        "failure_probability": config.failure_probability, "discount": config.discount,
        "certificates": {name: {
            "bounds": c.bounds, "interval": c.interval, "multiplicity": c.multiplicity, "statement": bounds[name].statement,
            "largest_radius": plan.largest_radius(c, config.failure_probability, noise_std, subject.classes),
        } for name, c in certificates.items()}})
    conclude(folder, config)


def wanted(plan: FixedSampling, index: int) -> list[Block]:
    """All blocks of an image that the plan asks for."""
    from robust_cli.smoothing.votes import blocks

    return blocks(index, "selection", plan.selection_samples) + blocks(index, "estimation", plan.samples)


def collect(counter: NoisyVotes, tally: Tally, subject: Subject, plan: FixedSampling) -> None:
    """Count what is missing, block by block; what was counted is kept whatever happens."""
    pixels = subject.images.float
    missing = [(p, block) for p, i in enumerate(subject.images.indices.tolist()) for block in tally.missing(wanted(plan, i))]
    if not missing:
        return
    draws = sum(block.draws for _, block in missing)
    rate = counter.draws_per_second(pixels(slice(0, 1))[0])
    say(f"  {draws:,} draws to count at about {rate:,.0f}/s: {duration(draws / rate)}")
    work = ((pixels(slice(p, p + 1))[0], block) for p, block in missing)
    with track(draws, "votes", "draws") as progress:
        for block, counts in counter.run(work):
            tally.add([(block, counts)])
            progress.advance(block.draws)


def write_certificates(folder: RunFolder, subject: Subject, votes: Votes, certificates: dict[str, Any], bounds: dict[str, Bounds],
                       noise_std: float) -> None:
    """certificates.csv: a row per certificate and image; radii in full."""
    import pandas as pd

    indices, labels = subject.images.indices.tolist(), subject.images.labels.tolist()
    parts = []
    for name, certificate in certificates.items():
        found = bounds[name]
        parts.append(pd.DataFrame({
            "certificate": name, "bounds": certificate.bounds, "index": indices, "label": labels, "predicted": found.predicted,
            "majority": majority(votes.estimation), "p1_lower": found.p1_lower, "p2_upper": found.p2_upper,
            "radius": radii(certificate, found, noise_std)}))
    pd.concat(parts).to_csv(folder.certificates, index=False)


def majority(votes: np.ndarray) -> np.ndarray:
    """The class with the most votes, int64 [N]; -1 on a tie at the top, which is no class's answer (nor is it in an attack)."""
    import numpy as np

    second, first = np.sort(votes, axis=1)[:, -2:].T
    return np.where(first > second, votes.argmax(1), -1)


def radii(certificate: Any, bounds: Bounds, noise_std: float) -> np.ndarray:
    """Certified radii, float64 [N], 0 where the plan abstains.

    The noise is scaled in float32: where that is less than ``noise_std``, the radius is that of the noise drawn.
    """
    import numpy as np

    drawn = min(noise_std, float(np.float32(noise_std)))
    certain = bounds.predicted >= 0
    found = np.zeros(len(certain))
    found[certain] = certificate(bounds.p1_lower[certain], bounds.p2_upper[certain], drawn)
    return found


def conclude(folder: RunFolder, config: DictConfig) -> None:
    """The curve, the small table and what to do next."""
    from robust_cli.reporting import results

    results.certified(folder)
    say(f"run: {folder}")
    say(f"next: {after_evaluation(folder, config)}")
