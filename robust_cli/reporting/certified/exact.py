"""What is to be said of certificates of the network itself: exact, without sampling, and of those that are claims.

The published count of a cascade (Wong et al. 2018) counts an image where some stage certifies it as it is. At a shifted image
another stage may answer, so nothing is proven of the cascade (Mangal et al. 2023, "On the perils of cascading robust
classifiers"): such a line is a claim, is drawn dashed, and an image that breaks it is no error of the certificates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from robust_cli.reporting.certified.accuracy import Summary
from robust_cli.reporting.estimates import Estimate
from robust_cli.reporting.lines.facets import EXACT
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.reading.about import preset
from robust_cli.reporting.reading.load import Certified
from robust_cli.reporting.tables import EMPTY, number, percent, radius

PAGE = 'docs/messages.md, "The published count of a cascade is a claim"'
NEVER = "never"
_EXACT = ("Lines of the network itself are exact, no sampling: their radii hold without a failure probability, natural is the "
          "network's own class, and it never abstains.")
CLAIM = ("Claimed, drawn dashed: the published count of a cascade, an image with some stage that certifies it. At a shifted "
         "image another stage may answer, so it is no certificate of the cascade (Mangal et al. 2023).")


CERTIFIED = ("Certified accuracy at r: right, radius at least r (at 0: more than 0), over all images. Average radius: wrong "
             "images count 0.")
_WITHOUT_DRAWS = ("", "certificate", "norm", "bounds", "sampling", "largest provable radius")


def columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """A table of certificates without what only draws have: noise, votes, intervals, failures and undecided images."""
    kept = [k for k, name in enumerate(names) if name in _WITHOUT_DRAWS]
    return [names[k] for k in kept], [[row[k] for k in kept] for row in rows]


def notes(lines: Sequence[Line[Certified]]) -> list[str]:
    """The footnotes that these lines need."""
    return [*[_EXACT] * any(line.is_deterministic for line in lines), *[CLAIM] * any(line.is_claim for line in lines)]


def abstains(line: Line[Certified], share: Estimate) -> str:
    """A share of images without an answer; a network always answers."""
    return NEVER if line.is_deterministic else percent(share)


def ceiling(largest: float) -> str:
    """The largest provable radius in a table."""
    return "no ceiling" if math.isinf(largest) else radius(largest)


def conclusion(line: Line[Certified], summary: Summary) -> str:
    """What a certify run says at its end of one certificate: what it could prove, and how often it may be wrong."""
    if line.is_claim:
        return f"{line.part}: {EXACT}; a claim of the published count, no certificate of the cascade"
    if line.is_deterministic:
        asked_for = preset(line.about, line.part)
        asked = "" if asked_for is None else f", for the radius {radius(asked_for)} asked for"
        return f"{line.part}: {EXACT}; proven of {_whose(line)}{asked}, without a failure probability"
    return (f"{line.part}: largest radius these votes could prove {radius(summary.largest_radius)}; false certificates among "
            f"{len(line.tables[0])} images: {summary.false_expected:.2g} expected, at most {summary.false_quantile} with 99.9 %")


def _whose(line: Line[Certified]) -> str:
    """Of what a certificate is proven, and of a cascade by what."""
    is_cascade = bool(line.about.get("certificates", {}).get(line.part, {}).get("cascade"))
    return "the cascade (all its networks name the class, and the last certifies it)" if is_cascade else "the network itself"


def false_ones(line: Line[Certified], summary: Summary) -> list[str]:
    """Expected number and quantile of false certificates in a table: none where nothing is drawn, unknown of a claim."""
    if line.is_deterministic:
        return [EMPTY] * 2 if line.is_claim else ["none"] * 2
    return [number(summary.false_expected, 2), EMPTY if summary.false_quantile is None else str(summary.false_quantile)]


def warnings(lines: Sequence[Line[Certified]]) -> list[str]:
    """That a claim is none of the certificates, run by run."""
    return [f"{run.folder.path.name}: {line.part} is the published count of a cascade, which counts an image where some stage "
            "certifies it as it is; an attack may bring it to another stage's answer inside that radius. It is a claim, no "
            f"certificate; certify with the sound rule, certificate=[lp_dual] ({PAGE})."
            for line in lines if line.is_claim for run in line.runs]
