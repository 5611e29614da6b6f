"""What bounding the runner-up gains over two classes, on the same votes.

    python scripts/benchmarks/runner_up.py RUN [RUN ...] [--radii 0.25,0.5,1.0] [--failure-probability 0.001]

Each RUN is the folder of a certify run with a fixed number of draws. From its votes.csv the Neyman-Pearson radii are made
twice: two_class (the full failure probability on the lower bound, p2 = 1 - p1) and runner_up (half of it for each of two
bounds). Printed: average certified radius and certified accuracy of both, their paired difference with its standard error over
the images, and which part of the votes that the class did not get went to the runner-up.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.runs.console import table
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import Votes, others

KINDS = ("two_class", "runner_up")
RADII = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # in noise_std


def read(folder: Path) -> tuple[Votes, np.ndarray]:
    """Votes summed over their blocks, and the labels, of the images in the order of their index."""
    rows = pd.read_csv(folder / "votes.csv")
    columns = sorted((c for c in map(str, rows.columns) if c.startswith("votes_")), key=lambda c: int(c.removeprefix("votes_")))
    sums = {purpose: part.groupby("index")[columns].sum() for purpose, part in rows.groupby("purpose")}
    estimation, selection = sums["estimation"], sums["selection"]
    labels = pd.read_csv(folder / "certificates.csv").drop_duplicates("index").set_index("index")["label"]
    if not estimation.index.equals(selection.index) or estimation.to_numpy().sum(axis=1).std() > 0:
        raise SystemExit(f"{folder}: expected one number of draws for all images (sampling=fixed)")
    return Votes(estimation.to_numpy(), selection.to_numpy()), labels.loc[estimation.index].to_numpy()


def proven(votes: Votes, labels: np.ndarray, noise_std: float, failure_probability: float) -> dict[str, np.ndarray]:
    """The radius of each image under both kinds of bounds, 0 where it is wrong or abstains."""
    assert votes.selection is not None
    plan = Fixed(int(votes.estimation[0].sum()), int(votes.selection[0].sum()))
    certificates = {kind: NeymanPearson(bounds=kind) for kind in KINDS}
    course = plan.course(certificates, noise_std, failure_probability, votes.estimation.shape[1])
    found = {kind: course.bounds(kind, votes) for kind in KINDS}
    return {kind: np.where(found[kind].predicted == labels, course.radius(kind, found[kind]), 0.0) for kind in KINDS}


def runner_up_share(votes: Votes, labels: np.ndarray) -> np.ndarray:
    """Of images that are right and not unanimous: the runner-up's part of the votes for other classes."""
    assert votes.selection is not None
    chosen = votes.selection.argmax(axis=1)
    top = np.take_along_axis(votes.estimation, chosen[:, None], axis=1)[:, 0]
    rest = votes.estimation.sum(axis=1) - top
    some = (chosen == labels) & (rest > 0)
    return others(votes.estimation, chosen, -1).max(axis=1)[some] / rest[some]


def paired(values: dict[str, np.ndarray]) -> list[str]:
    """Both means, the difference and its standard error."""
    difference = values["runner_up"].astype(float) - values["two_class"]
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return [f"{values['two_class'].mean():.4f}", f"{values['runner_up'].mean():.4f}", f"{difference.mean():+.4f} ± {error:.4f}"]


def compare(folder: Path, radii: list[float] | None, failure_probability: float | None) -> None:
    """The table of one run."""
    about = json.loads((folder / "about.json").read_text())
    noise_std, alpha = about["noise_std"], failure_probability or about["failure_probability"]
    votes, labels = read(folder)
    found = proven(votes, labels, noise_std, alpha)
    rows = [["average certified radius", *paired(found)],
            ["certified accuracy at 0", *paired({kind: found[kind] > 0 for kind in KINDS})],
            *([f"certified accuracy at {radius:g}", *paired({kind: found[kind] >= radius for kind in KINDS})]
              for radius in radii or [k * noise_std for k in RADII])]
    gain = found["runner_up"].mean() / found["two_class"].mean() - 1 if found["two_class"].any() else np.nan
    shares = runner_up_share(votes, labels)
    title = (f"{folder}: {about['dataset']} {about['model']} {about['regime']}, noise {noise_std:g}, {len(labels)} images, "
             f"{votes.estimation[0].sum()} draws, failure probability {alpha:g}: average radius {gain:+.1%}")
    table(["", "two_class", "runner_up", "difference"], rows, title=title)
    print(f"runner-up's part of the other votes, {len(shares)} right images that are not unanimous: mean {shares.mean():.2f}, "
          f"quartiles {', '.join(f'{q:.2f}' for q in np.quantile(shares, (0.25, 0.5, 0.75)))}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--radii", type=lambda text: [float(r) for r in text.split(",")])
    parser.add_argument("--failure-probability", type=float)
    options = parser.parse_args()
    for folder in options.runs:
        compare(folder, options.radii, options.failure_probability)


if __name__ == "__main__":
    main()
