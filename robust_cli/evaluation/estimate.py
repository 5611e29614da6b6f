"""How long an evaluation will take, from each attack on a few images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.datasets.images import Images
from robust_cli.evaluation.outcomes import Decide, run
from robust_cli.evaluation.plan import sweep
from robust_cli.smoothing.noise import ImageDraws

_FEW = 4


def estimated_seconds(attacks: Mapping[str, Any], classifier: Classifier, images: Images, budgets: Mapping[str, Sequence[float]],
                      batch_size: int, decide: Decide | None) -> float:
    """Seconds that `evaluate` will take at most on all images and budgets, good to a factor: as if each budget were attacked from
    the start. Its draws are used for nothing else."""
    few = images.select(torch.arange(min(_FEW, batch_size, len(images))), images.subset)
    pixels, indices, seconds = few.float(), few.indices.tolist(), 0.0
    plan = sweep(attacks, budgets)
    for name in attacks:
        of_attack = [attack for found, _, attack in plan if found == name]
        draws = ImageDraws(pixels.device, 0, f"estimate/{name}", indices)
        start = time.perf_counter()
        run(of_attack[0], classifier, pixels, few.labels, draws)
        if decide is not None:
            decide(pixels, indices, f"estimate/{name}")
        seconds += (time.perf_counter() - start) * len(of_attack)
    return seconds * len(images) / len(few)
