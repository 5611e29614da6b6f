"""The table of certificates held against attacks."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from robust_cli.reporting.checked.crosscheck import Check
from robust_cli.reporting.tables import Table

_CHECK = (
    "Compared: images with a stored adversarial image at a distance (in the certificate's norm) below their radius R. "
    "Broken: another class has more of the decision votes than the certified one (one-sided binomial test at 1e-6 / "
    "(classes - 1)). Allowed: 99.9 % quantile of false certificates among the compared. Beyond the radius: images attacked at a "
    "distance of R or more, and those of them where another class wins by the same test; with none the attack proves nothing. "
    "Too few votes: outcomes with fewer than 1000 votes, which are not compared.")


def crosscheck_table(checks: Sequence[tuple[str, Check]]) -> Table:
    """A row per certificate and run that has been attacked."""
    columns = ["", "compared", "broken", "allowed", "beyond the radius", "of them fooled", "too few votes", "verdict"]
    rows = [[title, *map(str, (c.compared, len(c.broken), c.allowed, c.beyond, c.fooled_beyond, c.few_votes)),
             c.verdict.split(":")[0].split(".")[0]] for title, c in checks]
    data = [{"line": title, "compared": c.compared, "broken": len(c.broken), "allowed": c.allowed, "beyond": c.beyond,
             "fooled_beyond": c.fooled_beyond, "few_votes": c.few_votes, "verdict": c.verdict} for title, c in checks]
    return Table("crosscheck", "Certified accuracy checked against attacked", pd.DataFrame(data), columns, rows, [_CHECK])
