"""A line of the figures, a row of the tables: one certificate or attack of one run, or of its seeds joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pandas as pd

from robust_cli.reporting.reading.about import claimed, deterministic
from robust_cli.reporting.reading.load import DERIVED, Attacked, Certified

WORST = "worst case"  # the part of a line that is the worst over several attacks
R = TypeVar("R", Certified, Attacked)


@dataclass(frozen=True)
class Line(Generic[R]):
    """One line: a certificate or an attack of one run, or of several runs that differ only in their seeds.

    tables holds the rows of each run; facets what is known of it, in words; family and kind number the model side and the
    certificate or attack, so that a figure can give them colour and stroke.
    """

    title: str
    part: str
    runs: tuple[R, ...]
    tables: tuple[pd.DataFrame, ...]
    facets: dict[str, str]
    hidden: str
    norm: str = "l2"
    family: int = 0
    kind: int = 0

    @property
    def about(self) -> dict[str, Any]:
        return self.runs[0].about

    @property
    def is_worst_case(self) -> bool:
        return self.part == WORST

    @property
    def is_own(self) -> bool:
        """False for images made on another model or rounded to 8 bits, which are no attack on this classifier."""
        return DERIVED not in self.part

    @property
    def is_deterministic(self) -> bool:
        """Whether it is a certificate of the network itself, for which nothing is drawn."""
        return deterministic(self.about, self.part)

    @property
    def is_claim(self) -> bool:
        """Whether it is the published count of a cascade, which proves nothing of the cascade."""
        return claimed(self.about, self.part)


AnyLine = Line[Any]
