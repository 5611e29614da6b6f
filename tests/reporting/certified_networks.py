"""Certifications of the network itself, made by hand in the shape that certify writes with a deterministic certificate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

STATEMENT = "every image of the ball is given this class by the network itself; nothing is drawn"


def network(build: Any, name: str, rows: list[tuple[int, int, int, float]], *, certificate: str = "lp_dual", norm: str = "l2",
            radius: float | None = None, cascade: str | None = None, **about: Any) -> Any:
    """rows: (index, label, predicted, radius) each; radius: the one asked for (rows hold 0 or it); the folder."""
    folder = build.certify(name, {certificate: rows}, majority={i: p for i, _, p, _ in rows},
                           later={"norm": norm, "prediction": {i: p for i, _, p, _ in rows}, "draws": 0, "stopped": "complete"},
                           **{"regime": "lp_dual", "training_noise_std": None, "model_fingerprint": "g0", "images": len(rows),
                              "noise_std": None, "noise": None, "samples": 0, "selection_samples": 0, "failure_probability": 0,
                              "comparable": radius is None, "classifier": "base", **about})
    said = folder.read_about()
    said["certificates"][certificate] = {
        "kind": "LpDual", "norm": norm, "bounds": "deterministic", "statement": STATEMENT, "largest_radius": None,
        "radius": radius, "relaxation": "parallel", "cascade": cascade}
    folder.write_about(said)
    table = pd.read_csv(folder.certificates, dtype={"radius": str})
    table.assign(bounds="deterministic", p1_lower=np.nan, p2_upper=np.nan).to_csv(folder.certificates, index=False)
    return folder


def attack_on_network(build: Any, name: str, moved: dict[int, tuple[int, int, float]], budget: float = 1.0, **about: Any) -> Any:
    """moved: by image (label, what the network answers there, the l2 distance it is moved); images of four pixels."""
    originals = np.zeros((len(moved), 1, 2, 2), np.float32)
    images = originals + np.array([distance / 2 for _, _, distance in moved.values()], np.float32)[:, None, None, None]
    outcomes = [{"attack": a, "budget": b, "index": i, "label": label, "predicted": found if b else label,
                 "robust": int(not b or found == label), "l2": distance * bool(b)}
                for a, b in (("none", 0), ("pgd_l2", budget)) for i, (label, found, distance) in moved.items()]
    return build.attack(name, outcomes, originals=originals, adversarial={("none", 0): originals, ("pgd_l2", budget): images},
                        **{"regime": "lp_dual", "training_noise_std": None, "model_fingerprint": "g0", "images": len(moved),
                           "classifier": "base", "noise_std": None, "decision_votes": None, "gradient_draws": None,
                           "objective": None, **about})
