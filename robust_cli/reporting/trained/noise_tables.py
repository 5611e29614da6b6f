"""Tables of trainings with noise: each with its accuracy and its robustness to noise, and the fair comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from robust_cli.reporting.certified.tables import SPREAD
from robust_cli.reporting.tables import EMPTY, Table, percent
from robust_cli.reporting.trained.fair import choices, tolerances, within
from robust_cli.reporting.trained.noise_training import Entry, Group

_NOTE = ("GNR: area under the share of images whose answer stays that of the clean image under noise of growing length; test "
         "accuracy without noise. Equal epochs are not equal cost: see steps and seconds. As accurate: at least the baseline "
         "(regime=standard) less the tolerance.")
_FAIR = ("Best GNR of each method among its models whose test accuracy is at least that of the baseline (regime=standard) less "
         "the tolerance (AMR, Figure 3). One standard error: of the difference of the two test accuracies, as if independent. "
         "The best of several measured on the same images is a little too good.")


def noise_table(groups: Sequence[Group]) -> Table | None:
    """`noise_training`: a row a training; none without any."""
    rows, data = [], []
    for group in groups:
        baseline, tuned = group.baseline, group.tuned()
        for entry in group.entries:
            inside = {t.name: within(entry, baseline, t) for t in tolerances(group)} if baseline else {}
            numbers = {name: entry.mean(name) for name in ("images", "epochs", "step", "seconds")}
            rows.append([entry.title, group.dataset, group.model, *(_whole(v) for v in numbers.values()), percent(entry.test),
                         percent(entry.gnr), "; ".join(name for name, held in inside.items() if held) or EMPTY])
            data.append({"dataset": group.dataset, "model": group.model, "method": entry.method, "regime": entry.regime,
                         "training_noise_std": entry.noise_std, "weight": entry.weight, "training_images": numbers["images"],
                         "epochs": numbers["epochs"], "steps": numbers["step"], "seconds": numbers["seconds"],
                         **_estimates(entry), "largest_noise": group.largest,
                         "picked": any(entry is one for one in tuned),
                         **{f"within {name}": held for name, held in inside.items()}})
    if not rows:
        return None
    return Table("noise_training", "Training with noise: accuracy and robustness to noise", pd.DataFrame(data),
                 ["", "data set", "model", "images", "epochs", "steps", "seconds", "test %", "GNR %", "as accurate within"], rows,
                 [_NOTE, *map(sizes, groups), SPREAD])


def _estimates(entry: Entry) -> dict[str, float]:
    return {"test_accuracy": 100 * entry.test.value, "test_error": 100 * entry.test.error, "test_images": entry.test.images,
            "gnr": 100 * entry.gnr.value, "gnr_error": 100 * entry.gnr.error, "gnr_images": entry.gnr.images,
            "runs": entry.gnr.runs}


def _whole(value: float) -> str:
    return EMPTY if math.isnan(value) else f"{value:.0f}"


def fair_table(groups: Sequence[Group]) -> Table | None:
    """`noise_training_best`: a row a method and tolerance; none without a baseline."""
    rows, data = [], []
    for group in groups:
        for choice in choices(group):
            best, left = choice.best, "; ".join(entry.title for entry in choice.excluded)
            rows.append([choice.method, group.dataset, group.model, choice.tolerance.name, best.title if best else "none",
                         percent(best.test) if best else EMPTY, percent(best.gnr) if best else EMPTY, left or EMPTY])
            data.append({"dataset": group.dataset, "model": group.model, "method": choice.method,
                         "tolerance": choice.tolerance.name, "best": best.title if best else None,
                         **(_estimates(best) if best else {}), "excluded": left})
    if not rows:
        return None
    return Table("noise_training_best", "The most robust among models as accurate as plain training", pd.DataFrame(data),
                 ["", "data set", "model", "tolerance", "best", "test %", "GNR %", "excluded"], rows, [_FAIR, SPREAD])


def sizes(group: Group) -> str:
    """What the numbers of a group are over."""
    def several(found: set[int]) -> str:
        return " or ".join(map(str, sorted(found)))

    measured = {entry.gnr.images for entry in group.entries}
    subsets = {str(pair.attacked.about.get("subset")) for entry in group.entries for pair in entry.pairs}
    mixed = "; not all over the same images" if len(subsets) > 1 or len(measured) > 1 else ""
    return (f"{group.dataset}, {group.model}: GNR up to noise {group.largest:g} over {several(measured)} images{mixed}; test "
            f"accuracy over {several({entry.test.images for entry in group.entries})}.")
