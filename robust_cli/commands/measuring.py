"""What `robust attack` measures besides outcomes: a table for each measure, with its figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from robust_cli.runs.folder import RunFolder

if TYPE_CHECKING:
    from robust_cli.attacks.classifiers import Classifier
    from robust_cli.composing.subject import Subject


def measure(measures: Mapping[str, Any], classifier: Classifier, attacks: Mapping[str, Any],
            budgets: Mapping[str, Sequence[float]], subject: Subject, config: DictConfig, folder: RunFolder) -> None:
    """Take the measures that are not on the disk yet: ``<name>.csv`` in the run's folder, whole or not at all."""
    if not measures:
        return
    import pandas as pd

    from robust_cli.evaluation.plan import sweep
    from robust_cli.measures.measure import Material

    planned: dict[str, list[tuple[float, Any]]] = {name: [] for name in attacks}
    for name, budget, attack in sweep(attacks, budgets):
        planned[name].append((budget, attack))

    def adversarial(attack: str, budget: float) -> np.ndarray:
        return np.load(folder.adversarial(attack, budget), mmap_mode="r", allow_pickle=False)

    material = Material(classifier, subject.images, planned, pd.read_csv(folder.outcomes), adversarial,
                        lambda: subject.dataset.split("train"), config.seed, config.batch_size, subject.device)
    for name, taken in measures.items():
        path = folder.table(name)
        if not path.exists():
            part = path.with_name(path.name + ".part")
            taken(material).to_csv(part, index=False)
            part.replace(path)
