"""Label leaking: only a gain is named, paired, with what chance can do."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from robust_cli.reporting.attacked.leaking import label_leaking
from robust_cli.reporting.reading.load import Attacked
from robust_cli.runs.folder import RunFolder


def run(clean: list[int], attacked: dict[tuple[str, float], list[int]], label: int = 1) -> Attacked:
    """Answers by image, the label of all being 1."""
    parts = [("none", 0.0, clean), *((name, budget, answers) for (name, budget), answers in attacked.items())]
    rows = [{"attack": name, "norm": "linf" if name != "none" else np.nan, "budget": budget, "index": 100 + k, "label": label,
             "predicted": p, "robust": int(p == label and clean[k] == label)}
            for name, budget, answers in parts for k, p in enumerate(answers)]
    return Attacked(RunFolder("outputs/some_run"), {}, {}, pd.DataFrame(rows).sample(frac=1, random_state=0))


def test_a_gain_is_named_with_both_accuracies_and_its_paired_error() -> None:
    """10 of 40 become right and 1 becomes wrong: +22.5 points, of differences with mean square 11/40."""
    clean = [1] * 20 + [0] * 20
    after = [1] * 19 + [0] + [1] * 10 + [0] * 10
    (sentence,) = label_leaking(run(clean, {("fgsm", 0.1): after}))
    error = 100 * math.sqrt((11 / 40 - (9 / 40) ** 2) / 40)
    assert sentence.startswith("fgsm at linf 0.1 leaves 72.5 ± 7.1 % of 40 images right, above 50.0 ± 7.9 %")
    assert f"+22.5 ± {error:.1f} points" in sentence
    assert "label leaking" in sentence


def test_no_gain_no_word() -> None:
    clean = [1] * 20 + [0] * 20
    same, worse, swapped = clean, [1] * 10 + [0] * 30, [0] * 20 + [1] * 20
    assert label_leaking(run(clean, {("a", 0.1): same, ("b", 0.1): worse, ("c", 0.1): swapped, ("d", math.inf): worse})) == []


def test_right_only_after_the_attack_counts_although_no_such_image_is_robust() -> None:
    sentences = label_leaking(run([0] * 9 + [1], {("fgsm", 0.2): [1] * 10, ("fgsm", 0.1): [0] * 9 + [1]}))
    assert len(sentences) == 1
    assert "linf 0.2" in sentences[0]


@pytest.mark.parametrize(("gains", "leaks"), [(2, False), (6, True)])
def test_a_gain_that_chance_can_do_is_said_to_be_one(gains, leaks) -> None:
    (sentence,) = label_leaking(run([0] * 100, {("x", math.inf): [1] * gains + [0] * (100 - gains)}))
    assert ("label leaking" in sentence) == leaks
    assert ("no more than chance can do" in sentence) != leaks
    assert "x at closest" in sentence
