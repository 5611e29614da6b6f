"""Which smoothed classifier a run's about.json tells of: where its noise enters, and what is asked of its draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def noise_layer(about: Mapping[str, Any]) -> str:
    """Where the noise enters: 'input', or the name of the layer after which it is added."""
    return str((about.get("smoothing") or {}).get("layer") or "input")


def of_votes(about: Mapping[str, Any], certificate: str) -> bool:
    """Whether a certificate is of the classifier that votes decide, as attacks' outcomes are; else it is of the class of the
    largest expected softmax."""
    return str(about.get("certificates", {}).get(certificate, {}).get("scores") or "votes") == "votes"
