"""What AMR prints beside ours: robustness to Gaussian noise (GNR) and accuracy of plain and of moment training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from robust_cli.reporting.certified.tables import SPREAD
from robust_cli.reporting.published.printed import OURS, published
from robust_cli.reporting.tables import EMPTY, Table, percent
from robust_cli.reporting.trained.noise_training import BASELINE, Entry, Group

AMR = "AMR (ICLR 2020 submission), Table 4"
_REGIMES = (BASELINE, "moment")  # its rows: noise 0 is plain training, the others the moment regulariser
_NOTE = ("AMR's accuracies are of about 400 test images (all are multiples of a quarter percent), its noises of the training are "
         "those that it states, its weight in each row is not stated; it trains on 90 % of the whole training set for up to 100 "
         "epochs. Ours are of the images and trainings that each row names: numbers of other size and budget, to be compared "
         "within a column of one source.")


def beside_ours(groups: Sequence[Group]) -> Table | None:
    """AMR's rows of the data sets and models on which we measured plain or moment training, and ours; None for none."""
    rows: list[list[str]] = []
    data: list[dict[str, Any]] = []
    for group in groups:
        printed = published("amr_table4")
        printed = printed[(printed["dataset"] == group.dataset) & (printed["model"] == group.model)]
        ours = [entry for entry in group.entries if entry.regime in _REGIMES]
        if printed.empty or not ours:
            continue
        of = {"dataset": group.dataset, "model": group.model}
        for row in printed.to_dict("records"):
            noise = float(row["training_noise_std"])
            title = BASELINE if noise == 0 else "moment"
            rows.append([title, AMR, group.dataset, group.model, f"{noise:g}", f"{row['gnr']:.2f}", f"{row['accuracy']:.2f}",
                         "about 400 test images"])
            data.append({**of, "method": title, "source": AMR, "training_noise_std": noise, "gnr": row["gnr"],
                         "accuracy": row["accuracy"]})
        for entry in ours:
            rows.append([entry.title, OURS, group.dataset, group.model, f"{entry.noise_std or 0.0:g}", percent(entry.gnr),
                         percent(entry.test), _size(entry)])
            data.append({**of, "method": entry.title, "source": OURS, "training_noise_std": entry.noise_std or 0.0,
                         "gnr": 100 * entry.gnr.value, "gnr_error": 100 * entry.gnr.error, "gnr_images": entry.gnr.images,
                         "accuracy": 100 * entry.test.value, "accuracy_error": 100 * entry.test.error,
                         "accuracy_images": entry.test.images})
    if not rows:
        return None
    return Table("published_amr", "AMR's numbers beside ours: robustness to noise", pd.DataFrame(data),
                 ["", "source", "data set", "model", "training noise", "GNR %", "accuracy %", "remark"], rows, [_NOTE, SPREAD])


def _size(entry: Entry) -> str:
    images, epochs = entry.mean("images"), entry.mean("epochs")
    trained = f"; trained on {images:.0f} images" if images == images else ""
    return (f"GNR of {entry.gnr.images}, accuracy of {entry.test.images or EMPTY} test images{trained}"
            + (f", {epochs:.0f} epochs" if epochs == epochs else ""))
