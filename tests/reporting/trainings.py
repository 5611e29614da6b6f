"""Training runs with the measure of noise robustness beside them, made by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

MEASURE = "robust_cli.measures.noise_robustness.NoiseRobustness"
STANDARD = {"_target_": "robust_cli.regimes.standard.Standard"}


def moment(noise: float, weight: float) -> dict[str, Any]:
    """The settings of the moment regulariser."""
    return {"_target_": "robust_cli.regimes.moment.Moment", "noise_std": noise, "weight": weight}


def folds(noise: float, number: int) -> dict[str, Any]:
    """The settings of fixed noisy copies."""
    return {"_target_": "robust_cli.regimes.noise_augmentation.NoiseAugmentation", "noise_std": noise, "folds": number}


def write_gnr(folder, gnr: float, largest: float = 0.5, images: int = 100) -> None:
    """What the measure leaves, gnr a share of 1, its error one point."""
    names = ("gnr", "gnr_all", "gnr_threshold")
    shares = ("agreement", "accuracy", "all_agree", "within_threshold", "agreement_error", "accuracy_error")
    pd.DataFrame({"noise_std": [0.0, largest], "images": images, "draws": 1, "threshold": 0.1, **dict.fromkeys(shares, 0.9),
                  **dict.fromkeys(names, 100 * gnr), **{f"{name}_error": 1.0 for name in names}},
                 ).to_csv(folder.table("noise_robustness"), index=False)


@dataclass
class Trainings:
    """Writes pairs of runs below the folder of a builder."""

    build: Any
    made: list[Any] = field(default_factory=list)

    def add(self, regime: str, settings: dict[str, Any], test: float, gnr: float, *, measured: bool = True, largest: float = 0.5,
            seed: int = 0, images: int = 10000, **about: Any) -> None:
        """A training (test: its accuracy) and, where measured, an attack run with the measure."""
        k = len(self.made)
        fingerprint, noise = f"{k}" * 12, settings.get("noise_std")
        about = {"model": "lenet", "regime": regime, "training_noise_std": noise, **about}
        self.made.append(self.build.train(f"train{k}", fingerprint=fingerprint, settings=settings, seed=seed, test_accuracy=test,
                                          test_images=images, epochs=15, **about))
        if measured:
            clean = [{"attack": "none", "norm": "", "budget": 0, "index": i, "label": 0, "robust": 1} for i in range(4)]
            of = {"classifier": "base", "noise_std": None, "model_fingerprint": fingerprint, "train_seed": seed,
                  "train_run": f"train{k}", "measures": {"noise_robustness": MEASURE}}
            folder = self.build.attack(f"gnr{k}", clean, **{**about, **of})
            write_gnr(folder, gnr, largest)
            self.made[-1] = (self.made[-1], folder)
