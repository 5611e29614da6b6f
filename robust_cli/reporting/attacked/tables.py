"""Tables of robust accuracy and costs of attacks, and of the cross-check."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from robust_cli.reporting.attacked import accuracy as attacked
from robust_cli.reporting.certified.tables import SPREAD
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.lines.of_runs import attacked_lines
from robust_cli.reporting.reading.load import Attacked
from robust_cli.reporting.tables import EMPTY, Table, number, percent

_ATTACKS = (
    "Successes: images that are right when clean and fooled at this budget; distances are theirs, in the attack's norm (l2 for "
    "l1 and std), pixel units. Forward and backward passes are means per image. Robust accuracy counts an image that is wrong "
    "when clean as fooled. "
    "The worst case counts an image as robust only if every attack failed on it.")
_DERIVED = (
    "NAME@FINGERPRINT: images that this attack made on another model, put before this one; NAME@8bit: the attack's own images "
    "rounded to 8 bits and decided again. Neither enters the worst case.")



def brief(run: Attacked) -> Table:
    """One run's attacks by budget in a small table, as `attack` shows it at its end."""
    return accuracy_table(attacked_lines([run], []))


def accuracy_table(lines: Sequence[Line[Attacked]], name: str = "robust_accuracy", most: int = 10) -> Table:
    """Robust accuracy, a row a line, the budgets of each norm as columns (at most ``most`` a norm, evenly chosen)."""
    curves = [attacked.curve(line.tables) for line in lines]
    keys = _columns(lines, curves, most)
    rows, data = [], []
    for line, curve in zip(lines, curves, strict=True):
        found = {(line.norm, b): percent(attacked.accuracy(line.tables, b)) for b in curve["budget"] if b > 0}
        clean = attacked.accuracy(line.tables, 0.0)
        rows.append([line.title, str(clean.images), percent(clean), *(found.get(key, EMPTY) for key in keys)])
        data.append(curve.assign(line=line.title, norm=line.norm))
    targets = dict.fromkeys(attacked.target(line.about) for line in lines)
    return Table(name, "Robust accuracy in % by budget", pd.concat(data, ignore_index=True),
                 ["", "images", "clean %", *(f"{norm} {budget:g}" for norm, budget in keys)], rows,
                 [f"Attacked: {'; '.join(targets)}.", *([] if all(line.is_own for line in lines) else [_DERIVED]), SPREAD])


def _columns(lines: Sequence[Line[Attacked]], curves: Sequence[pd.DataFrame], most: int) -> list[tuple[str, float]]:
    keys = []
    for norm in dict.fromkeys(line.norm for line in lines):
        of_norm = [c for line, c in zip(lines, curves, strict=True) if line.norm == norm]
        budgets = sorted({float(b) for c in of_norm for b in c["budget"] if b > 0})
        step = -(-len(budgets) // most)
        keys += [(norm, b) for b in budgets[::-1][::max(step, 1)][::-1]]
    return keys


def attack_tables(lines: Sequence[Line[Attacked]]) -> list[Table]:
    """For each kind of target its attacks at every budget: robust accuracy, distances of successful examples, cost per image."""
    groups: dict[str, list[Line[Attacked]]] = {}
    for line in lines:
        groups.setdefault(attacked.target(line.about), []).append(line)
    return [attack_table(group, "attacks" if k == 0 else f"attacks_{k + 1}") for k, group in enumerate(groups.values())]


def attack_table(lines: Sequence[Line[Attacked]], name: str = "attacks") -> Table:
    """The attacks on one kind of target."""
    target, rows, data = attacked.target(lines[0].about), [], []
    for line in lines:
        for c in attacked.cells(line.tables, line.norm):
            a = c.accuracy
            rows.append([line.title, line.norm, f"{c.budget:g}", str(a.images), percent(a), str(c.successes),
                         number(c.mean_distance), number(c.median_distance), number(c.forward, 0), number(c.backward, 0)])
            data.append({"line": line.title, "target": target, "norm": line.norm, "budget": c.budget, "accuracy": a.value,
                         "error": a.error, "images": a.images, "runs": a.runs, "successes": c.successes,
                         "mean_distance": c.mean_distance, "median_distance": c.median_distance, "forward": c.forward,
                         "backward": c.backward})
    columns = ["", "norm", "budget", "images", "robust %", "successes", "mean distance", "median distance", "forward", "backward"]
    return Table(name, f"Attacks on {target}", pd.DataFrame(data), columns, rows, [_ATTACKS, SPREAD])
