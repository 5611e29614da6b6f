"""Which classifier a run's about.json tells of, and what kind of proof its certificates are.

A smoothed classifier: where its noise enters, and what is asked of its draws. The network itself, without noise: proofs that
are deterministic, of the largest radius or of one that was asked for (preset), and the published count of a cascade, a claim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

DETERMINISTIC = "deterministic"  # the bounds of a certificate that draws nothing


def noise_layer(about: Mapping[str, Any]) -> str:
    """Where the noise enters: 'input', or the name of the layer after which it is added."""
    return str((about.get("smoothing") or {}).get("layer") or "input")


def of_softmax(about: Mapping[str, Any], certificate: str) -> bool:
    """Whether a certificate is of the class of the largest expected softmax: another classifier than that which votes, as
    attacks' outcomes, decide."""
    return str(_own(about, certificate).get("scores") or "votes") == "softmax"


def of_network(about: Mapping[str, Any]) -> bool:
    """Whether a run is of the network itself, without noise."""
    return about.get("classifier") == "base" or any(deterministic(about, name) for name in about.get("certificates", {}))


def deterministic(about: Mapping[str, Any], certificate: str) -> bool:
    """Whether a certificate bounds the network itself: nothing is drawn, and nothing fails by chance."""
    return _own(about, certificate).get("bounds") == DETERMINISTIC


def claimed(about: Mapping[str, Any], certificate: str) -> bool:
    """Whether a certificate is the published count of a cascade, which proves nothing of the cascade."""
    return _own(about, certificate).get("cascade") == "published"


def preset(about: Mapping[str, Any], certificate: str) -> float | None:
    """The radius that a deterministic certificate was asked for, so that its radii are 0 or that; None where it looked for the
    largest."""
    radius = _own(about, certificate).get("radius")
    return float(radius) if radius is not None and deterministic(about, certificate) else None


def ceiling(about: Mapping[str, Any], certificate: str) -> float:
    """The largest radius that a certificate could prove: what unanimous votes would, or what was asked for, or that of a
    cascade's stages; inf for none, NaN where the run does not say."""
    if deterministic(about, certificate):
        return preset(about, certificate) or float(_own(about, certificate).get("largest_radius") or math.inf)
    value = _own(about, certificate).get("largest_radius")
    return math.nan if value is None else float(value)


def _own(about: Mapping[str, Any], certificate: str) -> Mapping[str, Any]:
    return about.get("certificates", {}).get(certificate) or {}
