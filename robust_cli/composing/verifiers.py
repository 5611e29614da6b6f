"""Certificates that are proofs of the network itself: which of those chosen are, and what has no place beside them.

A class says so by the attribute ``verifies``. What it proves holds for the base classifier without any chance, so a run of
verifiers has no noise, no draws and no failure probability, and no certificate of a smoothed classifier beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from robust_cli.composing.build import target_of
from robust_cli.composing.catalogue import choice_of
from robust_cli.composing.schema import Certify
from robust_cli.messages import UserError

OF_VOTES = ("noise_std", "noise", "smoothing.layer", "samples", "selection_samples", "sampling", "failure_probability",
            "discount", "workers")  # settings of certify that only noisy votes have


def verifiers(certificates: Mapping[str, Any]) -> list[str]:
    """Those of some certificates' nodes, by name, whose class is a verifier. Raises UserError for a class that is not there."""
    return [str(name) for name, node in certificates.items()
            if getattr(target_of(node, f"certificate.{name}"), "verifies", False)]


def check_verifiers(plain: Mapping[str, Any], typed: Collection[str]) -> None:
    """Raise UserError where a certify config has verifiers and anything that they leave no place for.

    ``typed``: the paths of what was typed, so that a setting of the noisy votes is refused at its default value as well.
    """
    found = verifiers(plain["certificate"])
    if not found:
        return
    others, one = [name for name in plain["certificate"] if name not in found], f"certificate={found[0]}"
    if others:
        raise UserError(f"certificate: expected verifiers alone or none, got {', '.join(found)}, which prove the network itself, "
                        f"beside {', '.join(others)}, of the network under noise; certify once for each, report joins the runs")
    for key in OF_VOTES:
        if (value := _asked(plain, key, typed)) is not None:
            raise UserError(f"{key}: {one} proves the network itself, without noise, draws or a failure probability, so that "
                            f"nothing reads it, got {value}; leave it out")
    if plain["precision"] != "fp32":
        raise UserError(f"precision: expected fp32 with {one}, which proves the network of the fp32 weights, got "
                        f"{plain['precision']}")


def _asked(plain: Mapping[str, Any], key: str, typed: Collection[str]) -> Any:
    """The value of a setting that was typed, or is not its default (by an experiment); None where nothing was asked for."""
    was_typed = any(path == key or path.startswith(f"{key}.") or key.startswith(f"{path}.") for path in typed)
    if key == "sampling":
        value = choice_of("sampling", str(plain["sampling"]["_target_"]))
        return value if was_typed or value != "fixed" else None
    parent, _, last = key.rpartition(".")
    value, default = (plain[parent][last], None) if parent else (plain[key], _DEFAULTS[key])
    return value if was_typed or value != default else None


_DEFAULTS = {entry.name: getattr(entry.default, "name", entry.default) for entry in fields(Certify)}
