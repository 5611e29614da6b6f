"""How many draws the sequential plan saves over a fixed number, and what it loses, simulated on vote shares of published models.

    python scripts/benchmarks/sampling_plans.py LAWS_FOLDER [--output CSV] [--seeds N] [--images all|even|odd] [--patience DRAWS]
        [--selection DRAWS]

LAWS_FOLDER holds one file for each model, <data set>_<training>_<noise_std>.csv with columns index,outcome,votes: what a
published certification with 100 + 100,000 draws at failure probability 0.001 found for each image, outcome correct, wrong or
abstain and the votes of its class out of 100,000 (empty for abstain).

What is assumed, because the files do not say. An image's p_A is votes / 100,000; where all votes agree, 1 - p_A is
Gamma(0.3) / 100,000; where it abstained, p_A is uniform in (0.25, 0.505), and the class is right in half of the cases. All other
votes go to one other class, which makes a wrong selection as likely as it can be (with p_A below 1/2 nothing can be certified
and the selection does not matter). If the selection takes that class where the first one is wrong, it is right in half of the
cases.

The fixed plan (Clopper-Pearson after 100,000 draws) and the sequential one read the same votes: its looks are at the first
draws of the fixed plan's, and of the two plans' selection votes the fewer are the first of the more. Draws are counted with
selection and in whole chunks of 64 for the sequential plan, as 100,100 for the fixed one. A table's loss is the largest over
its radii of the certified accuracy lost, in points, averaged over the seeds. ``floor`` is Wald's: the fewest draws that a test
with this failure probability needs on average for the largest radius that the fixed plan proves, were p_A known beforehand;
such a test never has to give up and misses none, so a plan that may lose a little can be below it.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import xlogy

from robust_cli.certificates import confidence
from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.smoothing.plans.plan import CHUNK, boundaries
from robust_cli.smoothing.plans.sequential import Sequential, SequentialCourse
from robust_cli.smoothing.plans.table import walk

SAMPLES, FIXED_SELECTION, ALPHA = 100_000, 100, 0.001
SATURATED, ABSTAINED = 0.3, (0.25, 0.505)
LIMIT = 0.5  # points


@dataclass(frozen=True)
class Law:
    """A model's outcomes and votes per image, nan where it abstained."""

    name: str
    noise_std: float
    outcomes: np.ndarray
    votes: np.ndarray

    @property
    def goal(self) -> bool:
        """Whether it counts in the geometric means; the others are there to see what was not tuned on."""
        return self.name.startswith("cifar10")


@dataclass(frozen=True)
class Drawn:
    """Votes drawn for a law: hits of the selected class at each look; its true probability; whether it is the label; what the
    fixed plan proves of its own class, 0 where that is not the label."""

    hits: np.ndarray
    probability: np.ndarray
    right: np.ndarray
    fixed: np.ndarray


@dataclass(frozen=True)
class Result:
    """One line of the outcome."""

    law: str
    noise_std: float
    table: str
    label_aware: bool
    draws: float
    factor: float
    loss: float
    at_radius: float
    false_certificates: int
    floor: float
    level_losses: str


def read(folder: Path) -> list[Law]:
    """All laws in a folder, by name."""
    found = []
    for path in sorted(folder.glob("*_*_*.csv")):
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        name, std = path.stem.rsplit("_", 1)
        found.append(Law(name, float(std), np.array([row["outcome"] for row in rows]),
                         np.array([float(row["votes"] or "nan") for row in rows])))
    if not found:
        sys.exit(f"{folder}: expected files <data set>_<training>_<noise_std>.csv, found none")
    return found


def part(law: Law, images: str) -> Law:
    """All images, or every other one."""
    rows = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}[images]
    return replace(law, outcomes=law.outcomes[rows], votes=law.votes[rows])


def draw(law: Law, seed: int, selection: int) -> Drawn:
    """One run of all draws of all images."""
    rng = np.random.default_rng([seed, int(1000 * law.noise_std), *law.name.encode()])
    number, abstained = len(law.votes), law.outcomes == "abstain"
    p = np.where(law.votes >= SAMPLES, 1.0 - rng.gamma(SATURATED, size=number) / SAMPLES, law.votes / SAMPLES)
    p = np.where(abstained, rng.uniform(*ABSTAINED, number), p)
    label = np.where(abstained, rng.random(number) < 0.5, law.outcomes == "correct")  # whether the first class is the label
    other_label = ~label & (rng.random(number) < 0.5)
    fewer, more = sorted((selection, FIXED_SELECTION))
    some = rng.binomial(fewer, p)
    first = {fewer: some, more: some + rng.binomial(more - fewer, p)}
    lucky = rng.random(number) < 0.5
    chosen, fixed_chosen = (_chosen(first[n], n, lucky) | (p < 0.5) for n in (selection, FIXED_SELECTION))
    looks = np.array(boundaries(SAMPLES))
    hits = np.cumsum(rng.binomial(np.diff(looks, prepend=0), p[:, None]), axis=1)
    fixed_hits = np.where(fixed_chosen, hits[:, -1], SAMPLES - hits[:, -1])
    fixed = confidence.lower(fixed_hits, SAMPLES, ALPHA) * np.where(fixed_chosen, label, other_label)
    return Drawn(np.where(chosen[:, None], hits, looks - hits), np.where(chosen, p, 1.0 - p),
                 np.where(chosen, label, other_label), fixed)


def _chosen(votes: np.ndarray, of: int, lucky: np.ndarray) -> np.ndarray:
    return (2 * votes > of) | ((2 * votes == of) & lucky)


def floor(drawn: Drawn, levels: np.ndarray) -> float:
    """Wald's mean number of draws for the largest level that the fixed plan proves."""
    proven = (drawn.fixed[:, None] >= levels).sum(axis=1)
    level, p = np.append(0.5, levels)[proven], drawn.probability
    divergence = xlogy(p, p) - xlogy(p, level) + xlogy(1 - p, 1 - p) - xlogy(1 - p, 1 - level)
    with np.errstate(divide="ignore"):
        needed = np.minimum(SAMPLES, -np.log(ALPHA) / np.maximum(divergence, 0.0))
    return float(np.mean(np.where(proven > 0, needed, 0.0)))


def measure(law: Law, course: SequentialCourse, name: str, runs: Sequence[Drawn]) -> Iterator[Result]:
    """The plan against the fixed one, without and with label-aware skipping: the same walks, of which some are not begun."""
    levels = np.array(course.table.levels)
    ends = [walk(course.table, drawn.hits) for drawn in runs]
    ours = [[np.mean(run.right & (end.level > j)) for j in range(len(levels))] for run, end in zip(runs, ends, strict=True)]
    theirs = [(run.fixed[:, None] >= levels).mean(axis=0) for run in runs]
    loss = 100.0 * np.mean(np.array(theirs) - np.array(ours), axis=0)
    worst = int(np.argmax(loss))
    for aware in (False, True):
        begun = [run.right if aware else np.full(len(run.right), True) for run in runs]
        evaluations = [np.where(b, end.evaluations, 0).mean() for b, end in zip(begun, ends, strict=True)]
        draws = -(-course.selection // CHUNK) * CHUNK + float(np.mean(evaluations))
        wrong = sum(int((b & (run.probability <= np.append(-1.0, levels)[e.level])).sum())
                    for b, run, e in zip(begun, runs, ends, strict=True))
        yield Result(law.name, law.noise_std, name, aware, draws, (SAMPLES + FIXED_SELECTION) / draws, float(loss[worst]),
                     course.radii[worst], wrong, float(np.mean([floor(run, levels) for run in runs])),
                     " ".join(f"{value:.2f}" for value in loss))


def results(laws: Iterable[Law], seeds: int, like: Sequential) -> Iterator[Result]:
    """Of the table to 3 noise_std and of each preset radius, for each law."""
    for law in laws:
        runs = [draw(law, seed, like.selection) for seed in range(seeds)]
        tables = {"to 3 noise_std": None, "0": [0.0], "1 noise_std": [law.noise_std], "2 noise_std": [2 * law.noise_std]}
        for name, radii in tables.items():
            course = replace(like, radii=radii).course({"np": NeymanPearson()}, law.noise_std, ALPHA, 10)
            yield from measure(law, course, name, runs)


def means(lines: Sequence[Result]) -> Iterator[str]:
    """Geometric means over the CIFAR-10 laws; ten cells: radii of 1 and 2 noise_std among 0.25, 0.5 and 1."""
    cells = {"table to 3 noise_std": [r for r in lines if r.table == "to 3 noise_std"],
             "one preset radius, 0, 1 or 2 noise_std": [r for r in lines if r.table != "to 3 noise_std"],
             "one preset radius, 0.25, 0.5 or 1 (ten cells)":
                 [r for r in lines if r.table in ("1 noise_std", "2 noise_std") and r.at_radius <= 1.0]}
    for name, chosen in cells.items():
        for aware in (False, True):
            some = [r for r in chosen if r.label_aware == aware and r.law.startswith("cifar10")]
            if some:
                factor = np.exp(np.mean([np.log(r.factor) for r in some]))
                yield (f"{name}, {'with' if aware else 'without'} label-aware skipping: {factor:.1f} times fewer draws "
                       f"({len(some)} cells), largest loss {max(r.loss for r in some):.2f} points")


def main() -> None:
    """See the module's first lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("laws", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", choices=("all", "even", "odd"), default="all")
    parser.add_argument("--patience", type=float, default=Sequential.patience)
    parser.add_argument("--selection", type=int)
    options = parser.parse_args()
    lines = []
    plan = Sequential(SAMPLES, options.selection, patience=options.patience)
    for line in results([part(law, options.images) for law in read(options.laws)], options.seeds, plan):
        lines.append(line)
        print(f"{line.law:14} {line.noise_std:<5g} {line.table:15} {'label-aware' if line.label_aware else '':12} "
              f"{line.draws:8.0f} draws x{line.factor:<6.1f} (floor x{SAMPLES / max(line.floor, 1.0):<5.0f}) "
              f"loss {line.loss:5.2f}{'*' if line.loss > LIMIT else ' '} at {line.at_radius:<5g} "
              f"{line.false_certificates} false", flush=True)
    print(*means(lines), sep="\n")
    if options.output:
        with options.output.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(asdict(lines[0])))
            writer.writeheader()
            writer.writerows(asdict(line) for line in lines)


if __name__ == "__main__":
    main()
