"""Sampling plans compared on the same votes: what a sequential plan would have drawn and proven in a run of fixed sampling.

    python scripts/benchmarks/replayed_plans.py RUN... [--plain US_A_DRAW]

RUN: complete certify runs with sampling=fixed and certificate neyman_pearson (two_class), whose stored blocks are read again
under `Sequential` with its default table (radii every 0.25 up to 3 noise_std) and settings, without and with label-aware
skipping, and under `Anytime`. Printed and written beside the run as replayed_plans.csv: mean draws an image (selection and
padding included), the factor over the fixed run's, certified accuracy at each radius of the table for both, their paired
difference with its standard error, and, with --plain (microseconds a draw of the plain loop on this machine, from
certification.py speed), the hours of the plain loop at the fixed number of draws for these images.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.runs.folder import RunFolder
from robust_cli.smoothing.collection import Collection
from robust_cli.smoothing.plans.anytime import Anytime
from robust_cli.smoothing.plans.plan import Sampling
from robust_cli.smoothing.plans.sequential import Sequential
from robust_cli.smoothing.tally import Tally


def replayed(run: RunFolder, plan: Sampling, about: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    """Radius (0 where wrong or abstaining) and draws of each image under another plan, from the run's stored votes."""
    course = plan.course({"neyman_pearson": NeymanPearson()}, about["noise_std"], about["failure_probability"], about["classes"])
    collection = Collection(course, table["index"].tolist(), table["label"].tolist(), about["classes"])
    for index, purpose, block, counts in Tally(run.votes, about["classes"]).rows():
        wanted = collection.wanted(index)
        if wanted is not None and (wanted.purpose, wanted.block) == (purpose, block):
            collection.take(index, purpose, block, counts)
    votes = collection.votes()
    bounds = course.bounds("neyman_pearson", votes)
    right = bounds.predicted == table["label"].to_numpy()
    return pd.DataFrame({"radius": np.where(right, course.radius("neyman_pearson", bounds), 0.0), "draws": collection.draws})


def compared(folder: Path, plain: float | None) -> pd.DataFrame:
    run = RunFolder(folder)
    about = run.read_about()
    assert about["sampling"]["name"] == "fixed", f"{folder}: expected a run of fixed sampling"
    rows = pd.read_csv(run.certificates).query("certificate == 'neyman_pearson' and bounds == 'two_class'")
    samples, selection, step = about["samples"], about["selection_samples"], 0.25
    fixed = np.where(rows["predicted"] == rows["label"], rows["radius"], 0.0)
    radii = step * np.arange(int(3 * about["noise_std"] / step + 1e-9) + 1)
    found = []
    plans = {"sequential": Sequential(samples, selection), "anytime": Anytime(samples, selection),
             "sequential, label-aware": Sequential(samples, selection, label_aware=True)}
    for name, plan in plans.items():
        other = replayed(run, plan, about, rows)
        for radius in radii:
            before = fixed >= radius if radius else fixed > 0
            now = (other["radius"] >= radius if radius else other["radius"] > 0).to_numpy()
            difference = now.astype(float) - before
            found.append({"run": folder.name, "plan": name, "images": len(rows), "radius": radius, "fixed": 100 * before.mean(),
                          "accuracy": 100 * now.mean(), "difference": 100 * difference.mean(),
                          "error": 100 * difference.std() / len(rows) ** 0.5, "draws": other["draws"].mean(),
                          "factor": (samples + selection) / other["draws"].mean()})
    table = pd.DataFrame(found)
    if plain is not None:
        table["plain_hours"] = plain * 1e-6 * (samples + selection) * len(rows) / 3600
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--plain", type=float, help="microseconds a draw of the plain loop")
    asked = parser.parse_args()
    for folder in asked.runs:
        table = compared(folder, asked.plain)
        table.to_csv(folder / "replayed_plans.csv", index=False)
        print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))


if __name__ == "__main__":
    main()
