"""SGR's transfer tables beside ours: accuracy of one model on PGD's images made on another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from robust_cli.reporting.attacked.transfer import transfer_tables
from robust_cli.reporting.certified.tables import SPREAD
from robust_cli.reporting.estimates import Estimate
from robust_cli.reporting.published.printed import published
from robust_cli.reporting.published.sgr import NEAR, name, target
from robust_cli.reporting.reading.load import Attacked
from robust_cli.reporting.tables import EMPTY, Table, percent

_NOTE = ("Ours ± one standard error, and in brackets what SGR (Roth et al. 2018), appendix, prints for trainings of these kinds "
         "at this budget: of the full test set, its own network and trainings; the budgets of its tables are inferred, MNIST's "
         "64 / 255 a guess. Rows answer; columns made the images. Ours are over the same {images} images.")


def transfer_beside_ours(runs: Sequence[Attacked]) -> list[Table]:
    """For each data set and budget of SGR at which PGD's images were transferred between trainings of its kinds, one matrix."""
    kinds = {str(run.about["model_fingerprint"]): name(run.about, run.training) for run in runs}
    attacks = {(attack, target(run.about, attack)) for run in runs for attack in run.own}
    by_pgd = {attack for attack, of in attacks if of == "Pgd"}
    cells = [{str(k): v for k, v in row.items()} for table in transfer_tables(runs) for row in table.data.to_dict("records")
             if row["norm"] == "linf" and row["attack"] in by_pgd]
    found = []
    for (dataset, budget), printed in published("sgr_transfer").groupby(["dataset", "budget_linf_255"], sort=False):
        theirs = {(row["evaluated"], row["perturbed_on"]): row["accuracy"] for row in printed.to_dict("records")}
        data: list[dict[str, Any]] = [
            {**row, "evaluated": pair[0], "perturbed_on": pair[1], "budget_255": budget, "sgr_accuracy": theirs[pair]}
            for row in cells if row["dataset"] == dataset and abs(255 * row["budget"] / int(str(budget)) - 1) < NEAR
            and (pair := (kinds.get(row["fingerprint"]), kinds.get(row["made_on_fingerprint"]))) in theirs]
        if any(row["evaluated"] != row["perturbed_on"] for row in data):
            found.append(_matrix(data, str(dataset), int(str(budget))))
    return found


def _matrix(data: Sequence[dict[str, Any]], dataset: str, budget: int) -> Table:
    answers, made = (list(dict.fromkeys(str(row[side]) for row in data)) for side in ("answers", "made_on"))
    cells = {(row["answers"], row["made_on"]): f"{percent(Estimate(row['accuracy'], row['error'], 1))} ({row['sgr_accuracy']:g})"
             for row in data}
    images = sorted({int(row["images"]) for row in data})
    many = " or ".join(map(str, images))
    rows = [[answer, *(cells.get((answer, column), EMPTY) for column in made)] for answer in answers]
    return Table(f"published_transfer_{dataset}_{budget}", f"Transfer of PGD at {budget} / 255 on {dataset}, SGR's beside ours",
                 pd.DataFrame(data).replace({np.nan: None}), ["", *made], rows, [_NOTE.format(images=many), SPREAD])
