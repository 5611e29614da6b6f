"""The numbers that the papers print, shipped with the package, to stand beside ours."""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

OURS = "this report"


def published(name: str) -> pd.DataFrame:
    """One of the shipped tables (README.md beside them names them and their sources)."""
    with (files("robust_cli.reporting.published") / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)
