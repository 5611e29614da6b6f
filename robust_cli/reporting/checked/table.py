"""The table of certificates held against attacks."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from robust_cli.reporting.checked.crosscheck import Check
from robust_cli.reporting.tables import EMPTY, Table

_CHECK = (
    "Compared: images with a stored adversarial image at a distance (in the certificate's norm) below their radius R. "
    "Broken: another class has more of the decision votes than the certified one (one-sided binomial test at 1e-6 / "
    "(classes - 1)). Allowed: 99.9 % quantile of false certificates among the compared. Beyond the radius: images attacked at a "
    "distance of R or more, and those of them where another class wins by the same test; with none the attack proves nothing. "
    "Too few votes: outcomes with fewer than 1000 votes, which are not compared.")
_EXACT = ("Certificates of the network itself are compared with attacks on the network itself, by its answers instead of votes, "
          "at distances up to R itself; none may be broken.")
_CLAIMS = ("Claims broken by an attack: of the published count of a cascade, which is no certificate, so that no bound is wrong "
           "where one breaks; their number is how many of the compared claims do not hold.")


def crosscheck_table(checks: Sequence[tuple[str, Check]]) -> Table:
    """A row per certificate and run that has been attacked."""
    claims = any(c.claimed for _, c in checks)
    columns = ["", "compared", "broken", "allowed", *["claims broken by an attack"] * claims, "beyond the radius",
               "of them fooled", "too few votes", "verdict"]
    rows, data = [], []
    for title, c in checks:
        broken, allowed, of_claims = ("", "", str(len(c.broken))) if c.claimed else (str(len(c.broken)), str(c.allowed), "")
        rows.append([title, str(c.compared), *(cell or EMPTY for cell in (broken, allowed, *[of_claims] * claims)), str(c.beyond),
                     str(c.fooled_beyond), EMPTY if c.exact else str(c.few_votes), c.verdict.split(":")[0].split(".")[0]])
        data.append({"line": title, "compared": c.compared, "broken": None if c.claimed else len(c.broken),
                     "allowed": None if c.claimed else c.allowed, "claims_broken": len(c.broken) if c.claimed else None,
                     "beyond": c.beyond, "fooled_beyond": c.fooled_beyond, "few_votes": c.few_votes, "verdict": c.verdict})
    frame = pd.DataFrame(data).astype(dict.fromkeys(("broken", "allowed", "claims_broken"), "Int64"))
    return Table("crosscheck", "Certified accuracy checked against attacked", frame, columns, rows,
                 [_CHECK, *[_EXACT] * any(c.exact for _, c in checks), *[_CLAIMS] * claims])
