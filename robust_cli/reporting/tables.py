"""Tables: numbers in full for a CSV, and the same numbers formatted for people, in Markdown, HTML and on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path

import pandas as pd

from robust_cli.reporting.estimates import Estimate

EMPTY = "–"  # noqa: RUF001


@dataclass(frozen=True)
class Table:
    """data goes to the CSV (floats in full); columns and rows are the same in words, first column left-aligned text."""

    name: str
    title: str
    data: pd.DataFrame
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def percent(e: Estimate) -> str:
    """'88.0 ± 1.5' in percent, one decimal each."""
    return EMPTY if math.isnan(e.value) else f"{100 * e.value:.1f} ± {100 * e.error:.1f}"


def difference(value: float, error: float) -> str:
    """'+3.1 ± 0.8' in percentage points."""
    return EMPTY if math.isnan(value) else f"{100 * value:+.1f} ± {100 * error:.1f}"


_FIGURES = 3  # significant ones of a small radius
_TINY = 1e-7  # below it a radius stands for "more than 0"


def decimals_of(value: float, decimals: int = 3) -> int:
    """How many decimals show three significant digits of a small radius; at least ``decimals``."""
    if not _TINY < value < math.inf:
        return decimals
    return max(decimals, _FIGURES - 1 - Decimal(repr(float(value))).adjusted())


def radius(value: float, decimals: int = 3) -> str:
    """A radius with at least three significant digits, never rounded up."""
    if math.isnan(value):
        return EMPTY
    if math.isinf(value):
        return "unbounded"
    # repr, not the exact binary value: 0.3 is the float next to 0.3, not 0.29999...
    return str(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-decimals_of(value, decimals)), rounding=ROUND_FLOOR))


def average_radius(e: Estimate) -> str:
    """'0.812 ± 0.013': the mean rounded down, its error up."""
    if not math.isfinite(e.value):
        return radius(e.value)
    places = decimals_of(e.value)
    return f"{radius(e.value)} ± {math.ceil(round(10.0 ** places * e.error, 6)) / 10.0 ** places:.{places}f}"


def number(value: float, decimals: int = 3) -> str:
    """A plain number, or a dash for none."""
    return EMPTY if math.isnan(value) else f"{value:.{decimals}f}"


def write_csv(table: Table, path: Path) -> None:
    """Write a table's numbers; floats as their shortest text that reads back to the same float."""
    table.data.to_csv(path, index=False)


def markdown(table: Table) -> str:
    """A table with its title and notes."""
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    head = [f"### {table.title}", "", line(table.columns), line(["---"] + ["---:"] * (len(table.columns) - 1))]
    notes = [text for note in table.notes for text in ("", note)]
    return "\n".join([*head, *map(line, table.rows), *notes, ""])
