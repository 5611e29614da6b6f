"""Run folders made by hand, in the shape that train, certify and attack write."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from robust_cli.runs.folder import RunFolder

CLASSES = 3


class Builder:
    """Writes small run folders below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _begin(self, name: str, command: str, about: dict[str, Any], state: str = "complete") -> RunFolder:
        folder = RunFolder(self.root / name)
        folder.path.mkdir(parents=True)
        folder.set_state(state, command)
        folder.write_about({"command": command, **about})
        folder.provenance.write_text(
            json.dumps(
                {
                    "command_line": ["robust", command, "a=b c"],
                    "commit": "abc123",
                    "seed": about["seed"],
                    "versions": {"torch": "2"},
                    "data_sha256": "d0",
                }
            )
        )
        folder.config.write_text(yaml.safe_dump({"seed": about["seed"]}))
        return folder

    def train(
        self,
        name: str,
        *,
        seed: int = 0,
        regime: str = "stability",
        weight: float = 2.0,
        fingerprint: str = "f0",
        state: str = "complete",
        settings: dict[str, Any] | None = None,
        terms: dict[str, list[float]] | None = None,
        **about: Any,
    ) -> RunFolder:
        """settings: the regime's, in place of stability's; terms: what metrics.csv holds between loss and train_accuracy, and
        loss itself, a value for each of two epochs."""
        folder = self._begin(
            name,
            "train",
            {
                "dataset": "mnist",
                "model": "cnn_small",
                "regime": regime,
                "seed": seed,
                "model_fingerprint": fingerprint,
                "training_noise_std": 0.5,
                "classes": CLASSES,
                "parameters": 1234,
                "images": 60,
                **about,
            },
            state,
        )
        own = {"_target_": "x.Stability", "noise_std": 0.5, "weight": weight} if settings is None else settings
        folder.config.write_text(
            yaml.safe_dump(
                {
                    "seed": seed,
                    "device": "cpu",
                    "dataset": {"_target_": "x.Mnist", "root": f"/data/{seed}"},
                    "regime": own,
                    "training": {"epochs": 2},
                }
            )
        )
        loss, *rest = {"loss": [1.5, 0.5], **(terms or {})}.items()
        _write(
            folder.metrics,
            [
                "epoch",
                "step",
                "seconds",
                "learning_rate",
                "loss",
                *(term for term, _ in rest),
                "train_accuracy",
                "validation_loss",
                "validation_accuracy",
            ],
            [[k + 1, 10 * k + 10, 2.5, 0.01, loss[1][k], *(values[k] for _, values in rest), accuracy, "", ""]
             for k, accuracy in enumerate((0.6, 0.9))],
        )
        return folder

    def certify(
        self,
        name: str,
        rows: dict[str, list[tuple[int, int, int, float]]],
        *,
        majority: dict[int, int] | None = None,
        largest: float = 1.5797,
        state: str = "complete",
        later: dict[str, Any] | None = None,
        plan: dict[str, Any] | None = None,
        **about: Any,
    ) -> RunFolder:
        """rows: by certificate, (index, label, predicted, radius) each; later: columns that older runs lack (norm, prediction,
        draws, stopped), a value for all rows or one by index; plan: what plan.json holds."""
        facts = {
            **_of_model(),
            "noise_std": 0.5,
            "seed": 0,
            "subset": "all",
            "images": 4,
            "samples": 1000,
            "selection_samples": 100,
            "failure_probability": 0.001,
            "discount": None,
            **about,
            "certificates": {
                c: {
                    "bounds": "two_class" if c == "neyman_pearson" else "runner_up",
                    "interval": "clopper_pearson",
                    "multiplicity": "pair",
                    "statement": f"{c} holds <with> probability",
                    "largest_radius": largest,
                }
                for c in rows
            },
        }
        folder = self._begin(name, "certify", facts, state)
        written = [
            [
                c,
                facts["certificates"][c]["bounds"],
                i,
                label,
                p,
                (majority or {}).get(i, max(p, 0)),
                0.9,
                0.1,
                repr(float(r)),
                *(v.get(i, v.get(c)) if isinstance(v, dict) else v for v in (later or {}).values()),
            ]
            for c, group in rows.items()
            for i, label, p, r in group
        ]
        _write(
            folder.certificates,
            ["certificate", "bounds", "index", "label", "predicted", "majority", "p1_lower", "p2_upper", "radius",
             *(later or {})],
            written,
        )
        if plan is not None:
            (folder.path / "plan.json").write_text(json.dumps(plan))
        return folder

    def attack(
        self,
        name: str,
        outcomes: list[dict[str, Any]],
        *,
        originals: np.ndarray | None = None,
        adversarial: dict[tuple[str, float], np.ndarray] | None = None,
        state: str = "complete",
        **about: Any,
    ) -> RunFolder:
        """outcomes: attack, budget, index, label, robust and optionally predicted, norm, l2, linf, forward, backward, votes."""
        names = dict.fromkeys(o["attack"] for o in outcomes if o["attack"] != "none")
        facts = {
            **_of_model(),
            "classifier": "smoothed",
            "noise_std": 0.5,
            "gradient_draws": 10,
            "objective": "mean_loss",
            "decision_votes": 1000,
            "seed": 0,
            "subset": "all",
            "images": 4,
            "attacks": {n: {"norm": "l2", "source": "a paper", "settings": {"steps": 40}} for n in names},
            **about,
        }
        folder = self._begin(name, "attack", facts, state)
        classes = int(facts["classes"])
        _write(
            folder.outcomes,
            [
                "attack",
                "norm",
                "budget",
                "index",
                "label",
                "predicted",
                "robust",
                "l2",
                "linf",
                "forward",
                "backward",
                *(f"votes_{k}" for k in range(classes)),
            ],
            [
                [
                    o["attack"],
                    o.get("norm", "l2"),
                    o["budget"],
                    o["index"],
                    o["label"],
                    o.get("predicted", o["label"] if o["robust"] else (o["label"] + 1) % classes),
                    o["robust"],
                    o.get("l2", 0.0),
                    o.get("linf", 0.0),
                    o.get("forward", 0),
                    o.get("backward", 0),
                    *o.get("votes", [""] * classes),
                ]
                for o in outcomes
            ],
        )
        if originals is not None:
            np.save(folder.originals, originals)
            np.save(folder.indices, np.array(sorted({o["index"] for o in outcomes}), dtype=np.int64))
            (folder.path / "adversarial").mkdir()
            for (attack, budget), images in (adversarial or {}).items():
                np.save(folder.adversarial(attack, budget), images)
        return folder


def _of_model() -> dict[str, Any]:
    return {
        "dataset": "mnist",
        "model": "cnn_small",
        "regime": "stability",
        "train_run": "",
        "train_seed": 0,
        "model_fingerprint": "f0",
        "training_noise_std": 0.5,
        "precision": "fp32",
        "device": "cpu",
        "classes": CLASSES,
    }


def _write(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


@pytest.fixture(scope="session")
def builder() -> type[Builder]:
    return Builder


@pytest.fixture
def build(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "runs")
