"""The rows of scripts/benchmarks/attacks.py as two tables: everything measured, and ours beside the best peer."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

OURS = "ours"
SLACK = 1e-5  # relative, on budgets
POINTS, SHARE = 0.005, 1.02  # by how much accuracy and median distance may differ and still count as the same strength
Row = dict[str, str]


@dataclass(frozen=True)
class Result:
    """What one library reached in one attack on one model, over seeds (and over the budgets of a curve)."""

    success: float
    robust: float  # at the budget; mean over the grid of a curve
    median: float  # distance; infinity for a budget attack, which does not look for it
    seconds: float  # of the processor, for 100 images
    passes: str
    images: int
    seeds: int
    runs: frozenset[tuple[str, ...]]  # (seed, block, images) of each call: libraries compare where they are the same

    def as_strong_as(self, other: Result) -> bool:
        far = not math.isinf(other.median) and self.median > SHARE * other.median
        return self.robust <= other.robust + POINTS and self.success >= other.success - POINTS and not far


def result(rows: list[Row]) -> Result:
    """Of one library's rows: blocks x seeds x budgets."""
    away = [[float(text) for text in row["distances"].split()] for row in rows]
    limits = [float(row["limit"]) * (1 + SLACK) for row in rows]
    within = [[distance <= limit for distance in block] for block, limit in zip(away, limits, strict=True)]
    flat = sorted(itertools.chain(*away))
    seeds, budgets = {row["seed"] for row in rows}, {row["budget"] for row in rows}
    runs = {(row["seed"], row["block"], row["images"]): row for row in rows}  # a curve's rows share the costs of one call
    images = sum(int(row["images"]) for row in runs.values())
    closest = math.isinf(float(rows[0]["budget"]))
    return Result(
        success=sum(map(math.isfinite, flat)) / len(flat),
        robust=1 - sum(map(sum, within)) / len(flat),
        median=flat[(len(flat) - 1) // 2] if closest else math.inf,
        seconds=100 * sum(float(row["cpu_seconds"]) for row in runs.values()) / images,
        passes=f"{sum(int(row['forward']) for row in runs.values()) / images:.0f} + "
               f"{sum(int(row['backward']) for row in runs.values()) / images:.0f}",
        images=len(flat) // len(seeds) // len(budgets), seeds=len(seeds), runs=frozenset(runs))


def grouped(rows: list[Row]) -> dict[tuple[str, str], dict[str, Result]]:
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault((row["model"], row["attack"]), {}).setdefault(row["library"], []).append(row)
    return {key: {library: result(group) for library, group in libraries.items()} for key, libraries in found.items()}


def summary(rows: list[Row]) -> str:
    """Markdown. Times are processor seconds for 100 images, a curve's accuracies the mean over its budgets.

    The second table leaves out peers that did not run on the same images and seeds as ours, and says so below it.
    """
    found = grouped(rows)
    lines = ["", "| model | attack | images | library | seeds | fooled % | standing % | median distance | s / 100 | passes |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for (model, attack), libraries in found.items():
        for library, it in libraries.items():
            median = "" if math.isinf(it.median) else f"{it.median:.4f}"
            lines.append(f"| {model} | {attack} | {it.images} | {library} | {it.seeds} | {100 * it.success:.1f} | "
                         f"{100 * it.robust:.1f} | {median} | {it.seconds:.2f} | {it.passes} |")
    lines += ["", "| model | attack | images | standing %: ours, best peer | median: ours / best peer | "
              "fooled %: ours, best peer | s / 100: ours | fastest peer as strong | times faster | fastest of all |",
              "|---|---|---|---|---|---|---|---|---|---|"]
    lines += [_line(key, libraries) for key, libraries in found.items() if OURS in libraries]
    lines += [f"\nLeft out of the second table, run on other images or seeds than ours: {library} ({model}, {attack})."
              for (model, attack), libraries in found.items() if OURS in libraries
              for library, it in libraries.items() if it.runs != libraries[OURS].runs]
    return "\n".join(lines)


def _line(key: tuple[str, str], libraries: dict[str, Result]) -> str:
    us = libraries[OURS]
    peers = {library: it for library, it in libraries.items() if library != OURS and it.runs == us.runs}
    if not peers:
        return (f"| {' | '.join(key)} | {us.images} | {100 * us.robust:.1f}, no peer | {us.median:.4f} | "
                f"{100 * us.success:.1f} | {us.seconds:.2f} | | | |")
    low = min(peers, key=lambda name: peers[name].robust)
    near = min(peers, key=lambda name: peers[name].median)
    most = max(peers, key=lambda name: peers[name].success)
    median = "" if math.isinf(us.median) and math.isinf(peers[near].median) else f"{us.median / peers[near].median:.3f} ({near})"
    strong = {name: it.seconds for name, it in peers.items() if it.as_strong_as(us)}
    quickest = min(peers, key=lambda name: peers[name].seconds)
    fast = min(strong, key=lambda name: strong[name]) if strong else ""
    times = f"{strong[fast] / us.seconds:.2f}{'' if us.as_strong_as(peers[fast]) else ', ours weaker'}" if fast else ""
    return (f"| {' | '.join(key)} | {us.images} | {100 * us.robust:.1f}, {100 * peers[low].robust:.1f} ({low}) | {median} | "
            f"{100 * us.success:.1f}, {100 * peers[most].success:.1f} ({most}) | {us.seconds:.2f} | "
            f"{f'{strong[fast]:.2f} ({fast})' if fast else 'none'} | {times} | "
            f"{peers[quickest].seconds:.2f} ({quickest}) |")
